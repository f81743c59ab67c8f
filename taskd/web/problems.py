"""Problems: the errors of the HTTP API, as RFC 9457 has them, with the codes of docs/protocol.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from taskd.errors import (
    Busy,
    Cancelled,
    InternalError,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    NotAllowed,
    ParseError,
    ShuttingDown,
    TaskdError,
    TaskFailed,
    TimedOut,
    TooLarge,
    Unreachable,
    WorkerLost,
    error_name,
)
from taskd.model import Failure

__all__ = ["PHRASES", "PROBLEM_TYPE", "Problem", "problem_of"]

PROBLEM_TYPE = "application/problem+json"

RETRY_AFTER = 1
"""Seconds after which a client should try again that was refused by a server which stops or cannot store."""

PHRASES = {
    200: "OK",
    202: "Accepted",
    204: "No Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
"""The phrases of the statuses that the gateway uses, by RFC 9110: twisted.web knows older ones."""

_STATUSES = {
    ParseError.code: 400,
    InvalidRequest.code: 400,
    InvalidParams.code: 400,
    MethodNotFound.code: 501,  # a task server that is older than its gateway
    InternalError.code: 500,
    TaskFailed.code: 500,
    TimedOut.code: 504,
    Cancelled.code: 409,
    WorkerLost.code: 502,
    Busy.code: 429,
    ShuttingDown.code: 503,
    TooLarge.code: 413,
    Unreachable.code: 502,
    NotAllowed.code: 403,
}

_CHALLENGES = {
    "no token": "Bearer",
    **dict.fromkeys(("unknown", "expired", "malformed"), 'Bearer error="invalid_token"'),
}
"""The header WWW-Authenticate (RFC 6750, 3) by the reason why a token is not accepted."""

_OWN_MEMBERS = frozenset({"type", "title", "status", "detail", "code"})


class Problem(Exception):
    """An answer of the HTTP API that is an error: its `status`, and the members of its JSON object.

    `detail` is a sentence for a person. `code` is that of the error in
    docs/protocol.md, None if the error is one of HTTP alone; `data` are the members of that
    error's data. `headers` go with the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        code: int | None = None,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        self.data = data or {}
        self.headers = dict(headers or {})

    @property
    def body(self) -> bytes:
        """The JSON text of the problem."""
        name = None if self.code is None else error_name(self.code)
        members: dict[str, Any] = {
            "type": "about:blank" if name is None else f"urn:taskd:{name.replace(' ', '_')}",
            "title": PHRASES[self.status] if name is None else name,
            "status": self.status,
            "detail": self.detail,
        }
        if self.code is not None:
            members["code"] = self.code
        members.update((key, value) for key, value in self.data.items() if key not in _OWN_MEMBERS)
        return msgspec.json.encode(members)


def problem_of(error: Failure | TaskdError, statuses: Mapping[int, int] | None = None) -> Problem:
    """Return the problem for an error; `statuses` by its code go before the usual ones."""
    failure = Failure.of(error) if isinstance(error, TaskdError) else error
    status = (statuses or {}).get(failure.code) or _STATUSES.get(failure.code, 500)
    data = failure.data if isinstance(failure.data, dict) else {}
    if data.get("dropped"):
        status = 503  # there was no room for the result, and there may be later
    headers = {}
    challenge = _CHALLENGES.get(str(data.get("reason"))) if failure.code == NotAllowed.code else None
    if challenge is not None:
        status = 401
        headers["WWW-Authenticate"] = challenge
    if status in (429, 503):
        after = data.get("retry_after")
        seconds = math.ceil(after) if isinstance(after, int | float) else RETRY_AFTER
        headers["Retry-After"] = str(max(seconds, 1))
    return Problem(status, failure.message, failure.code, data, headers)
