"""HTTP requests that are long, slow, or have a body where none belongs; and slow handshakes."""

from __future__ import annotations

import asyncio
import time

from tests.soak.attacks.attacker import Attacker, Connection

__all__ = ["bodies", "long_heads", "trickles"]

MIB = 1024 * 1024
BODY_MIB = 600

HEAD_SECONDS = 15.0
"""Seconds within which a head or a handshake must be complete, or the connection is closed: the server's own
limit is ten, and a busy machine gets some more.
"""

TRICKLES = 40
TRICKLE_SECONDS = 0.5


async def bodies(attacker: Attacker) -> None:
    """Send bodies of hundreds of megabytes, with a length and in chunks."""
    while True:
        for how in (f"Content-Length: {BODY_MIB * MIB}", "Transfer-Encoding: chunked"):
            head = f"POST / HTTP/1.1\r\nHost: {attacker.target.host}\r\nOrigin: http://evil.example\r\n{how}\r\n\r\n"
            try:
                connection = await attacker.connect(attacker.target.web_port)
                await connection.send(head.encode())
                piece = b"x" * MIB
                if "chunked" in how:
                    piece = b"%x\r\n%b\r\n" % (MIB, piece)
                for sent in range(BODY_MIB):
                    if not await connection.send(piece, patience=5.0):
                        break
                    attacker.deeds["MiB of bodies"] += 1
                    if sent == BODY_MIB // 2:
                        attacker.wrong.append(f"{sent} MiB of a body were taken ({how})")
                attacker.drop(connection)
            except OSError:
                attacker.deeds["closed by the server"] += 1
                await asyncio.sleep(0.02)


async def long_heads(attacker: Attacker) -> None:
    """Send heads that are too long: each gets an answer, and then the close."""
    heads = [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 300_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
    ]
    while True:
        for head in heads:
            try:
                connection = await attacker.connect(attacker.target.web_port)
                await connection.send(head, patience=2.0)
                answer, end = await connection.rest()
                attacker.drop(connection)
            except OSError as error:
                answer, end = b"", f"{error!r}"
            attacker.deeds["long heads"] += 1
            if not answer.startswith(b"HTTP/1.1 4") or end == "reset":
                attacker.wrong.append(f"a head of {len(head)} bytes got {answer[:40]!r} and {end}")
        await asyncio.sleep(0.1)


async def trickles(attacker: Attacker) -> None:
    """Keep connections open with a byte or a header now and then, on both ports."""
    web, task = attacker.target.web_port, attacker.target.task_port
    handshake = attacker.handshake()
    kinds = [
        (web, b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        (web, b"", b"G"),
        (web, handshake[:40], b"X"),
        (web, b"\x16\x03\x01", b"\x02"),
        (task, b"\x16\x03\x01\x02\0\x01\0", b"\x01"),
        (task, b"", b"\r\n"),
        (task, b"", b"G"),
    ]

    async def trickle(port: int, first: bytes, piece: bytes) -> None:
        while True:
            try:
                connection: Connection = await attacker.connect(port)
                began = time.monotonic()
                await connection.send(first)
                attacker.deeds["slow connections"] += 1
                while not connection.reader.at_eof():
                    await asyncio.sleep(TRICKLE_SECONDS)
                    await connection.send(piece)
                    if time.monotonic() - began > HEAD_SECONDS * attacker.patience and port == web:
                        attacker.wrong.append(f"{first[:30]!r} and then {piece!r} kept a connection")
                        break
                attacker.drop(connection)
            except OSError:
                await asyncio.sleep(TRICKLE_SECONDS)

    async with asyncio.TaskGroup() as all_of_them:
        for number in range(TRICKLES):
            all_of_them.create_task(trickle(*kinds[number % len(kinds)]))
