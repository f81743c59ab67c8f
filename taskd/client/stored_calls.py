"""Calls about stored tasks, when there are several task servers: each of these has tasks of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

from taskd.errors import InvalidParams, TaskdError
from taskd.model import NO_SUBMIT_OPTIONS, Call, Failure, Outcome, SubmitOptions
from taskd.protocol.methods import CANCEL, bound
from taskd.protocol.stored_methods import EVENTS, GET, RETRY, SUBMIT, SUBMIT_BATCH, WAIT, WHY

__all__ = ["home_of", "is_unknown", "names_stored"]

_BY_ID = frozenset({CANCEL, EVENTS, GET, RETRY, WAIT, WHY})

Identity = tuple[str, ...]
"""What makes two submits one task: the function and the key, or the token. Empty if nothing does."""


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
    identify = _IDENTITIES.get(call.function)
    if identify is None:
        return None
    try:
        args, named = bound(call)
    except TaskdError:
        return None
    identity = identify(*args, **named)
    return crc32("\0".join(identity).encode("utf-8", "replace")) % servers if identity else None


def _of_task(
    function: str, args: Any = None, options: SubmitOptions = NO_SUBMIT_OPTIONS, token: str | None = None
) -> Identity:
    if options.key is not None:
        return ("key", function, options.key)
    return () if token is None else ("token", token)


def _of_batch(
    function: str, args: Any, options: Any = None, then: str | None = None, token: str | None = None
) -> Identity:
    return () if token is None else ("token", token)


_IDENTITIES: dict[str, Callable[..., Identity]] = {SUBMIT: _of_task, SUBMIT_BATCH: _of_batch}
