"""Well-formed requests, with broken messages between them: each must get exactly one reply."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from random import Random
from typing import Any

from tests.soak.attacks.attacker import TEXT, Connection, frame
from tests.soak.http_seeds import http_requests
from tests.soak.method_seeds import method_calls
from tests.soak.mutations import mutated, pieces

__all__ = ["Cut", "asked_over_http", "asked_over_lines", "asked_over_websocket", "cut_responses"]

REPLY_SECONDS = 40.0
"""Seconds without any byte after which replies are missing: thousands of calls may wait for two workers."""

LONGEST_JUNK = 4000
"""Bytes of a broken message: a longer one could be over the limit, which ends the connection."""

_PING = b'{"jsonrpc":"2.0","id":"last","method":"taskd.ping"}'

_CALLS = (
    *(("echo", "[1]"), ("echo", '{"value":"x"}'), ("no_such", "[]"), ("boom", '["x"]'), ("typed", '["x"]')),
    *(("nap", "[0.002]"), ("nap_async", "[0.002]"), ("steps", "[3]"), ("big", "[3000]"), ("kept", "[1]")),
    *(("fails", "[1]"), ("hush", '["not to be shown"]'), ("parts", "[3]")),
)

_OPTIONS = ("", ',"options":{"progress":true}', ',"options":{"deadline":5}', ',"options":{"priority":9}')

_numbers = count(1)

Find = Callable[[str], None]


# --- JSON-RPC ----------------------------------------------------------------


def _requests(rng: Random, task: str, batch: str) -> Iterator[tuple[str, bytes]]:
    """Yield requests without end, each with an id that no other has."""
    while True:
        if rng.random() < 0.5:
            method, params = rng.choice(_CALLS)
            options = rng.choice(_OPTIONS)
        else:
            name, calls = rng.choice(list(method_calls(task, batch).items()))
            if name == "auth":
                continue
            method, params, options = f"taskd.{name}", json.dumps(rng.choice(calls)), ""
        identity = f"asked {next(_numbers)}"
        yield (
            identity,
            f'{{"jsonrpc":"2.0","id":"{identity}","method":"{method}","params":{params}{options}}}'.encode(),
        )


def _junk(rng: Random, seeds: list[bytes]) -> bytes:
    """Return a spoiled message that does not end the connection, and is no token."""
    data = mutated(rng, seeds)[:LONGEST_JUNK].replace(b"\n", b" ").replace(b"taskd.auth", b"taskd.ping")
    return data.replace(b"asked ", b"")


def _messages(
    rng: Random, seeds: list[bytes], task: str, batch: str, *, with_junk: bool
) -> tuple[set[str], list[bytes]]:
    """Return the ids of well-formed requests, and messages with them and with junk; a request comes first."""
    requests = _requests(rng, task, batch)
    wanted: set[str] = set()
    messages: list[bytes] = []
    for _ in range(rng.choice((1, 3, 10, 40))):
        how = rng.random()
        if with_junk and messages and how < 0.3:
            messages.append(_junk(rng, seeds))
            continue
        members = [next(requests) for _ in range(rng.randrange(1, 8) if how > 0.85 else 1)]
        wanted.update(identity for identity, _ in members)
        texts = [text for _, text in members]
        messages.append(texts[0] if len(texts) == 1 else b"[" + b",".join(texts) + b"]")
    return wanted, messages


class _Replies:
    """The replies of one connection, counted by their ids."""

    def __init__(self, wanted: set[str]) -> None:
        self.wanted = wanted
        self.counts: Counter[str] = Counter()
        self.has_last = False

    def take(self, text: bytes) -> None:
        """Count the replies in one message."""
        try:
            value: Any = json.loads(text)
        except ValueError:
            return  # the reply to a bare request on a websocket
        for each in value if isinstance(value, list) else [value]:
            if (
                isinstance(each, dict)
                and isinstance(each.get("id"), str)
                and ("result" in each or "error" in each)
            ):
                self.counts[each["id"]] += 1
        self.has_last = self.has_last or "last" in self.counts

    @property
    def are_all(self) -> bool:
        """Whether every request has a reply."""
        return all(identity in self.counts for identity in self.wanted)

    def wrong(self) -> str:
        """Name the requests with more or less than one reply; "" if there are none."""
        wrong = {identity: self.counts[identity] for identity in self.wanted if self.counts[identity] != 1}
        return f"{len(wrong)} of {len(self.wanted)}: {dict(list(wrong.items())[:5])}" if wrong else ""


async def asked_over_lines(
    rng: Random, connection: Connection, first: bytes, seeds: list[bytes], ids: tuple[str, str], find: Find
) -> bytes:
    """Send requests on a connection of TCP behind `first`, a line or nothing; return what was received."""
    wanted, messages = _messages(rng, seeds, *ids, with_junk=True)
    data = first + b"".join(message + b"\n" for message in messages)
    replies = _Replies(wanted)
    sending = asyncio.create_task(_send(rng, connection, data, ends=True))
    received = bytearray()
    how = "no end"
    try:
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(REPLY_SECONDS):
                    new = await connection.reader.read(65536)
                if not new:
                    how = "the end"
                    break
                received += new
    except OSError as error:
        how = repr(error)
    finally:
        sending.cancel()
    for line in received.split(b"\n"):
        replies.take(line)
    if wrong := replies.wrong():
        find(f"not one reply for each over TCP, {how}: {wrong}; {_shown(data, received)}")
    return bytes(received)


async def _send(rng: Random, connection: Connection, data: bytes, *, ends: bool = False) -> None:
    with suppress(OSError):
        for piece in pieces(rng, data):
            await connection.send(piece, patience=REPLY_SECONDS)
            await asyncio.sleep(rng.choice((0, 0, 0.001)))
        if ends:
            connection.end_sending()


async def asked_over_websocket(
    rng: Random, connection: Connection, ids: tuple[str, str], find: Find
) -> bytes:
    """Send requests on an open websocket, then a last ping behind all replies; return what was received."""
    wanted, messages = _messages(rng, [], *ids, with_junk=False)
    data = b"".join(frame(TEXT, message) for message in messages)
    replies = _Replies(wanted)
    sending = asyncio.create_task(_send(rng, connection, data))
    received, unread = bytearray(), b""
    how = "no end"
    asked_last = False
    try:
        with suppress(TimeoutError):
            while not replies.has_last:
                if replies.are_all and not asked_last:  # a second reply would come before that to this ping
                    asked_last = True
                    await connection.send(frame(TEXT, _PING))
                async with asyncio.timeout(REPLY_SECONDS):
                    new = await connection.reader.read(65536)
                if not new:
                    how = "the end"
                    break
                received += new
                texts, unread = _cut_frames(unread + new)
                for text in texts:
                    replies.take(text)
    except OSError as error:
        how = repr(error)
    finally:
        sending.cancel()
    if (wrong := replies.wrong()) or not replies.has_last:
        find(f"not one reply for each on a websocket, {how}: {wrong}; {_shown(data, received)}")
    return bytes(received)


def _shown(sent: bytes, received: bytearray) -> str:
    return f"sent {sent[-6000:]!r}; got {bytes(received[-3000:])!r}"


def _cut_frames(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the texts of whole frames, which are not compressed, and the rest."""
    texts = []
    while len(data) >= 2:
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4]), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10]), 10
        if len(data) < start + length:
            break
        if data[0] & 0x0F == TEXT:
            texts.append(data[start : start + length])
        data = data[start + length :]
    return texts, data


# --- HTTP --------------------------------------------------------------------


class Cut:
    """Responses cut from a stream: the status and head of each, in order; `is_whole` if nothing is left."""

    def __init__(self, found: list[tuple[int, bytes]], *, is_whole: bool, closes: bool) -> None:
        self.found = found
        self.is_whole = is_whole
        self.closes = closes


def cut_responses(data: bytes, methods: list[bytes]) -> Cut:
    """Cut the responses to requests with these methods. Raises `ValueError` if they are none."""
    found: list[tuple[int, bytes]] = []
    closes = False
    while data and not closes:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            break
        if not head.startswith(b"HTTP/1.1 "):
            raise ValueError(f"no response: {head[:200]!r}")
        status = int(head[9:12])
        if status == 100:
            data = rest
            continue
        if len(found) == len(methods):
            raise ValueError(f"one response too many: {head[:200]!r}")
        lower = head.lower()
        closes = b"\r\nconnection: close" in lower
        if methods[len(found)] == b"HEAD" or status in (204, 304):
            size = 0
        elif b"\r\ntransfer-encoding: chunked" in lower:
            if (size := _chunks_end(rest)) < 0:
                break
        else:
            _, _, length = lower.partition(b"\r\ncontent-length:")
            size = int(length.partition(b"\r\n")[0]) if length else len(rest)
        if len(rest) < size:
            break
        found.append((status, head))
        data = rest[size:]
    return Cut(found, is_whole=not data, closes=closes)


def _chunks_end(data: bytes) -> int:
    """Return where a body in chunks ends, -1 if it has not."""
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end].partition(b";")[0], 16)
        at = end + 2 + size + 2
        if not size:
            return at if at <= len(data) else -1
    return -1


async def asked_over_http(
    rng: Random, connection: Connection, headers: bytes, ids: tuple[str, str], find: Find
) -> bytes:
    """Send HTTP requests in a row on one connection; return what was received."""
    requests = rng.choices(http_requests(rng, headers, *ids), k=rng.choice((1, 2, 5, 12)))
    methods = [each.partition(b" ")[0] for each in requests]
    data = b"".join(requests)
    sending = asyncio.create_task(_send(rng, connection, data))
    received = bytearray()
    cut = Cut([], is_whole=True, closes=False)
    how = "no end"
    began = time.monotonic()
    try:
        with suppress(TimeoutError):
            while not cut.closes and len(cut.found) < len(methods):
                async with asyncio.timeout(REPLY_SECONDS):
                    new = await connection.reader.read(65536)
                if not new:
                    how = "the end"
                    break
                received += new
                cut = cut_responses(bytes(received), methods)
    except OSError as error:
        how = repr(error)
    except ValueError as error:
        find(f"{error}; sent {data[-6000:]!r}")
        return bytes(received)
    finally:
        sending.cancel()
    if not cut.is_whole or (len(cut.found) < len(methods) and not cut.closes):
        statuses = [status for status, _ in cut.found]
        after = f"{how} after {time.monotonic() - began:.0f} s"
        count = f"{len(cut.found)} responses to {len(methods)} requests"
        find(f"{count}, {after}, {statuses}: {_shown(data, received)}")
    return bytes(received)
