"""The list of the functions (``taskd.functions``), for callers whose tokens cover only some of them.

Whatever backend has the functions, the task server of this process or others elsewhere, each caller
sees those that it may call. Pages, the OpenAPI document and completions are made from that list.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from msgspec import Raw
from twisted.logger import Logger

from taskd.errors import InternalError
from taskd.model import Failure, Grant, Outcome, Result
from taskd.protocol.requests import Request
from taskd.server.methods import Requester, granted

__all__ = ["asked_by", "covered"]

_log = Logger(namespace="taskd.gate")


class _Named(msgspec.Struct):
    """The description of a function, as far as it is looked at."""

    name: str


_list = msgspec.json.Decoder(list[Raw])
_named = msgspec.json.Decoder(_Named)

_UNREADABLE = Failure.of(InternalError("the list of functions cannot be read; see the log"))


def asked_by(requester: Requester, request: Request[Any]) -> Requester:
    """Return whom to answer a request for the list: the requester, or what leaves out functions for it."""
    grant = granted(requester, request.options)
    if grant.functions is None or request.is_notification:  # which has an empty answer
        return requester
    return cast("Requester", _Covered(requester, grant))


class _Covered:
    """A requester in all but the answer to one request, a list that it gets without what is not covered."""

    def __init__(self, requester: Requester, grant: Grant) -> None:
        self._requester = requester
        self._grant = grant

    def task_ended(self, key: Any, outcome: Outcome) -> None:
        """Answer with the functions that are covered."""
        self._requester.task_ended(key, covered(outcome, self._grant))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._requester, name)


def covered(outcome: Outcome, grant: Grant) -> Outcome:
    """Return the answer to ``taskd.functions`` without the functions that a grant does not cover.

    A failure stays what it is; what is no list of functions becomes one.
    """
    if not isinstance(outcome, Result):
        return outcome
    try:
        kept = [bytes(each) for each in _list.decode(outcome.value) if grant.covers(_named.decode(each).name)]
    except msgspec.DecodeError:
        _log.failure("the list of functions cannot be read")
        return _UNREADABLE
    return Result(Raw(b"[%b]" % b",".join(kept)))
