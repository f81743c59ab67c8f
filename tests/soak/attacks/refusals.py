"""Messages that cost the connection: the reason must arrive before the close, however much else is sent."""

from __future__ import annotations

import asyncio

from tests.soak.attacks.attacker import BINARY, TEXT, Attacker, bare, frame

__all__ = ["refusals"]

MIB = 1024 * 1024


async def refusals(attacker: Attacker) -> None:
    """Send what is refused, and go on sending while it is refused."""
    longest = attacker.target.max_message
    call = frame(TEXT, bare("echo", "[1]").rstrip())
    more = b"x" * (4 * MIB)
    long_line = b'{"function":"echo","args":["' + b"x" * longest
    messages = [
        ("a long line", False, long_line + more, b"-32006"),
        ("another protocol", False, b"POST / HTTP/1.1\r\n" + more, b"-32600"),
        ("a binary message", True, call + frame(BINARY, b"x" * 1000) + call * 1000, b"\x03\xeb"),
        ("a reserved bit", True, b"\xc1\x80\0\0\0\0" + call * 1000, b"\x03\xea"),
        ("a long message", True, frame(TEXT, b"x" * (longest + 10)), b"\x03\xf1"),
        ("a body", True, b"", b" 4"),
    ]
    while True:
        for what, is_web, message, reason in messages:
            try:
                if what == "a body":
                    connection = await attacker.connect(attacker.target.web_port)
                    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4194304\r\n\r\n"
                    await connection.send(head + more, patience=2.0)
                elif is_web:
                    connection = await attacker.websocket()
                    await connection.send(message, patience=2.0)
                else:
                    connection = await attacker.connect()
                    await connection.send(message, patience=2.0)
                got, end = await connection.rest()
                attacker.drop(connection)
            except OSError as error:
                got, end = b"", f"{error!r}"
            attacker.deeds["refusals"] += 1
            if reason not in got or end != "close":
                attacker.wrong.append(f"{what} got {got[:60]!r}, and then {end}")
            elif what == "a binary message" and b"task complete" not in got:
                attacker.wrong.append(f"what was asked before {what} got no reply: {got[:60]!r}")
        await asyncio.sleep(0.1)
