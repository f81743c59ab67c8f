"""Many calls at once, which others have to wait behind: crowds, their priorities, websockets, failures."""

from __future__ import annotations

import asyncio

from tests.soak.attacks.attacker import TEXT, Attacker, Connection, bare, frame, rpc

__all__ = ["crowd", "crowd_of_batches", "crowd_of_websockets", "failures", "idle_connections", "urgent_crowd"]

CONNECTIONS = 12
CALLS = 900
"""Calls in flight on each connection: together more than the queue holds."""

NAP_SECONDS = 0.01

CANCELLED = '{"on_disconnect":"cancel"}'
URGENT = '{"on_disconnect":"cancel","priority":0}'

IDLE = 1300
"""Connections that are opened and do nothing: more than the descriptors of most services."""


async def _keep_asking(attacker: Attacker, connection: Connection, call: bytes) -> None:
    """Send the calls, and another call for each reply."""
    try:
        await connection.send(call * CALLS, patience=60.0)
        while True:
            data = await connection.reader.read(65536)
            if not data:
                break
            replies = data.count(b"\n")
            attacker.deeds["replies"] += replies
            attacker.deeds["refused as busy"] += data.count(b"-32004")
            await connection.send(call * replies, patience=60.0)
    except OSError:
        attacker.deeds["closed by the server"] += 1


async def _crowd(attacker: Attacker, call: bytes) -> None:
    async with asyncio.TaskGroup() as crowd:
        for _ in range(CONNECTIONS):
            connection = await attacker.connect()
            crowd.create_task(_keep_asking(attacker, connection, call))


async def crowd(attacker: Attacker) -> None:
    """Keep a full queue of short calls from a dozen connections."""
    await _crowd(attacker, bare("nap", f"[{NAP_SECONDS}]", CANCELLED))


async def urgent_crowd(attacker: Attacker) -> None:
    """Do that with the highest priority."""
    await _crowd(attacker, bare("nap", f"[{NAP_SECONDS}]", URGENT))


async def failures(attacker: Attacker) -> None:
    """Keep a full queue of calls that fail, each of which may be worth a line of the log."""
    await _crowd(attacker, bare("boom", '["' + "x" * 2000 + '"]', CANCELLED))


async def crowd_of_websockets(attacker: Attacker) -> None:
    """Keep as many calls in flight as many websockets may have."""

    async def ask(connection: Connection) -> None:
        call = frame(TEXT, bare("nap", f"[{NAP_SECONDS}]", CANCELLED).rstrip())
        try:
            await connection.send(call * 100, patience=60.0)
            while data := await connection.reader.read(65536):
                replies = data.count(b"task ")
                attacker.deeds["replies"] += replies
                await connection.send(call * replies, patience=60.0)
        except OSError:
            attacker.deeds["closed by the server"] += 1

    async with asyncio.TaskGroup() as crowd:
        for _ in range(4 * CONNECTIONS):
            crowd.create_task(ask(await attacker.websocket()))


async def crowd_of_batches(attacker: Attacker) -> None:
    """Send batches of a thousand calls over a few websockets."""
    members = [rpc(each, "nap", f"[{NAP_SECONDS}]", CANCELLED).rstrip() for each in range(1000)]
    batch = frame(TEXT, b"[" + b",".join(members) + b"]")

    async def ask() -> None:
        while True:
            try:
                connection = await attacker.websocket()
                await connection.send(batch * 3, patience=60.0)
                while data := await connection.reader.read(65536):
                    attacker.deeds["replies"] += data.count(b'"id"')
                    attacker.deeds["unreachable"] += data.count(b"-32007")
            except (OSError, TimeoutError):
                attacker.deeds["closed by the server"] += 1
                await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as crowd:
        for _ in range(4):
            crowd.create_task(ask())


async def idle_connections(attacker: Attacker) -> None:
    """Open more connections than the server has descriptors, on both ports, and open closed ones again."""
    opened: list[Connection] = []
    while True:
        opened = [each for each in opened if not each.writer.is_closing() and not each.reader.at_eof()]
        while len(opened) < IDLE:
            port = attacker.target.web_port if len(opened) % 2 else attacker.target.task_port
            try:
                opened.append(await attacker.connect(port))
                attacker.deeds["connections"] += 1
            except (OSError, TimeoutError):
                attacker.deeds["refused"] += 1
                break
        await asyncio.sleep(0.05)
