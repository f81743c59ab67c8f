"""Clients that leave with as many calls in flight as they may have, which should be cancelled then."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.soak.attacks.attacker import TEXT, Attacker, bare, frame, rpc

__all__ = ["leave", "leave_websockets"]

CALLS = 1500
"""More calls than a connection may have in flight, so that the server has stopped to read it."""

STAY = "stay"
"""The function that ends only when it is cancelled."""

END_SECONDS = 5.0
"""Seconds within which the calls of a client that has left must be gone."""

_OPTIONS = '{"on_disconnect":"cancel"}'


async def leave(attacker: Attacker) -> None:
    """Leave by a close, by a reset, and with a batch."""
    calls = [
        rpc(1, STAY, "[]", _OPTIONS) * CALLS,
        bare(STAY, "[]", _OPTIONS) * CALLS,
        b"[" + b",".join(rpc(each, STAY, "[]", _OPTIONS).rstrip() for each in range(CALLS)) + b"]\n",
    ]
    while True:
        for number in range(2 * len(calls)):
            connection = await attacker.connect()
            await connection.send(calls[number // 2])
            await asyncio.sleep(0.3)
            if number % 2:
                connection.reset()
            else:
                connection.close()
            await _check(attacker, ["a close", "a reset"][number % 2])


async def leave_websockets(attacker: Attacker) -> None:
    """Leave with a websocket's calls, more than a websocket may have in flight."""
    call = rpc(1, STAY, "[]", _OPTIONS).rstrip()
    while True:
        for resets in (False, True):
            connection = await attacker.websocket()
            await connection.send(frame(TEXT, call) * CALLS)
            await asyncio.sleep(0.3)
            if resets:
                connection.reset()
            else:
                connection.close()
            await _check(attacker, f"a websocket's {'reset' if resets else 'close'}")


async def _check(attacker: Attacker, how: str) -> None:
    attacker.deeds["clients that left"] += 1
    if not await attacker.wait_until(_none_stays, END_SECONDS):
        attacker.wrong.append(f"calls went on {END_SECONDS:g} s after {how}")


def _none_stays(status: dict[str, Any]) -> bool:
    return all(worker["function"] != STAY for worker in status["workers"])
