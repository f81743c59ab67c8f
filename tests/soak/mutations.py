"""Valid messages of everything that the ports speak, and ways to spoil them."""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from random import Random

from tests.soak.attacks.attacker import BINARY, CLOSE, PING, TEXT, bare, frame, rpc
from tests.soak.attacks.strangers import PROTOCOLS

__all__ = ["line_seeds", "mutated", "pieces", "web_seeds"]

LONGEST = 200_000
"""Bytes of one input at most: mutations may repeat."""

JSON_VALUES = (
    b"null",
    b"true",
    b"-0",
    b"0.0",
    b"1e999",
    b"-1e999",
    b"1E-400",
    b"9223372036854775808",
    b"-1",
    b"18446744073709551616",
    b"1" * 400,
    b"0x10",
    b"01",
    b"1.",
    b".5",
    b"NaN",
    b"Infinity",
    b'""',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\\udc00\\ud800"',
    b'"\xff\xfe"',
    b'"\xc0\x80"',
    b'"\xed\xa0\x80"',
    b"[]",
    b"{}",
    b'{"":{}}',
    b"[" * 120 + b"]" * 120,
    b"[" * 5000,
    b'{"a":' * 300,
    b'"taskd.status"',
    b'"taskd."',
    b"[[]]",
    b'{"id":1,"id":2}',
    b'"' + b"\xf0\x9f\x92\xa9" * 500 + b'"',
    b"{,}",
    b"[,]",
    b"/**/",
    b"'x'",
    b"\x00",
)
"""Values that replace others in a message."""

BYTES = (
    b"\0",
    b"\n",
    b"\r\n",
    b"\r",
    b"\xff",
    b"\x80",
    b"\xef\xbb\xbf",
    b" " * 64,
    b"\t",
    b'"',
    b"\\",
    b"\x1b[2J",
)

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|\[[^\[\]]*\]|\{[^{}]*\}|true|false|null')


def line_seeds() -> list[bytes]:
    """Return valid messages of the task server's port, and the beginnings of other protocols."""
    options = (
        '{"timeout":1}',
        '{"deadline":1}',
        '{"priority":0}',
        '{"priority":9,"progress":true}',
        '{"on_disconnect":"cancel"}',
        '{"on_disconnect":"finish","timeout":0.5}',
    )
    seeds = [
        bare("echo", "[1]"),
        bare("echo", '{"value":{"a":[1,2.5,null,"\\u00e9"]}}'),
        bare("echo"),
        bare("big", "[2000]"),
        bare("nap", "[0.001]"),
        bare("boom", '["x"]'),
        bare("typed", '[2,["a","b"]]'),
        bare("steps", "[3]", '{"progress":true}'),
        bare("no_such"),
        bare("say", '["\\u001b[31m",2]'),
        rpc(1, "echo", '{"value":1}'),
        rpc(2, "nap_async", "[0.001]"),
        rpc(None, "echo", "[1]"),
        rpc(3, "steps", "[3]", '{"progress":true}'),
        rpc(4, "taskd.ping"),
        rpc(5, "taskd.status"),
        rpc(6, "taskd.functions"),
        rpc(7, "taskd.cancel", '{"id":3}'),
        rpc(8, "taskd.cancel", '{"task":1}'),
        rpc(None, "taskd.cancel", '{"task":999999}'),
        rpc(9, "size", '["' + "x" * 3000 + '"]'),
        b'{"jsonrpc":"2.0","id":"\\u00fc","method":"echo"}\n',
        b'{"jsonrpc":"2.0","id":null,"method":"echo"}\n',
        b'{"jsonrpc":"2.0","id":1.5,"method":"echo"}\n',
        b"\n",
        b"\r\n",
        b" \n",
        b"[]\n",
        b"{}\n",
    ]
    seeds += [bare("echo", "[1]", each) for each in options] + [
        rpc(1, "echo", "[1]", each) for each in options
    ]
    members = [rpc(each, "echo", f"[{each}]").rstrip() for each in range(5)]
    seeds.append(b"[" + b",".join([*members, rpc(None, "echo").rstrip(), b"1", b"{}"]) + b"]\n")
    seeds.append(b"[" + b",".join(members * 60) + b"]\n")
    return seeds + list(PROTOCOLS)


def web_seeds(handshake: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return HTTP requests, some of which open a websocket as `handshake` does, and frames."""
    host = b"Host: 127.0.0.1\r\n"
    frames = [frame(TEXT, line.rstrip()) for line in line_seeds()[:30]]
    half = b'{"function":"echo"'
    masked = b"\x81\x85\x01\x02\x03\x04" + bytes(
        byte ^ mask for byte, mask in zip(b"hello", b"\x01\x02\x03\x04\x01", strict=True)
    )
    frames += [
        frame(PING, b""),
        frame(PING, b"x" * 125),
        frame(10, b"pong"),
        frame(BINARY, b"\0\1"),
        frame(CLOSE, struct.pack("!H", 1000)),
        frame(CLOSE, b""),
        frame(CLOSE, b"\x03\xe8bye"),
        frame(CLOSE, b"\x03"),
        b"\x01" + frame(TEXT, half)[1:],
        b"\x80" + frame(TEXT, b"}")[1:],
        b"\x00" + frame(TEXT, b" ")[1:],
        b"\x81\x00",
        b"\x81\xfe\xff\xff",
        b"\x81\xff" + b"\xff" * 8,
        b"\x81\xff" + b"\0" * 8,
        b"\xf1\x80\0\0\0\0",
        b"\x83\x80\0\0\0\0",
        b"\x8b\x80\0\0\0\0",
        b"\x89\xfe\0\xff\0\0\0\0",
        b"\x81\x05hello",
        masked,
    ]
    heads = [
        b"GET / HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /x?y=z HTTP/1.0\r\n\r\n",
        b"HEAD / HTTP/1.1\r\n" + host + b"\r\n",
        b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Connection: close\r\nExpect: 100-continue\r\n\r\n",
        b"GET http://127.0.0.1/ HTTP/1.1\r\n" + host + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + host + b"\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n" + host + b"\r\n",
    ]
    extra = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    heads += [handshake, handshake[:-2] + b"Sec-WebSocket-Protocol: a, b\r\n\r\n", handshake[:-2] + extra]
    heads += [
        handshake[:-2] + b"Origin: http://127.0.0.1\r\n\r\n",
        handshake[:-2] + b"Content-Length: 3\r\n\r\nabc",
    ]
    return heads, frames


def mutated(rng: Random, seeds: list[bytes]) -> bytes:
    """Return a few seeds in a row, spoiled a few times."""
    data = bytearray(b"".join(rng.choices(seeds, k=rng.choice((1, 1, 2, 3, 6)))))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5, 12))):
        if not data:
            break
        rng.choice(_MUTATIONS)(rng, data, seeds)
        del data[LONGEST:]
    return bytes(data)


def pieces(rng: Random, data: bytes) -> list[bytes]:
    """Cut data into random segments: one, a few, or a byte each at the beginning."""
    how = rng.random()
    if how < 0.4 or len(data) < 2:
        return [data]
    if how < 0.5:
        return [data[at : at + 1] for at in range(min(len(data), 200))] + [data[200:]]
    cuts = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(rng.randrange(1, 8)))})
    return [data[start:end] for start, end in pairwise(cuts)]


def _span(rng: Random, data: bytearray) -> slice:
    start = rng.randrange(len(data))
    return slice(start, start + 1 + int(rng.expovariate(1 / 20)))


def _flip(rng: Random, data: bytearray, _: list[bytes]) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: Random, data: bytearray, _: list[bytes]) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _truncate(rng: Random, data: bytearray, _: list[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def _delete(rng: Random, data: bytearray, _: list[bytes]) -> None:
    del data[_span(rng, data)]


def _duplicate(rng: Random, data: bytearray, _: list[bytes]) -> None:
    span = _span(rng, data)
    data[span.start : span.start] = bytes(data[span]) * rng.choice((1, 2, 10, 500))


def _repeat(rng: Random, data: bytearray, _: list[bytes]) -> None:
    data *= rng.choice((2, 5, 100))


def _splice(rng: Random, data: bytearray, seeds: list[bytes]) -> None:
    other = rng.choice(seeds)
    at = rng.randrange(len(data))
    data[at:] = other[rng.randrange(len(other)) :]


def _insert(rng: Random, data: bytearray, _: list[bytes]) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.choice(BYTES) * rng.choice((1, 1, 3, 1000))


def _replace_value(rng: Random, data: bytearray, _: list[bytes]) -> None:
    tokens = list(_TOKEN.finditer(data))
    if tokens:
        token = rng.choice(tokens)
        data[token.start() : token.end()] = rng.choice(JSON_VALUES)


def _length(rng: Random, data: bytearray, _: list[bytes]) -> None:
    """Write a length where a frame or a record may have one."""
    at = rng.randrange(len(data))
    length = rng.choice((0, 1, 125, 126, 127, 255, 65535, 65536, 2**31, 2**32, 2**63 - 1, 2**64 - 1))
    width = rng.choice((1, 2, 4, 8))
    data[at : at + width] = (length & (256**width - 1)).to_bytes(width)


_MUTATIONS = (
    _flip,
    _set,
    _truncate,
    _delete,
    _duplicate,
    _repeat,
    _splice,
    _insert,
    _replace_value,
    _replace_value,
    _length,
)
