"""The heads of HTTP requests: cut from what a client sends, and checked before anything acts on them.

This is pure code: bytes in, heads or refusals out. twisted.web reads a body
before it asks anybody whether that body is wanted, and closes a connection
without an answer if a head is too long. So the gateway passes it only heads
that were checked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from taskd.listeners.safe_headers import SAFE_LINES
from taskd.web.problems import PHRASES, PROBLEM_TYPE, Problem
from taskd.web.routes import Route

__all__ = [
    "MAX_HEAD",
    "MAX_HEADER_LINES",
    "MAX_REQUEST_LINE",
    "Head",
    "HeadReader",
    "Refusal",
    "check_request",
]

MAX_HEAD = 16384
"""Bytes of a head: as many as twisted.web takes, and many times what browsers send."""

MAX_REQUEST_LINE = 8192
"""Bytes of a request line: RFC 9112, 3, recommends at least 8000."""

MAX_HEADER_LINES = 200
"""Header lines of a request: browsers send about twenty, and proxies add some."""

_MAX_DIGITS = 18
"""Digits of a Content-Length: more would be over any limit."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%b) ([!-~\x80-\xff]+) HTTP/(\d)\.(\d)" % _TOKEN)
_HEADER_LINE = re.compile(rb"(%b):[ \t]*([^\0\r\n]*?)[ \t]*" % _TOKEN)

_OF_BODY = (b"content-length", b"transfer-encoding")
"""The headers that determine how long a body is."""

_NOT_HTTP = "this is a gateway of taskd: it speaks HTTP and websockets, without TLS if you can read this"


class Refusal(Exception):
    """A request that is refused, after which the connection closes: its `status`, and the reason as a text.

    `headers` are those that the response has for this status. The reason is sent as a
    text, or as a problem if `is_problem` is set.
    """

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.is_problem = False
        self._problem: Problem | None = None
        self._headers = headers

    @classmethod
    def of(cls, problem: Problem) -> Refusal:
        """Return the refusal of a request whose answer is this problem, with its headers."""
        refusal = cls(problem.status, problem.detail)
        refusal._headers = problem.headers
        refusal._problem, refusal.is_problem = problem, True
        return refusal

    @property
    def response(self) -> bytes:
        """The whole response, which says that the connection closes."""
        problem = self._problem or Problem(self.status, str(self))
        body = problem.body if self.is_problem else f"{self}\n".encode()
        content_type = PROBLEM_TYPE if self.is_problem else "text/plain; charset=utf-8"
        lines = [
            f"HTTP/1.1 {self.status} {PHRASES[self.status]}",
            "Connection: close",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            *(f"{name.replace('_', '-')}: {value}" for name, value in self._headers.items()),
        ]
        return ("\r\n".join(lines) + "\r\n").encode() + SAFE_LINES + b"\r\n" + body


@dataclass(frozen=True, slots=True)
class Head:
    """The head of one request: its bytes, and what decides whether the request is served.

    `length` is that of the body in bytes, None if the body comes in chunks. If there is a
    body, `data` lacks the headers about it, since it is read apart.
    `awaits_continue` says that the client sends the body after a status 100.
    """

    data: bytes
    method: bytes
    target: bytes
    length: int | None
    awaits_continue: bool = False

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of the header lines with this name."""
        lines = (line.partition(b":") for line in self.data.split(b"\r\n")[1:])
        return [value.strip() for key, _, value in lines if key.lower() == name]


class HeadReader:
    """The bytes that a client has sent, as heads of requests, one after the other.

    Pass bytes to `receive`, and take heads with `next` until it returns None.
    The time that it takes is linear in the bytes received.
    """

    __slots__ = ("_body", "_received", "_searched")

    def __init__(self) -> None:
        self._received = bytearray()
        self._searched = 0
        self._body = 0  # bytes of the body of the last head that have not been taken

    def __len__(self) -> int:
        """Return the number of bytes that belong to no head yet."""
        return len(self._received)

    def receive(self, data: bytes) -> None:
        """Add bytes. Blank lines before a head are dropped."""
        self._received += data
        if not self._searched and not self._body:
            self._drop_blank_lines()

    def next(self) -> Head | None:
        """Return the next head if it is complete. Raises `Refusal`, after which there is no other."""
        received = self._received
        if not received[:1].isalpha() and len(received.strip(b"\r")):
            raise Refusal(400, _NOT_HTTP)  # JSON and TLS would wait for an answer until the time is over
        end = received.find(b"\r\n\r\n", self._searched)
        if end < 0 or end > MAX_HEAD:
            self._check_unfinished()
            self._searched = max(len(received) - 3, 0)
            return None
        data = bytes(received[: end + 4])
        del received[: end + 4]
        self._searched = 0
        head = _parsed(data)
        self._body = head.length or 0
        if not self._body:
            self._drop_blank_lines()
        return head

    def take(self, count: int) -> bytes:
        """Return and forget at most `count` bytes, which belong to the body of the last head."""
        taken = bytes(self._received[:count])
        del self._received[:count]
        self._body = max(self._body - len(taken), 0)
        if not self._body:
            self._drop_blank_lines()
        return taken

    def take_rest(self) -> bytes:
        """Return and forget all bytes that belong to no head."""
        rest = bytes(self._received)
        self._received.clear()
        self._searched = 0
        return rest

    def _drop_blank_lines(self) -> None:
        received = self._received
        while received[:2] == b"\r\n":
            blank = re.match(rb"(?:\r\n)+", received)
            del received[: blank.end() if blank else 0]

    def _check_unfinished(self) -> None:
        received = self._received
        first = received.find(b"\r\n", 0, MAX_REQUEST_LINE + 2)
        if first < 0 and len(received) > MAX_REQUEST_LINE + 1:
            raise Refusal(414, f"the request line is over {MAX_REQUEST_LINE} bytes")
        if len(received) > MAX_HEAD:
            raise Refusal(431, f"the head of the request is over {MAX_HEAD} bytes")
        if received.find(b"\n\n", max(self._searched - 1, 0)) >= 0:
            raise Refusal(400, "the lines of an HTTP request end in CR LF")


def _parsed(data: bytes) -> Head:
    lines = data[:-4].split(b"\r\n")
    if len(lines[0]) > MAX_REQUEST_LINE:
        raise Refusal(414, f"the request line is over {MAX_REQUEST_LINE} bytes")
    if len(lines) - 1 > MAX_HEADER_LINES:
        raise Refusal(431, f"the request has more than {MAX_HEADER_LINES} header lines")
    request = _REQUEST_LINE.fullmatch(lines[0])
    if request is None:
        raise Refusal(400, "that is no HTTP request line: METHOD TARGET HTTP/1.1")
    if request[3] != b"1":
        raise Refusal(505, "this server speaks HTTP/1.1")
    values: dict[bytes, list[bytes]] = {name: [] for name in (b"host", b"expect", *_OF_BODY)}
    for line in lines[1:]:
        header = _HEADER_LINE.fullmatch(line)
        if header is None:
            raise Refusal(400, "a header line of the request is not NAME: VALUE")
        values.get(header[1].lower(), []).append(header[2])
    hosts = values[b"host"]
    if len(hosts) > 1 or (not hosts and request[4] != b"0"):
        raise Refusal(400, "the request must have one Host header")
    length = _length_of_body(values[b"content-length"], values[b"transfer-encoding"])
    # RFC 9110, 10.1.1: HTTP/1.0 knows no expectations.
    awaits_continue = request[4] != b"0" and _awaits_continue(values[b"expect"])
    if length != 0 or awaits_continue:
        kept = [line for line in lines if line.partition(b":")[0].lower() not in (b"expect", *_OF_BODY)]
        data = b"\r\n".join(kept) + b"\r\n\r\n"
    return Head(data, request[1], request[2], length, awaits_continue)


def _awaits_continue(expectations: list[bytes]) -> bool:
    if not expectations:
        return False
    if [each.lower() for each in expectations] != [b"100-continue"]:
        raise Refusal(417, "the only expectation that can be met is 100-continue")
    return True


def _length_of_body(lengths: list[bytes], codings: list[bytes]) -> int | None:
    """Return the bytes of a body, None if it comes in chunks.

    Two headers that contradict each other, or may do so, are a way to hide a
    request from a proxy: such a request is refused.
    """
    if codings:
        if lengths:
            raise Refusal(400, "the request has both a Content-Length and a Transfer-Encoding")
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise Refusal(501, "the only transfer coding is chunked")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit():
        raise Refusal(400, "the Content-Length of the request is not one number")
    digits = lengths[0].lstrip(b"0")
    return int(digits[:_MAX_DIGITS] or b"0")


def check_request(head: Head, route: Route, max_body: int) -> None:
    """Check a request against the rules of its route, before any of its body is read. Raises `Refusal`.

    `max_body` is the length of the longest body, in bytes.
    """
    try:
        _check(head, route, max_body)
    except Refusal as refusal:
        refusal.is_problem = route.has_problems
        raise


def _check(head: Head, route: Route, max_body: int) -> None:
    if head.method not in route.methods:
        raise _not_allowed(route.methods)
    if head.length == 0:
        return
    if head.method not in route.with_body:
        if route.existing and head.method not in route.existing:
            raise _not_allowed(route.existing)
        raise Refusal(413, "no such request to this address has a body")
    if head.length is None:
        raise Refusal(411, "the request must have a Content-Length")
    if head.length > max_body:
        raise Refusal(413, f"the body of a request has at most {max_body} bytes")


def _not_allowed(methods: tuple[bytes, ...]) -> Refusal:
    allowed = ", ".join(method.decode() for method in methods)
    return Refusal(405, f"only {allowed} can be used here", Allow=allowed)
