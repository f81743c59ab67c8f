"""One connection that sends as much as it can of something that is dear to the server and cheap to send."""

from __future__ import annotations

import asyncio

from tests.soak.attacks.attacker import (
    ANSWER_SECONDS,
    CONTINUATION,
    PING,
    TEXT,
    Attacker,
    Connection,
    bare,
    frame,
    rpc,
)

__all__ = [
    "flood_of_batches",
    "flood_of_cancels",
    "flood_of_connections",
    "flood_of_errors",
    "flood_of_long_messages",
    "flood_of_long_websocket_messages",
    "flood_of_pings",
    "flood_of_status",
    "flood_of_websocket_errors",
]

CHUNK_BYTES = 64 * 1024

LONG_BYTES = 10 * 1024 * 1024 - 1000
"""Bytes of a long message: a little less than the server takes by default."""

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


def _long_messages() -> list[bytes]:
    """Return messages of almost the greatest length, each dear in another way."""
    room = LONG_BYTES
    return [
        bare("echo", '["' + "x" * room + '"]'),
        bare("echo", '["' + "\\u00e9\\n" * (room // 8) + '"]'),
        bare("echo", '["' + "é" * (room // 2) + '"]'),
        bare("none", "[" + ",".join(["1"] * (room // 2)) + "]"),
        bare("echo", "[" + "[]," * (room // 3) + "0]"),
        bare("echo", "[" + '{"a":1},' * (room // 8) + "0]"),
        bare("echo", "[" + " " * room + "]"),
        bare("echo", "[" + "1.5e-7," * (room // 7) + "0]"),
        bare("echo", "[" + "9" * room + "]"),
        rpc(1, "none", "[" + '"",' * (room // 3) + "0]"),
        b'{"function":"' + b"f" * room + b'"}\n',
        b'{"function":"echo","args":["' + b"x" * room + b'"]\n',
        b"{" + b'"k":0,' * (room // 6) + b'"function":"echo"}\n',
        b"[" + b"0," * (room // 2) + b"0]\n",
        b"[" + b",".join([rpc(1, "taskd.ping").rstrip()] * (room // 60)) + b"]\n",
        b"\xff" * room + b"\n",
        b"{" * room + b"\n",
    ]


async def flood_of_long_messages(attacker: Attacker) -> None:
    """Send messages of the greatest length, valid and not."""
    await _flood_long(attacker, [(message, False) for message in _long_messages()])


async def flood_of_long_websocket_messages(attacker: Attacker) -> None:
    """Send messages of the greatest length over websockets, whole and in fragments of a byte."""
    whole = [(frame(TEXT, message.rstrip()), True) for message in _long_messages()]
    pieces = frame(TEXT, b"[", final=False) + frame(CONTINUATION, b"1", final=False) * (LONG_BYTES // 8)
    await _flood_long(attacker, [*whole, (pieces, True)])


async def _flood_long(attacker: Attacker, messages: list[tuple[bytes, bool]]) -> None:
    """Send each message on a connection of its own, or on a websocket, and await an answer or the close."""
    while True:
        for message, is_frame in messages:
            try:
                connection = await (attacker.websocket() if is_frame else attacker.connect())
                reading = asyncio.create_task(_read(connection))
                try:
                    if await connection.send(message, patience=ANSWER_SECONDS):
                        attacker.deeds["long messages sent"] += 1
                    connection.end_sending()
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await reading
                finally:
                    reading.cancel()
                    attacker.drop(connection)
            except (OSError, TimeoutError):
                attacker.deeds["closed by the server, or late"] += 1


async def flood_of_connections(attacker: Attacker) -> None:
    """Connect, ask for something, and close, from many tasks at once, to both ports."""

    async def connect(port: int, request: bytes) -> None:
        while True:
            try:
                connection = await attacker.connect(port)
                await connection.send(request)
                attacker.deeds["connections"] += 1
                connection.reset()
                attacker.drop(connection)
            except (OSError, TimeoutError):
                attacker.deeds["closed by the server"] += 1
                await asyncio.sleep(0.05)

    ports = {
        attacker.target.task_port: rpc(1, "taskd.ping"),
        attacker.target.web_port: attacker.handshake(),
    }
    await asyncio.gather(*(connect(port, request) for port, request in ports.items() for _ in range(10)))
