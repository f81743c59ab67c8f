"""The bytes of HTTP responses that are sent by an exchange: heads, and the parts of streams."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.web.server import Request

from taskd.web.problems import PHRASES

__all__ = ["LAST_PART", "NO_BODY", "head_of", "part_of"]

NO_BODY = frozenset({204, 304})
"""The statuses of responses without a body."""

LAST_PART = b"0\r\n\r\n"
"""The end of a response that is sent in parts."""


def head_of(request: Request, status: int, headers: Mapping[str, str], *, is_last: bool) -> bytes:
    """Return the head of a response, with the headers that were set before.

    The connection is closed after it if it `is_last`, or if the request demands that.
    """
    request.startedWriting = 1
    request.setResponseCode(status)
    if is_last or not request.channel.persistent:
        request.channel.persistent = 0
        request.setHeader("Connection", "close")
    for name, value in headers.items():
        request.setHeader(name, value)
    lines = [b"HTTP/1.1 %d %b" % (status, PHRASES[status].encode())]
    for key, values in request.responseHeaders.getAllRawHeaders():
        lines += [b"%b: %b" % (key, value) for value in values]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def part_of(data: bytes) -> bytes:
    """Return the bytes that carry a part of a response whose length is not known: a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
