"""``python -m tests.soak.fuzz --seconds 600``: spoiled messages of every kind, sent to both ports.

Some requests are sent as they are, and each of these must get exactly one reply. A finding is also a
traceback, an internal error or a token in the log, an internal error in a reply, a daemon that is gone, a
well-behaved client that gets no answer or a wrong one, an answer that shows its arguments to somebody else,
and tasks, descriptors or memory that stay. The inputs before it are written to a file, one a line. The exit
status is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from tests.soak.attacks.attacker import ANSWER_SECONDS, Attacker, Connection, Target, rpc
from tests.soak.canary import Canary
from tests.soak.fuzz_inputs import Plan, plan, role_of, shown_tokens
from tests.soak.fuzz_servers import FRONTS, Servers
from tests.soak.method_seeds import Known
from tests.soak.mutations import mutated, pieces
from tests.soak.one_reply import asked_over_http, asked_over_lines, asked_over_websocket
from tests.soak.probe import Probe
from tests.soak.token_seeds import right_token

AT_ONCE = 8
"""Connections that send at the same time."""

KEPT = 2000
"""Inputs that are kept, to be written down at a finding."""

END_SECONDS = 20.0
"""Seconds without an answer after which the server must have closed a connection whose sending side is shut
down: thousands of calls may wait for its two workers."""

REST_SECONDS = 20.0
"""Seconds after the last input, within which nothing must be left over."""

GROWTH_BYTES = 48 * 1024 * 1024
"""Bytes by which the daemon may be larger at the end: caches, and what the allocator keeps."""

WAITS = (b"wait", b"/events", b"attach", b"taskd.reload")
"""What may take longer, or have no end: a wait, as it was spoiled, and events."""

INTERNAL = re.compile(rb'"code":-32603|HTTP/1.1 500 ')
"""What an internal error looks like to a client."""

WEB_REST_SECONDS = 90.0
"""The same for ``twistd web``: twisted.web gives up a connection that waits after 60 seconds."""

IDLE_SECONDS = 120.0
"""Seconds after the last input, within which the tasks that were stored must have ended."""

KEPT_CONNECTIONS = {"local": 0, "per-message": 1, "pooled": 5}
"""Connections that a gateway keeps to its task server: one for events, and those of a pooled link."""

KEPT_BYTES = 64
"""Bytes of what was received that are searched again with what follows: as long as what is looked for."""


class Fuzz:
    """One run; everything that is sent follows from `seed` but for ids, and the order among connections."""

    servers: Servers

    def __init__(self, seed: int, options: argparse.Namespace) -> None:
        self._has_tokens: bool = options.tokens
        self._spare = 2 * KEPT_CONNECTIONS[options.link]  # both of their ends are counted
        self._front: str = options.front
        self.findings: list[str] = []
        self.counts: Counter[str] = Counter()
        self.known = Known()
        self.mark = f"mark-{os.urandom(8).hex()}"
        """A text in all that the canary sends."""
        self._rng = Random(seed)
        self._kept: deque[bytes] = deque(maxlen=KEPT)

    def find(self, what: str) -> None:
        """Note a finding; the first brings the inputs before it to a file."""
        if not self.findings:
            path = Path(tempfile.gettempdir(), f"taskd-fuzz-{os.getpid()}")
            path.write_text("\n".join(repr(data) for data in self._kept))
            print(f"the inputs before the first finding are in {path}", flush=True)
        self.findings.append(what)
        print(f"FOUND {what[:2000]}", flush=True)

    async def run(self, seconds: float) -> None:
        """Send for so long, and look at what is left."""
        before = await self._at_rest()
        ports = self.servers.ports
        probe = await Probe.start(*ports, right_token() if self._has_tokens else "")
        canary = Canary(Target(*ports), self.known, self.mark, self.find)
        watching = asyncio.create_task(canary.run()) if self._has_tokens else None
        ending = time.monotonic() + seconds
        senders = [asyncio.create_task(self._send_until(ending, number)) for number in range(AT_ONCE)]
        await asyncio.gather(*senders)
        if watching is not None:
            await canary.stop(watching)
            print(f"{'canary':12} {dict(canary.counts)}, {canary.worst:.1f} s at worst")
        for name, series in (await probe.stop()).items():
            print(f"{name:12} {series}")
            if series.unanswered or series.lost_connections:
                self.find(f"the well-behaved client: {name}: {series}")
        await self._until_idle()
        after = await self._at_rest()
        ending = time.monotonic() + (WEB_REST_SECONDS if self._front == "web" else 0.0)
        while after[0] > before[0] + self._spare and time.monotonic() < ending:
            after = await self._at_rest()
        self._compare(before, after)
        print(f"{'sent':12} " + ", ".join(f"{what} {count:,}" for what, count in self.counts.items()))

    def _compare(self, before: tuple[int, list[int]], after: tuple[int, list[int]]) -> None:
        print(f"{'descriptors':12} {before[0]} before, {after[0]} after")
        if after[0] > before[0] + self._spare:
            self.find(f"descriptors are left over: {[each.descriptors() for each in self.servers.all]}")
        for first, last in zip(before[1], after[1], strict=True):
            print(f"{'memory':12} {first >> 20} MiB before, {last >> 20} after")
            if last > first + GROWTH_BYTES:
                self.find("memory is left over")

    async def _until_idle(self) -> None:
        """Wait until no task waits or runs."""
        attacker = Attacker(Target(*self.servers.ports, source="127.0.0.1"))
        began = time.monotonic()
        status: dict[str, Any] = {}
        while time.monotonic() < began + IDLE_SECONDS:
            connection = await attacker.connect()
            if self._has_tokens:
                await connection.send(rpc(1, "taskd.auth", f'["{right_token(role="operate")}"]'))
                await connection.line()
            await connection.send(rpc(2, "taskd.status"))
            status = (await connection.line() or {}).get("result", {})
            attacker.drop(connection)
            if status and not (status["waiting"] or status["running"] or status["reloading"]):
                print(f"{'idle':12} after {time.monotonic() - began:.1f} s")
                return
            await asyncio.sleep(0.5)
        self.find(f"tasks are left over after {IDLE_SECONDS:g} s: {status}")

    async def _at_rest(self) -> tuple[int, list[int]]:
        """Wait until the number of descriptors no longer changes; return it, and the memory in bytes."""
        ending = time.monotonic() + REST_SECONDS
        last, since = -1, time.monotonic()
        while time.monotonic() < ending:
            now = self.servers.descriptors()
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > REST_SECONDS / 4:
                break
            await asyncio.sleep(0.2)
        return last, self.servers.memory()

    async def _send_until(self, ending: float, number: int) -> None:
        rng = Random(self._rng.random())
        ports = self.servers.ports
        attacker = Attacker(Target(*ports, source=f"127.0.0.{number + 2}"))
        while time.monotonic() < ending:
            port = rng.choice(ports)
            is_exact = rng.random() < 0.2
            is_web = (port == ports[1]) != (
                not is_exact and rng.random() < 0.03
            )  # a few come to the wrong port
            chosen = plan(rng, attacker, self.known, is_web=is_web, has_tokens=self._has_tokens)
            try:
                connection = await attacker.connect(port)
            except (OSError, TimeoutError) as error:
                if gone := self.servers.gone:
                    self.find(f"the daemon is gone: {gone}")
                    return
                self.find(f"no connection: {error!r}")
                continue
            self.counts["connections"] += 1
            if is_exact:
                await self._ask(rng, attacker, connection, chosen, is_web=is_web)
            else:
                data = mutated(rng, chosen.seeds)
                self._kept.append(chosen.handshake + data)
                await self._send(rng, connection, chosen, data)
            attacker.drop(connection)

    async def _ask(
        self, rng: Random, attacker: Attacker, connection: Connection, chosen: Plan, *, is_web: bool
    ) -> None:
        """Send requests as they are, each of which must get exactly one reply."""
        self.counts["asked exactly"] += 1
        if not is_web:
            received = await asked_over_lines(
                rng, connection, chosen.line, chosen.seeds, chosen.ids, self.find
            )
        elif rng.random() < 0.5:
            received = await asked_over_http(rng, connection, chosen.headers, chosen.ids, self.find)
        else:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                await connection.send(attacker.handshake(chosen.headers.decode()))
                async with asyncio.timeout(ANSWER_SECONDS):
                    await connection.reader.readuntil(b"\r\n\r\n")
            received = await asked_over_websocket(rng, connection, chosen.ids, self.find)
        self.counts["bytes received"] += len(received)
        self._look_at(received, chosen, chosen.line + chosen.headers)

    async def _send(self, rng: Random, connection: Connection, chosen: Plan, data: bytes) -> None:
        first = chosen.handshake
        if first:  # what comes with a handshake is not read
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                await connection.send(first)
                async with asyncio.timeout(ANSWER_SECONDS):
                    await connection.reader.readuntil(b"\r\n\r\n")
        reading = (
            asyncio.create_task(self._read(connection, chosen, first + data)) if rng.random() < 0.9 else None
        )
        self.counts["bytes"] += len(data)
        try:
            with suppress(OSError):
                for piece in pieces(rng, data):
                    await connection.send(piece, patience=ANSWER_SECONDS)
                    await asyncio.sleep(rng.choice((0, 0, 0.001, 0.01)))
                await self._end(rng, connection, reading, data)
        finally:
            if reading is not None:
                reading.cancel()

    async def _end(
        self, rng: Random, connection: Connection, reading: asyncio.Task[None] | None, data: bytes
    ) -> None:
        how = rng.random()
        if how < 0.3:
            connection.end_sending()
            self.counts["half-closes"] += 1
            if reading is not None:
                await self._await_end(connection, reading, data)
        elif how < 0.5:
            connection.reset()
            self.counts["resets"] += 1
        elif how < 0.8:
            await asyncio.sleep(rng.uniform(0, 0.05))

    async def _await_end(self, connection: Connection, reading: asyncio.Task[None], data: bytes) -> None:
        """Await the end of a connection whose sending side is shut down, as long as answers come."""
        done: set[asyncio.Task[None]] = set()
        received = -1
        while not done and received < connection.received:
            received = connection.received
            done, _ = await asyncio.wait([reading], timeout=END_SECONDS)
        may_wait = any(each in data for each in WAITS)
        if not done and not may_wait:
            self.find(f"a connection stays open {END_SECONDS:g} s after the last answer to {data[-3000:]!r}")

    async def _read(self, connection: Connection, chosen: Plan, sent: bytes) -> None:
        last = b""
        with suppress(OSError):
            while data := await connection.reader.read(65536):
                self.counts["bytes received"] += len(data)
                connection.received += len(data)
                seen = last + data
                self._look_at(seen, chosen, sent)
                last = data[-KEPT_BYTES:]

    def _look_at(self, seen: bytes, chosen: Plan, sent: bytes) -> None:
        """Look for what no reply may have, and for ids."""
        if found := INTERNAL.search(seen):
            shown = seen[max(0, found.start() - 500) : found.end() + 500]
            self.find(f"an internal error: {shown!r}; sent {sent[-3000:]!r}")
        if chosen.may_see_all:
            return
        self.known.note(seen)
        if self.mark.encode() in seen and all(role_of(each) != "operate" for each in shown_tokens(sent)):
            self.find(f"somebody else's arguments are in {seen[-3000:]!r}; sent {sent[-3000:]!r}")


async def _fuzz(options: argparse.Namespace, seed: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        fuzz = Fuzz(seed, options)
        servers = fuzz.servers = Servers(Path(directory), options, fuzz.find, fuzz.mark)
        try:
            await servers.start()
            await fuzz.run(options.seconds)
            left = await servers.stop()
        finally:
            servers.kill()
        if left:
            fuzz.find(f"processes are left over: {left}")
        return fuzz.findings


def main() -> int:
    """Fuzz, and print what was found."""
    parser = argparse.ArgumentParser(description="Send spoiled messages.", prog="python -m tests.soak.fuzz")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long")
    parser.add_argument("--seed", type=int, help="what everything that is random follows from")
    parser.add_argument("--tokens", action="store_true", help="the server asks for tokens")
    parser.add_argument("--link", choices=("local", "per-message", "pooled"), help="the link of the gateway")
    parser.add_argument(
        "--front", choices=FRONTS, default="none", help="the gateway is another process: taskd, or twistd web"
    )
    parser.add_argument("--twistd", default="", help="the twistd of another version of taskd")
    parser.add_argument("--options", default="", help="more options of the task server, in one argument")
    parser.add_argument("--log", type=argparse.FileType("w"), help="write the servers' logs there")
    options = parser.parse_args()
    options.link = options.link or ("local" if options.front == "none" else "per-message")
    if options.link == "local" and options.front != "none":
        parser.error("a gateway in front of a task server has no link local")
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(2))
    print(f"{'seed':12} {seed}, {options.seconds:g} s, {options.link}, front {options.front}", flush=True)
    findings = asyncio.run(_fuzz(options, seed))
    print(f"{len(findings)} findings" if findings else "nothing was found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
