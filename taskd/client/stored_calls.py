"""Calls about stored tasks, when there are several task servers: each of these has tasks of its own."""

from __future__ import annotations

from zlib import crc32

from taskd.errors import InvalidParams, TaskdError
from taskd.model import Call, Failure, Outcome, SubmitOptions
from taskd.protocol.method_names import CANCEL, EVENTS, GET, RETRY, SUBMIT, SUBMIT_BATCH, WAIT, WHY
from taskd.protocol.methods import bound

__all__ = ["home_of", "is_unknown", "names_stored"]

_BY_ID = frozenset({CANCEL, EVENTS, GET, RETRY, WAIT, WHY})

_POSITIONS = {
    SUBMIT: ("function", "args", "options", "token"),
    SUBMIT_BATCH: ("function", "args", "options", "then", "token"),
}
"""The names of the parameters of each method that submits, in order."""


def names_stored(call: Call) -> bool:
    """Return whether a call is about a stored task or batch, which one task server has."""
    return call.function in _BY_ID


def is_unknown(outcome: Outcome) -> bool:
    """Return whether a task server does not know the task or batch that a call has named."""
    return (
        isinstance(outcome, Failure)
        and outcome.code == InvalidParams.code
        and isinstance(outcome.data, dict)
        and outcome.data.get("argument") in ("task", "batch")
    )


def home_of(call: Call, servers: int) -> int | None:
    """Return the number of the server that must get a submit, so that it joins the one before it.

    Submits with the same token, or of a function with the same key, have the same
    server. Returns None for any other call, also one whose arguments are wrong.
    """
    positions = _POSITIONS.get(call.function)
    if positions is None:
        return None
    try:
        args, named = bound(call)
    except TaskdError:
        return None
    submitted = dict(zip(positions, args, strict=False)) | named
    token, options = submitted.get("token"), submitted.get("options")
    if call.function == SUBMIT and isinstance(options, SubmitOptions) and options.key is not None:
        return _number(f"key\0{submitted['function']}\0{options.key}", servers)
    return None if token is None else _number(f"token\0{token}", servers)


def _number(identity: str, servers: int) -> int:
    return crc32(identity.encode("utf-8", "replace")) % servers
