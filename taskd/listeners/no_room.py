"""The answers to connections for which there is no room, on the task server's port and on the gateway's."""

from __future__ import annotations

from taskd.errors import Busy
from taskd.model import Failure
from taskd.protocol.replies import reply_line
from taskd.protocol.requests import JSON_RPC

__all__ = ["BUSY_LINE", "UNAVAILABLE"]

RETRY_AFTER = 1
"""Seconds after which such a client should try again: connections come and go faster than that."""

_WHY = "too many connections are open here: try again in a moment"

BUSY_LINE = reply_line(JSON_RPC, None, Failure.of(Busy(_WHY, retry_after=RETRY_AFTER))) + b"\n"
"""The answer of the task server's port. Nobody has read whether the client speaks the bare dialect."""

_BODY = f"{_WHY}\n".encode()

UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: %d\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (RETRY_AFTER, len(_BODY), _BODY)
)
"""The answer of the gateway's port."""
