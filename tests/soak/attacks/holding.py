"""Clients that make the server keep bytes for them: arguments, results, lines that do not end."""

from __future__ import annotations

import asyncio

from tests.soak.attacks.attacker import TEXT, Attacker, Connection, bare, frame, rpc

__all__ = [
    "arguments_that_wait",
    "lines_that_do_not_end",
    "replies_held_for_order",
    "replies_of_a_batch",
    "replies_of_the_gone",
    "replies_unread",
    "reports_unread",
    "websocket_replies_unread",
]

BIG_BYTES = 768 * 1024
"""Bytes of each large result or argument: below every limit of one message."""

LINE_PART = 0.9
"""The part of the longest message after which a line is left unfinished."""

CONNECTIONS = 60

CANCELLED = '{"on_disconnect":"cancel"}'

STAY_SECONDS = 5.0
"""Seconds after which connections are closed, and others opened."""


async def _repeat(attacker: Attacker, data: bytes, *, connections: int, reads: bool, stay: float) -> None:
    """Send `data` on each of so many connections, wait, close them, and begin again."""
    while True:
        opened: list[Connection] = []
        for _ in range(connections):
            try:
                connection = await attacker.connect(reads=reads)
                await connection.send(data, patience=0.2)
            except (OSError, TimeoutError):
                attacker.deeds["refused"] += 1
                continue
            opened.append(connection)
            attacker.deeds["connections"] += 1
        await asyncio.sleep(stay)
        for connection in opened:
            attacker.drop(connection)


async def replies_held_for_order(attacker: Attacker) -> None:
    """Ask for large results behind a call that takes long: bare replies keep the order of requests."""
    requests = bare("nap", "[4]") + bare("big", f"[{BIG_BYTES}]") * 900
    await _repeat(attacker, requests, connections=2, reads=False, stay=STAY_SECONDS)


async def replies_of_a_batch(attacker: Attacker) -> None:
    """Ask for large results in a batch, whose answer is one message."""
    members = [rpc(0, "nap", "[4]")] + [rpc(each, "big", f"[{BIG_BYTES}]") for each in range(1, 900)]
    batch = b"[" + b",".join(each.rstrip() for each in members) + b"]\n"
    await _repeat(attacker, batch, connections=2, reads=False, stay=STAY_SECONDS)


async def replies_of_the_gone(attacker: Attacker) -> None:
    """Ask for large results and leave: nobody will read them."""
    requests = bare("nap", "[0.5]") + bare("big", f"[{BIG_BYTES}]") * 900
    await _repeat(attacker, requests, connections=4, reads=False, stay=0.2)


async def replies_unread(attacker: Attacker) -> None:
    """Ask for large results on many connections, and read none."""
    requests = b"".join(rpc(each, "big", f"[{BIG_BYTES}]", CANCELLED) for each in range(20))
    await _repeat(attacker, requests, connections=CONNECTIONS, reads=False, stay=STAY_SECONDS)


async def reports_unread(attacker: Attacker) -> None:
    """Ask for many long reports of progress, and read none."""
    options = '{"progress":true,"on_disconnect":"cancel"}'
    calls = b"".join(rpc(each, "chatter", "[50,20000]", options) for each in range(20))
    await _repeat(attacker, calls, connections=CONNECTIONS, reads=False, stay=STAY_SECONDS)


async def arguments_that_wait(attacker: Attacker) -> None:
    """Send large arguments for calls that have to wait, on many connections."""
    argument = '["' + "x" * BIG_BYTES + '"]'
    calls = bare("nap", "[0.2]", CANCELLED) * 4 + bare("size", argument, CANCELLED) * 20
    await _repeat(attacker, calls, connections=CONNECTIONS, reads=True, stay=STAY_SECONDS)


async def lines_that_do_not_end(attacker: Attacker) -> None:
    """Send nearly the longest message on each of many connections, and never its end."""
    part = b'{"function":"echo","args":["' + b"x" * int(attacker.target.max_message * LINE_PART)
    await _repeat(attacker, part, connections=CONNECTIONS, reads=True, stay=STAY_SECONDS)


async def websocket_replies_unread(attacker: Attacker) -> None:
    """Ask for large results over many websockets, and read none."""
    data = b"".join(frame(TEXT, rpc(each, "big", f"[{BIG_BYTES}]", CANCELLED).rstrip()) for each in range(20))
    while True:
        opened: list[Connection] = []
        for _ in range(CONNECTIONS):
            try:
                connection = await attacker.websocket(reads=False)
                await connection.send(data, patience=0.2)
            except (OSError, TimeoutError):
                attacker.deeds["refused"] += 1
                continue
            opened.append(connection)
            attacker.deeds["connections"] += 1
        await asyncio.sleep(STAY_SECONDS)
        for connection in opened:
            attacker.drop(connection)
