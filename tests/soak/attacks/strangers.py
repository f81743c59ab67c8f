"""What a browser can be made to send: another protocol with a JSON line in it, and websockets of other pages.

The function `never` must not be run by any of it.
"""

from __future__ import annotations

import asyncio
import struct

from tests.soak.attacks.attacker import TEXT, Attacker, bare, frame

__all__ = ["other_pages", "other_protocols"]

NEVER = "never"

_LINE = bare(NEVER)
_HELLO_TICKET = b"\n" + _LINE
_HELLO_BODY = (
    b"\x03\x03" + b"r" * 32 + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    + struct.pack("!H", 4 + len(_HELLO_TICKET)) + b"\0\x23" + struct.pack("!H", len(_HELLO_TICKET))
    + _HELLO_TICKET
)  # fmt: skip
_HELLO = (
    b"\x16\x03\x01" + struct.pack("!H", 4 + len(_HELLO_BODY))
    + b"\x01\0" + struct.pack("!H", len(_HELLO_BODY)) + _HELLO_BODY
)  # fmt: skip
"""A TLS ClientHello, whose session ticket has a line."""

PROTOCOLS = (
    b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"post / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"patch / HTTP/1.1\r\n\r\n",
    b"PATCH / HTTP/1.1\r\n\r\n",
    b"GET /\r\n",
    b"GET / HTTP/0.9\r\n\r\n",
    b"\r\n\r\nPOST / HTTP/1.1\r\n\r\n",
    b"QUERY / HTTP/3\r\n\r\n",
    b"M-SEARCH * HTTP/1.1\r\n\r\n",
    b"OPTIONS * RTSP/1.0\r\n\r\n",
    b"INVITE sip:a SIP/2.0\r\n\r\n",
    b"EHLO a\r\n",
    b"USER a\r\nPASS b\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"--boundary\r\nContent-Disposition: form-data\r\n\r\n",
    b"x=1&y=2\r\n",
    b"\xef\xbb\xbf",
    b"\0\n",
    b'"text"\n',
    b"1\n",
    b"null\n",
    b"\x05\x01\0\n",
    b"SSH-2.0-a\r\n",
    _HELLO,
)
"""The beginnings of other protocols, each followed by a line that would be a request."""


async def other_protocols(attacker: Attacker) -> None:
    """Send the beginning of another protocol and then a request, in one piece and in two."""
    while True:
        for head in PROTOCOLS:
            for pieces in ([head + _LINE * 3], [head, _LINE * 3]):
                try:
                    connection = await attacker.connect()
                    for piece in pieces:
                        await connection.send(piece)
                        await asyncio.sleep(0.02)
                    await connection.rest(1)
                    attacker.drop(connection)
                except OSError:
                    attacker.deeds["refused at once"] += 1
                attacker.deeds["other protocols"] += 1
            await _check(attacker, f"{head[:40]!r}")


async def other_pages(attacker: Attacker) -> None:
    """Open websockets as pages of other origins would, and under names that are not the gateway's."""
    port = attacker.target.web_port
    handshakes = [
        attacker.handshake("Origin: http://evil.example\r\n"),
        attacker.handshake("Origin: http://evil.example\r\n", version=8),
        attacker.handshake("Sec-WebSocket-Origin: http://evil.example\r\n", version=8),
        attacker.handshake("Sec-WebSocket-Origin: http://evil.example\r\n", version=7),
        attacker.handshake("Origin: null\r\n"),
        attacker.handshake(f"Origin: http://evil.example:{port}\r\n", host=f"evil.example:{port}"),
        attacker.handshake(
            f"Origin: http://rebound.evil.example:{port}\r\n", host=f"rebound.evil.example:{port}"
        ),
        attacker.handshake(
            f"Origin: http://localhost.evil.example:{port}\r\n", host=f"localhost.evil.example:{port}"
        ),
        attacker.handshake(
            f"Origin: http://127.0.0.1.evil.example:{port}\r\n", host=f"127.0.0.1.evil.example:{port}"
        ),
    ]
    while True:
        for handshake in handshakes:
            try:
                connection = await attacker.connect(port)
                await connection.send(handshake)
                await connection.reader.read(4096)  # a frame that comes with the handshake is not read
                await connection.send(frame(TEXT, _LINE.rstrip()))
                await asyncio.sleep(0.1)
                attacker.drop(connection)
            except OSError:
                attacker.deeds["refused at once"] += 1
            attacker.deeds["pages"] += 1
            await _check(attacker, handshake.decode().replace("\r\n", " | "))


_seen: dict[int, int] = {}


async def _check(attacker: Attacker, what: str) -> None:
    try:
        runs = await attacker.runs_of(NEVER)
    except (OSError, TimeoutError):
        return
    before = _seen.get(attacker.target.task_port, 0)
    if runs > before:
        attacker.wrong.append(f"a request was run behind {what}")
    _seen[attacker.target.task_port] = runs
