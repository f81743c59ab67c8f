"""One connection that sends as much as it can of something that is dear to the server and cheap to send."""

from __future__ import annotations

import asyncio

from tests.soak.attacks.attacker import PING, TEXT, Attacker, Connection, bare, frame, rpc

__all__ = [
    "flood_of_batches",
    "flood_of_cancels",
    "flood_of_errors",
    "flood_of_pings",
    "flood_of_status",
    "flood_of_websocket_errors",
]

CHUNK_BYTES = 64 * 1024

WAITING, WAITING_FROM = 900, 10
"""The tasks left waiting by each of so many connections while the server is flooded."""

NAP_SECONDS = 0.05

CANCELLED = '{"on_disconnect":"cancel"}'


async def _flood(attacker: Attacker, what: bytes, *, reads: bool = True) -> None:
    """Send `what` again and again on one connection, and read the answers."""
    chunk = what * max(1, CHUNK_BYTES // len(what))
    while True:
        try:
            connection = await attacker.connect()
            reading = asyncio.create_task(_read(connection)) if reads else None
            try:
                while True:
                    if await connection.send(chunk):
                        attacker.deeds["MiB sent"] += len(chunk) / 2**20  # type: ignore[assignment]
            finally:
                if reading is not None:
                    reading.cancel()
        except OSError:
            attacker.deeds["closed by the server"] += 1
            await asyncio.sleep(0.05)


async def _read(connection: Connection) -> None:
    try:
        while await connection.reader.read(CHUNK_BYTES):
            pass
    except OSError:
        return


async def _fill(attacker: Attacker) -> None:
    """Leave many tasks waiting, which makes whatever looks at all of them dear."""
    for _ in range(WAITING_FROM):
        connection = await attacker.connect()
        await connection.send(bare("nap", f"[{NAP_SECONDS}]", CANCELLED) * WAITING)


async def flood_of_status(attacker: Attacker) -> None:
    """Send notifications of `taskd.status`, whose answer nobody gets, with many tasks waiting."""
    await _fill(attacker)
    await _flood(attacker, rpc(None, "taskd.status") + rpc(None, "taskd.functions"))


async def flood_of_cancels(attacker: Attacker) -> None:
    """Cancel tasks that do not exist, with many tasks waiting."""
    await _fill(attacker)
    await _flood(
        attacker, rpc(None, "taskd.cancel", '{"task":987654321}') + rpc(1, "taskd.cancel", '{"id":7}')
    )


async def flood_of_errors(attacker: Attacker) -> None:
    """Send messages that are wrong in different ways, and blank lines."""
    nested = b'{"function":"echo","args":[' + b"[" * 200 + b"]" * 200 + b"]}\n"
    wrong = [b"[]\n", b"{}\n", b"{\n", b"{]\n", b'{"jsonrpc":"2.0"}\n', b"\r\n", b"[1,2,3]\n", nested]
    wrong += [
        bare("echo", "[]", '{"x":1}'),
        bare("no_such_function"),
        b'{"function":"' + b"x" * 900 + b'"}\n',
    ]
    await _flood(attacker, b"".join(wrong))


async def flood_of_batches(attacker: Attacker) -> None:
    """Send batches of thousands of members, which are wrong or ask for nothing."""
    note = rpc(None, "taskd.ping").rstrip()
    batches = [
        b"[" + b",".join([b"1"] * 20_000) + b"]\n",
        b"[" + b",".join([note] * 10_000) + b"]\n",
        b"[" + b",".join([rpc(1, "taskd.functions").rstrip()] * 1000) + b"]\n",
    ]
    await _flood(attacker, b"".join(batches))


async def flood_of_websocket_errors(attacker: Attacker) -> None:
    """Send messages over a websocket that are wrong, empty, or notifications."""
    messages = [b"", b"{}", b"[]", b"{", rpc(None, "taskd.status").rstrip(), b'{"function":"none"}']
    await _flood_websocket(attacker, b"".join(frame(TEXT, each) for each in messages), reads=True)


async def flood_of_pings(attacker: Attacker) -> None:
    """Send pings, and read none of the pongs."""
    await _flood_websocket(attacker, frame(PING, b"x" * 125), reads=False)


async def _flood_websocket(attacker: Attacker, what: bytes, *, reads: bool) -> None:
    chunk = what * max(1, CHUNK_BYTES // len(what))
    while True:
        try:
            connection = await attacker.websocket(reads=reads)
            reading = asyncio.create_task(_read(connection)) if reads else None
            try:
                while True:
                    if await connection.send(chunk):
                        attacker.deeds["MiB sent"] += len(chunk) / 2**20  # type: ignore[assignment]
            finally:
                if reading is not None:
                    reading.cancel()
        except (OSError, TimeoutError):
            attacker.deeds["closed by the server"] += 1
            await asyncio.sleep(0.05)
