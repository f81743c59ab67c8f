"""Events of stored tasks and batches, as notifications (``taskd.event``) and in lists."""

from __future__ import annotations

from typing import Literal

import msgspec

from taskd.errors import ParseError

__all__ = [
    "Kind",
    "ParsedEvent",
    "event_line",
    "event_params",
    "parse_event",
]

Kind = Literal["task", "batch"]
"""What an event is about: the name of the parameter that has its id."""


def event_params(kind: Kind, id: str, seq: int, event: str, at: float, data: bytes) -> bytes:  # noqa: A002
    """Encode an event as a JSON object. `data` is JSON text of an object, whose members are added.

    These must not be named like the event's own: task, batch, seq, event and at.
    """
    more = b"," + data[1:] if len(data) > len(b"{}") else b"}"
    own = (kind.encode(), msgspec.json.encode(id), seq, msgspec.json.encode(event), msgspec.json.encode(at))
    return b'{"%b":%b,"seq":%d,"event":%b,"at":%b%b' % (*own, more)


def event_line(params: bytes) -> bytes:
    """Return the notification, without its LF, of an event that `event_params` has encoded."""
    return b'{"jsonrpc":"2.0","method":"taskd.event","params":%b}' % params


class ParsedEvent(msgspec.Struct, frozen=True):
    """An event as a task server has sent it; `data` is JSON text of an object."""

    kind: Kind
    id: str
    seq: int
    event: str
    at: float
    data: bytes


def parse_event(params: bytes) -> ParsedEvent:
    """Read an event as `event_params` has encoded it. Raises `ParseError`."""
    try:
        members = _members.decode(params)
        kind: Kind = "batch" if "batch" in members else "task"
        own = [msgspec.json.decode(members.pop(name)) for name in (kind, "seq", "event", "at")]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
        raise ParseError(f"no event: {error}") from None
    id_, seq, event, at = own
    if not (isinstance(id_, str) and isinstance(seq, int) and isinstance(event, str) and _is_number(at)):
        raise ParseError("no event: a member has the wrong type")
    return ParsedEvent(kind, id_, seq, event, at, msgspec.json.encode(members))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
