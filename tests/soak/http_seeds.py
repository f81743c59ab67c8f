"""Valid HTTP requests for every operation of the API, every file for browsers, and what else the port has."""

from __future__ import annotations

import gzip
import json
import zlib
from functools import cache
from pathlib import Path
from random import Random

import msgspec

import taskd.web
from taskd.protocol.stored_methods import STATES
from taskd.web.api.table import OPERATIONS, ROOT, Operation
from taskd.web.health import HEALTH_PATH, READY_PATH
from taskd.web.metrics import METRICS_PATH
from tests.soak.attacks.attacker import frame
from tests.soak.method_seeds import method_calls

__all__ = ["compressed_frames", "http_request", "http_requests", "stream_requests"]

HOST = b"Host: 127.0.0.1\r\n"

JSON, CSV = b"application/json", b"text/csv"

COMPRESSED_TEXT = 0xC1
"""The first byte of a websocket frame: final, compressed, a text."""

BOMB_BYTES = 8 * 1024 * 1024
"""Bytes of what a short message becomes when it is unpacked: far more than the longest message."""

PACKED_BOMB = gzip.compress(gzip.compress(b"\0" * BOMB_BYTES))

_WEB = Path(taskd.web.__file__).parent

PAGES = (
    *(f"/pages/{path.relative_to(_WEB / 'pages')}" for path in sorted((_WEB / "pages").rglob("*.*"))),
    *(
        "/",
        "/ops",
        "/taskd.js",
        "/taskd-progress.js",
        "/pages/../pages.py",
        "/pages/%2e%2e/root.py",
        "/pages//",
    ),
)
"""The addresses of the files for browsers, and some where there must be none."""


def http_request(method: bytes, path: bytes, headers: bytes = b"", body: bytes | None = None) -> bytes:
    """Return a request; `headers` end in CRLF, and come before that of the body's length."""
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n%b" % (method, path, HOST, headers, length, body or b"")


def _query(rng: Random, operation: Operation, task: str, batch: str) -> bytes:
    """Return a query of some of the parameters that an operation has."""
    values: dict[str, tuple[str, ...]] = {
        "wait": ("0.05", "61", "x"),
        "with_args": ("true", "1"),
        "state": (*STATES, "nothing"),
        "function": ("kept", "echo", "fails", "no_such"),
        "then": ("at_the_end", "no_such"),
        "key": ("k1", ""),
        "batch": (batch, ""),
        "like": (task[:5], task[-4:]),
        "after": (task, "0", "7", "-1"),
        "limit": ("1", "1000", "1001"),
    }
    names = operation.query.__struct_fields__
    chosen = rng.sample(names, rng.choice((0, 0, 1, 1, 2, min(3, len(names))))) if len(names) > 1 else names
    parts = [f"{name}={rng.choice(values.get(name, ('1', '0.5', 'x')))}" for name in chosen]
    return ("?" + "&".join(parts)).encode() if parts else b""


def _bodies(rng: Random, operation: Operation, task: str, batch: str) -> list[tuple[bytes, bytes]]:
    """Return bodies of an operation, and their media types."""
    if operation.body is None:
        return []
    calls = method_calls(task, batch)["submit_batch" if "args" in _required(operation) else "submit"]
    bodies = [(JSON, json.dumps(rng.choice(calls)).encode()) for _ in range(2)]
    if "text/csv" in operation.body_types:
        bodies += [
            (CSV, b'value\n1\n2\n"a,\n""b"""\n'),
            (CSV, b"name;value\r\na;1\r\nb;2\r\n"),
            (CSV, b"value\n" + b"12345\n" * 500),
            (CSV + b"; charset=utf-8", b"\xef\xbb\xbfvalue\n\xc3\xa9\n"),
        ]
    return bodies


def _required(operation: Operation) -> tuple[str, ...]:
    fields = () if operation.body is None else msgspec.structs.fields(operation.body)
    return tuple(each.name for each in fields if each.required)


def _encoded(rng: Random, body: bytes) -> tuple[bytes, bytes]:
    how, packed = rng.choice((
        (b"gzip", gzip.compress(body)),
        (b"deflate", zlib.compress(body)),
        (b"br", body),
        (b"gzip, gzip", PACKED_BOMB),
        (b"identity", body),
    ))  # fmt: skip
    return b"Content-Encoding: %b\r\n" % how, packed


def _of_operation(rng: Random, operation: Operation, headers: bytes, task: str, batch: str) -> list[bytes]:
    path = ROOT + operation.path.format(task=task, batch=batch).encode()
    for name, value in ("Idempotency-Key", b'"again"'), ("traceparent", b"00-" + b"1" * 32 + b"-01"):
        if name in operation.headers and rng.random() < 0.3:
            headers += b"%b: %b\r\n" % (name.encode(), value)
    query = _query(rng, operation, task, batch)
    found = []
    for kind, body in _bodies(rng, operation, task, batch):
        query = b"" if kind == JSON and b"function" in query else query
        if kind.startswith(CSV) and b"function" not in query:
            query += (b"&" if query else b"?") + b"function=kept"
        typed = headers + b"Content-Type: %b\r\n" % kind
        found.append(http_request(operation.method, path + query, typed, body))
        encoding, packed = _encoded(rng, body)
        found.append(http_request(operation.method, path + query, typed + encoding, packed))
    if operation.body is None:
        accept = rng.choice((b"", b"Accept: application/json\r\n", b"Accept: text/html\r\n"))
        if "text/event-stream" in operation.types:
            accept = b"Accept: application/json\r\n"
        found.append(http_request(operation.method, path + query, headers + accept))
    if operation.method == b"GET" and rng.random() < 0.3:
        found.append(http_request(b"OPTIONS", path, headers + b"Origin: http://127.0.0.1\r\n"))
    return found


def http_requests(rng: Random, headers: bytes, task: str, batch: str) -> list[bytes]:
    """Return requests of every kind, each of which gets one answer; `headers` may show a token."""
    found = []
    for operation in OPERATIONS:
        found += _of_operation(rng, operation, headers, task, batch)
    for name, calls in method_calls(task, batch).items():
        params = json.dumps(rng.choice(calls))
        body = b'{"jsonrpc":"2.0","id":1,"method":"taskd.%b","params":%b}' % (name.encode(), params.encode())
        typed = headers + b"Content-Type: application/json\r\n"
        found.append(http_request(b"POST", rng.choice((b"/", b"/rpc")), typed, body))
    for page in rng.sample(PAGES, 12):
        more = rng.choice(
            (b"", b"Accept-Encoding: gzip\r\n", b'If-None-Match: "x", *\r\n', b"Range: bytes=0-1\r\n")
        )
        found.append(http_request(rng.choice((b"GET", b"HEAD")), page.encode(), headers + more))
    for path in HEALTH_PATH, READY_PATH, METRICS_PATH:
        found.append(http_request(b"GET", path, headers))
    return found


def stream_requests(headers: bytes, task: str, batch: str) -> list[bytes]:
    """Return requests for Server-Sent Events, which may go on for long, and for bodies in chunks."""
    accept = headers + b"Accept: text/event-stream\r\n"
    chunks = b"6\r\nvalue\n\r\n4\r\n1\n2\n\r\n0\r\n\r\n"
    typed = headers + b"Content-Type: text/csv\r\nTransfer-Encoding: chunked\r\n"
    return [
        http_request(b"GET", ROOT + f"tasks/{task}/events".encode(), accept),
        http_request(b"GET", ROOT + f"tasks/{task}/events".encode(), accept + b"Last-Event-ID: 1\r\n"),
        http_request(b"GET", ROOT + f"batches/{batch}/events?after=1".encode(), accept),
        http_request(b"HEAD", ROOT + f"batches/{batch}/events".encode(), accept),
        http_request(b"POST", ROOT + b"batches?function=kept", typed) + chunks,
        http_request(
            b"POST", ROOT + b"tasks", headers + b"Expect: 100-continue\r\nContent-Type: text/csv\r\n", b"[]"
        ),
    ]


def compressed_frames(rng: Random, lines: list[bytes]) -> list[bytes]:
    """Return compressed websocket messages (RFC 7692), some of which are bombs, or no compressed data."""
    payloads = [_deflated(line.rstrip()) for line in rng.sample(lines, min(8, len(lines)))]
    payloads.append(
        _deflated(b'{"jsonrpc":"2.0","id":1,"method":"size","params":["' + b"x" * 50_000 + b'"]}')
    )
    payloads += _bombs()
    payloads += [_deflated(b"{}")[:-1], b"", b"\0", b"\0\0\xff\xff", b"\xff" * 40, _deflated(b"\xff\xfe")]
    found = [bytes([COMPRESSED_TEXT]) + frame(1, payload)[1:] for payload in payloads]
    half = payloads[0][: len(payloads[0]) // 2]
    rest = payloads[0][len(half) :]
    found += [b"\x41" + frame(1, half)[1:] + b"\x80" + frame(1, rest)[1:]]
    found += [b"\xc9" + frame(9, b"ping")[1:], b"\x41" + frame(1, half)[1:] + b"\xc0" + frame(1, rest)[1:]]
    return found


def _deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


@cache
def _bombs() -> list[bytes]:
    return [_deflated(b" " * BOMB_BYTES), _deflated(b"[" * BOMB_BYTES)]
