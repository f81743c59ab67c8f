"""The answers to connections and messages for which there is no room."""

from __future__ import annotations

from taskd.errors import Busy
from taskd.listeners.safe_headers import SAFE_LINES
from taskd.model import Failure
from taskd.protocol.dialects import JSON_RPC
from taskd.protocol.replies import reply_line

__all__ = ["BUSY_LINE", "MESSAGE_RETRY_AFTER", "REST_OF_MESSAGE", "TOO_FAR_AHEAD", "UNAVAILABLE"]

RETRY_AFTER = 1
"""Seconds after which such a client should try again: connections come and go faster than that."""

_WHY = "too many connections are open here: try again in a moment"

BUSY_LINE = reply_line(JSON_RPC, None, Failure.of(Busy(_WHY, retry_after=RETRY_AFTER))) + b"\n"
"""The answer of the task server's port. Nobody has read whether the client speaks the bare dialect."""

_BODY = f"{_WHY}\n".encode()

UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: %d\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n%b\r\n%b"
    % (RETRY_AFTER, len(_BODY), SAFE_LINES, _BODY)
)
"""The answer of the gateway's port."""

MESSAGE_RETRY_AFTER = 1.0
"""Seconds after which a caller should try again whose message found no room."""

REST_OF_MESSAGE = (
    "the server holds too many messages to receive the rest of this one (--max-buffered); "
    "nothing after it is read"
)
"""The answer to a message that finds no room while it is received."""

TOO_FAR_AHEAD = (
    "more was sent ahead of the replies than the server can hold; "
    "nothing of what follows is read: send less at once"
)
"""The answer to what cannot even be read ahead, while the end of the client may be behind it."""
