"""`taskd.cancel` between clients and gateways: who is named by it, and what is answered."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from taskd.errors import Cancelled, InvalidParams
from taskd.functions.registry import RESERVED
from taskd.model import Failure, Outcome, Result

__all__ = ["CANCEL", "WAS_DONE", "cancel_line", "check_id", "how_cancelled", "id_to_cancel", "names_task"]

CANCEL = f"{RESERVED}cancel"

WAS_DONE = Result(Raw(b'{"was":"done"}'))
"""The answer where the request had ended already, or is not known."""

_members = msgspec.json.Decoder(dict[str, Raw])
_ID_STARTS = b'"-0123456789'


def cancel_line(request_id: bytes) -> bytes:
    """The notification, without its LF, that asks for a request of its connection to be cancelled."""
    return b'{"jsonrpc":"2.0","method":"taskd.cancel","params":{"id":%b}}' % request_id


def _named(args: Raw | None) -> dict[str, Raw]:
    try:
        return _members.decode(args or b"{}")
    except msgspec.ValidationError:
        return {}  # an array


def names_task(args: Raw | None) -> bool:
    """Whether a task of the task server is named, and not a request of the connection."""
    return _named(args).keys() == {"task"}


def id_to_cancel(args: Raw | None) -> bytes:
    """The JSON text of the id that is named. Raises `InvalidParams`."""
    named = _named(args)
    if named.keys() != {"id"}:
        raise InvalidParams(f"{CANCEL} takes either the id of a request of this connection, or a task")
    request_id = bytes(named["id"])
    check_id(request_id)
    return request_id


def check_id(request_id: bytes) -> None:
    """Raise `InvalidParams` where this JSON text cannot be the id of a request."""
    if request_id[0] not in _ID_STARTS:
        raise InvalidParams(f"{CANCEL}: an id is a string or a number", argument="id", expected="str | float")


def how_cancelled(outcome: Outcome) -> Result:
    """The answer where the request that was named ended so."""
    if (
        isinstance(outcome, Failure)
        and outcome.code == Cancelled.code
        and isinstance(outcome.data, dict)
        and "was" in outcome.data
    ):
        return Result(Raw(msgspec.json.encode(outcome.data)))
    return WAS_DONE
