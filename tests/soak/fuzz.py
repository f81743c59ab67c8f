"""``python -m tests.soak.fuzz --seconds 600``: spoiled messages of every kind, sent to both ports.

A finding is a traceback or an internal error in the log, an internal error in a reply, a daemon that is
gone, a well-behaved client that gets no answer, and descriptors or memory that stay. The inputs before it
are written to a file, one a line. The exit status is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.soak.attacks.attacker import ANSWER_SECONDS, TEXT, Attacker, Connection, Target, frame, rpc
from tests.soak.mutations import line_seeds, mutated, pieces, web_seeds
from tests.soak.probe import Probe
from tests.soak.server import Server
from tests.soak.token_seeds import SECRET, right_token, token_heads, token_lines, tokens

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

INTERNAL = (b"-32603", b" 500 Internal")
"""What an internal error looks like to a client."""

MESSAGE = 65536
"""Bytes of the longest message: inputs over it are frequent."""

OPTIONS = (
    *("--workers", "2", "--timeout", "2", "--max-message", str(MESSAGE), "--max-outstanding", "100"),
    *("--listen", "tcp:0:interface=127.0.0.1", "--websocket", "tcp:0:interface=127.0.0.1"),
)


class Fuzz:
    """One run; everything that is sent follows from `seed` but for the order among connections."""

    server: Server

    def __init__(self, seed: int, *, has_tokens: bool = False) -> None:
        self._has_tokens = has_tokens
        self.findings: list[str] = []
        self.counts: Counter[str] = Counter()
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
        probe = await Probe.start(*self.server.ports, right_token() if self._has_tokens else "")
        ending = time.monotonic() + seconds
        senders = [asyncio.create_task(self._send_until(ending, number)) for number in range(AT_ONCE)]
        await asyncio.gather(*senders)
        for name, series in (await probe.stop()).items():
            print(f"{name:12} {series}")
            if series.unanswered or series.lost_connections:
                self.find(f"the well-behaved client: {name}: {series}")
        after = await self._at_rest()
        print(f"{'descriptors':12} {before[0]} before, {after[0]} after")
        print(f"{'memory':12} {before[1] >> 20} MiB before, {after[1] >> 20} after")
        if after[0] > before[0]:
            self.find(f"descriptors are left over: {self.server.descriptors()}")
        if after[1] > before[1] + GROWTH_BYTES:
            self.find("memory is left over")
        print(f"{'sent':12} " + ", ".join(f"{what} {count:,}" for what, count in self.counts.items()))

    async def _at_rest(self) -> tuple[int, int]:
        """Wait until the number of descriptors no longer changes; return it, and the memory in bytes."""
        ending = time.monotonic() + REST_SECONDS
        last, since = -1, time.monotonic()
        while time.monotonic() < ending:
            now = self.server.descriptors().total()
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > REST_SECONDS / 4:
                break
            await asyncio.sleep(0.2)
        return last, self.server.memory()

    async def _send_until(self, ending: float, number: int) -> None:
        rng = Random(self._rng.random())
        attacker = Attacker(Target(*self.server.ports, source=f"127.0.0.{number + 2}"))
        handshake = attacker.handshake()
        heads, frames = web_seeds(handshake)
        while time.monotonic() < ending:
            port = rng.choice(self.server.ports)
            is_web = (port == self.server.ports[1]) != (rng.random() < 0.03)  # a few come to the wrong port
            first = handshake if is_web and rng.random() < 0.7 else b""
            lines = line_seeds()
            if self._has_tokens:
                first, lines = self._with_tokens(rng, attacker, first, lines)
                heads, frames = web_seeds(first or handshake)
                heads += token_heads(rng, b"Host: 127.0.0.1\r\n")
                frames += [frame(TEXT, line.rstrip()) for line in token_lines(rng)]
            data = mutated(rng, frames if first else heads if is_web else lines)
            self._kept.append(first + data)
            try:
                connection = await attacker.connect(port)
            except (OSError, TimeoutError) as error:
                if self.server.process is not None and self.server.process.returncode is not None:
                    self.find(f"the daemon is gone: {self.server.process.returncode}")
                    return
                self.find(f"no connection: {error!r}")
                continue
            await self._send(rng, connection, first, data)
            attacker.drop(connection)

    @staticmethod
    def _with_tokens(
        rng: Random, attacker: Attacker, first: bytes, lines: list[bytes]
    ) -> tuple[bytes, list[bytes]]:
        """Return a handshake and lines some of which show tokens."""
        token = rng.choice(list(tokens(rng))).encode("latin-1", "replace").decode("latin-1")
        if first and rng.random() < 0.7:
            how = rng.choice(
                ("Sec-WebSocket-Protocol: taskd, taskd.token.{}", "Authorization: Bearer {}", "X: {}")
            )
            shown = token.replace("\r", "").replace("\n", "")
            first = attacker.handshake(how.format(shown) + "\r\n")
        auth = rpc(8, "taskd.auth", f'["{right_token(role=rng.choice(("submit", "operate")))}"]')
        return first, [*(auth + line for line in lines), *token_lines(rng), *lines]

    async def _send(self, rng: Random, connection: Connection, first: bytes, data: bytes) -> None:
        if first:  # what comes with a handshake is not read
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                await connection.send(first)
                async with asyncio.timeout(ANSWER_SECONDS):
                    await connection.reader.readuntil(b"\r\n\r\n")
        reading = asyncio.create_task(self._read(connection)) if rng.random() < 0.9 else None
        self.counts["connections"] += 1
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
        if not done:
            self.find(f"a connection stays open {END_SECONDS:g} s after the last answer to {data[-3000:]!r}")

    async def _read(self, connection: Connection) -> None:
        last = b""
        with suppress(OSError):
            while data := await connection.reader.read(65536):
                self.counts["bytes received"] += len(data)
                connection.received += len(data)
                seen = last + data
                if any(each in seen for each in INTERNAL):
                    self.find(f"an internal error: {seen[-1000:]!r}")
                last = data[-16:]


async def _fuzz(options: argparse.Namespace, seed: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        command = [options.twistd] if options.twistd else None
        fuzz = Fuzz(seed, has_tokens=options.tokens)
        key = Path(directory, "key")
        key.write_text(SECRET)
        server = fuzz.server = Server(Path(directory), fuzz.find, options.log, command)
        try:
            await server.start(
                *("--app", str(Path(__file__).with_name("app.py")), *OPTIONS, *options.options.split()),
                *(("--jwt-key", str(key)) if options.tokens else ()),
                env={"SOAK_MARKS": str(Path(directory) / "marks"), "PYTHONDONTWRITEBYTECODE": "1"},
            )
            await fuzz.run(options.seconds)
            await server.stop()
        finally:
            server.kill_all()
        if left := server.left_over():
            fuzz.find(f"processes are left over: {left}")
        return fuzz.findings


def main() -> int:
    """Fuzz, and print what was found."""
    parser = argparse.ArgumentParser(description="Send spoiled messages.", prog="python -m tests.soak.fuzz")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long")
    parser.add_argument("--seed", type=int, help="what everything that is random follows from")
    parser.add_argument("--tokens", action="store_true", help="the server asks for tokens")
    parser.add_argument("--twistd", default="", help="the twistd of another version of taskd")
    parser.add_argument("--options", default="", help="more options of the server, in one argument")
    parser.add_argument("--log", type=argparse.FileType("w"), help="write the server's log there")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(2))
    print(f"{'seed':12} {seed}, {options.seconds:g} s", flush=True)
    findings = asyncio.run(_fuzz(options, seed))
    print(f"{len(findings)} findings" if findings else "nothing was found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
