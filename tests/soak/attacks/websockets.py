"""Websockets that come and go, and ones that name tasks of others."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.soak.attacks.attacker import TEXT, Attacker, Connection, frame, rpc

__all__ = ["numbers_of_others", "websockets_that_go"]

AT_ONCE = 350
"""Websockets that are open together."""

NUMBERS = 50
"""How many task numbers are tried after that of the newest task."""


async def websockets_that_go(attacker: Attacker) -> None:
    """Open hundreds of websockets, use each once, and close them all, in different ways."""
    call = frame(TEXT, b'{"function":"echo","args":["' + b"x" * 20_000 + b'"]}')
    while True:
        opened: list[Connection] = []
        for number in range(AT_ONCE):
            try:
                connection = await attacker.websocket()
                await connection.send(call)
            except (OSError, TimeoutError):
                attacker.deeds["refused"] += 1
                break
            opened.append(connection)
            attacker.deeds["websockets"] += 1
            if number % 50 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        for number, connection in enumerate(opened):
            if number % 3 == 0:
                connection.reset()
            elif number % 3 == 1:
                with suppress(OSError):
                    await connection.send(frame(8, b"\x03\xe8"))
            attacker.drop(connection)


async def numbers_of_others(attacker: Attacker) -> None:
    """Cancel tasks by their numbers, as somebody who has asked for none of them."""
    while True:
        victim = await attacker.connect()
        await victim.send(rpc(1, "nap", "[1]"))
        await asyncio.sleep(0.1)
        status = await attacker.status()
        running = [each["task"] for each in status["workers"] if each["function"] == "nap"]
        websocket = await attacker.websocket()
        for task in running:
            await websocket.send(frame(TEXT, rpc(1, "taskd.cancel", f'{{"task":{task}}}').rstrip()))
            attacker.deeds["numbers tried"] += 1
        reply = await victim.line()
        if running and reply is not None and reply.get("error", {}).get("code") == -32002:
            attacker.wrong.append("a websocket cancelled the task of another client by its number")
        attacker.drop(victim)
        attacker.drop(websocket)
