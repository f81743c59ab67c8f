"""``make soak``: a server under half the load that it can bear, and everything happens to it.

``python -m tests.soak.run --seconds 600 --seed 7``. What is checked: each
request is answered exactly once (see `ledger`), the daemon's memory stays as
it is, no descriptor and no process is left over, and the log says nothing of
a bug. Exit status 1, with the reasons, where something was not so.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
import traceback
from array import array
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import IO, Any

from tests.soak.chaos import STAY, Chaos, Code
from tests.soak.ledger import Asked, Ledger
from tests.soak.mix import Mix, Order
from tests.soak.peers import Peer, TextPeer, WebSocketPeer
from tests.soak.server import Server

WORKERS = ["4:20", "0:12", "10"]
"""One of them, by chance."""

MAX_MESSAGE = 1024 * 1024
"""Bytes: what is longer is to cost the soak little."""

TEXT_PEERS, WEBSOCKET_PEERS = 12, 6

TICK = 0.005
"""Seconds between two times that something is asked."""

AT_ONCE = 500
"""Requests in one tick: more would be a burst, and no load."""

DEEP = 60
"""Requests under way on each connection while the saturation is measured."""

DRAIN_SECONDS = 30.0
"""Seconds that everything has to be answered in, once nothing more is asked."""

QUIET_SECONDS = 20.0
"""Seconds that the server has to get rid of everything in that it needs no more."""

WORST_LATENCY = 5.0
"""Seconds that a short task may take while code is reloaded, all machines and their loads considered."""

WARM_UP = 0.25
"""Part of the run after which the memory is to grow no more, at most `WARM_UP_SECONDS`."""

WARM_UP_SECONDS = 60.0

GROWTH_BYTES = 2 * 1024 * 1024
GROWTH_PART = 0.02
"""What the daemon's memory may grow by, the greater of the two: pages come and go by less."""

SHORT_RUN = 60.0
"""Seconds: in a shorter run the memory may still grow to what it needs."""

SHORT_GROWTH_BYTES = 16 * 1024 * 1024

EXTRA_SECONDS = 120.0
"""Seconds that everything but the load itself may take."""

MAX_LINKS = 4
"""Connections that a pooled link may keep: each has room for 500 calls."""

MIB = 1024 * 1024

OPTIONS = [
    *("--idle", "2", "--timeout", "5", "--max-tasks", "2000"),
    *("--max-memory", "80M", "--hard-memory", "1G", "--max-message", str(MAX_MESSAGE)),
    *("--listen", "tcp:0:interface=127.0.0.1", "--websocket", "tcp:0:interface=127.0.0.1"),
]


class Stuck(Exception):
    """There is no sense in going on."""


class Soak:
    """One run. Everything that is chosen by chance follows from `seed`."""

    def __init__(self, directory: Path, seconds: float, seed: int, log: IO[str] | None, haste: float) -> None:
        self.seconds = seconds
        self.seed = seed
        self.ledger = Ledger(time.monotonic)
        self.rng = Random(seed)
        self.mix = Mix(Random(self.rng.random()), self.ledger)
        self.code = Code(Path(__file__).with_name("app.py"), directory / "soak_app.py")
        self.marks = directory / "marks"
        self.server = Server(directory, self.ledger.violate, log)
        self.chaos = Chaos(
            Random(self.rng.random()), self.server, self.ledger, self.mix, self.code, MAX_MESSAGE, haste
        )
        self.link = self.rng.choice(["pooled", "per-message"])
        self.workers = self.rng.choice(WORKERS)
        self.peers = self.chaos.peers
        self.open_peers: set[Peer] = set()
        self.figures: dict[str, str] = {}
        self.memory: list[tuple[float, int]] = []
        self.most_processes = 0
        self.held_back = 0
        self._control = TextPeer(self.ledger, self.rng, lambda _: None)
        self._opening: set[asyncio.Task[None]] = set()
        self._replaces = False

    async def run(self) -> None:
        """Do everything; what is wrong is in the ledger."""
        await self._start()
        before = await self._quiet()
        for kind in [TextPeer] * TEXT_PEERS + [WebSocketPeer] * WEBSOCKET_PEERS:
            await self._open(kind)
        self._replaces = True
        saturation = await self._measure()
        began = time.monotonic()
        asked, answered = self.ledger.sent.total(), self.ledger.answered
        used = self.server.cpu_seconds(), time.process_time()
        watching = asyncio.create_task(self._watch())
        self.chaos.begin()
        await self._load(saturation / 2, self.seconds)
        seconds = time.monotonic() - began
        loaded = self.ledger.sent.total() - asked
        await self.chaos.end()
        watching.cancel()
        self.figures["processors"] = (
            f"{self.server.cpu_seconds() - used[0]:.0f} s the daemon, {time.process_time() - used[1]:.0f} s "
            "the soak itself"
        )
        await self._drain()
        self.figures |= {
            "requests": f"{loaded:,} in {seconds:.0f} s: {loaded / seconds:,.0f} a second, where it can "
            f"take {saturation:,.0f}; "
            f"{self.held_back} held back",
            "answered": f"{self.ledger.answered - answered:,}",
        }
        await self._end(before)

    async def _start(self) -> None:
        await self.server.start(
            *("--app", str(self.code.path), "--link", self.link, "--workers", self.workers, *OPTIONS),
            # A changed file of the same second and size would not be seen to be another one.
            env={"SOAK_MARKS": str(self.marks), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        await asyncio.get_running_loop().create_connection(
            lambda: self._control, "127.0.0.1", self.server.ports[0]
        )
        # A pooled link keeps its connection: let it have one.
        websocket = await self._open(WebSocketPeer)
        websocket.ask(self.mix.echo())
        websocket.flush()
        await self._drain()
        self._close_all()

    # --- connections ---

    async def _open(self, kind: type[Peer]) -> Peer:
        loop = asyncio.get_running_loop()
        nth = 1 if kind is WebSocketPeer else 0
        make = lambda: kind(self.ledger, self.rng, self._lost)  # noqa: E731
        _, peer = await loop.create_connection(make, "127.0.0.1", self.server.ports[nth])
        if isinstance(peer, WebSocketPeer):
            await peer.opened
        self.open_peers.add(peer)
        self.peers.append(peer)
        return peer

    def _lost(self, peer: Peer) -> None:
        self.open_peers.discard(peer)
        if peer in self.peers:
            self.peers.remove(peer)
            if self._replaces:
                opening = asyncio.get_running_loop().create_task(self._reopen(type(peer)))
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)

    async def _reopen(self, kind: type[Peer]) -> None:
        try:
            await self._open(kind)
        except OSError as error:
            self.ledger.violate(f"no connection could be opened: {error}")

    # --- load ---

    async def _measure(self) -> float:
        """Requests a second that are answered where as many as possible are asked."""
        warm, seconds = (0.5, 1.0) if self.seconds < SHORT_RUN / 2 else (2.0, 4.0)
        await self._saturate(warm)
        before, began = self.ledger.answered, time.monotonic()
        await self._saturate(seconds)
        return (self.ledger.answered - before) / (time.monotonic() - began)

    async def _saturate(self, seconds: float) -> None:
        ending = time.monotonic() + seconds
        while time.monotonic() < ending:
            for peer in self.peers:
                for _ in range(DEEP - peer.under_way):
                    self.mix.put_one(peer)
                peer.flush()
            await asyncio.sleep(0)

    async def _load(self, rate: float, seconds: float) -> None:
        began = last = time.monotonic()
        owed = 0.0
        while (now := time.monotonic()) < began + seconds:
            owed = min(owed + (now - last) * rate, AT_ONCE)
            last = now
            while owed >= 1:
                owed -= 1
                peer = self.rng.choice(self.peers) if self.peers else None
                if peer is None or not peer.is_open or peer.under_way >= peer.room:
                    self.held_back += 1
                else:
                    self.mix.put_one(peer)
            for peer in self.peers:
                peer.flush()
            await asyncio.sleep(TICK)

    async def _watch(self) -> None:
        """Once in a second, look at the server, and cancel one of the tasks that it shows."""
        while True:
            await asyncio.sleep(1)
            self.memory.append((time.monotonic(), self.server.memory()))
            self.most_processes = max(self.most_processes, len(self.server.workers()))
            status = await self._status()
            jobs = [worker["job"] for worker in status["workers"] if worker["job"] is not None]
            if jobs:
                self.chaos.cancel_job(self._control, self.rng.choice(jobs))
                self._control.flush()

    async def _status(self) -> dict[str, Any]:
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def take(status: dict[str, Any]) -> bool:
            answer.set_result(status)
            return True

        self._control.ask(Order(Asked("taskd.status", self.mix.number(), take), "taskd.status"))
        self._control.flush()
        return await asyncio.wait_for(answer, DRAIN_SECONDS)

    # --- the end ---

    async def _drain(self) -> None:
        """Wait until everything is answered, and every connection that was to be closed is."""

        def is_drained() -> bool:
            return all(peer.is_open and not peer.under_way for peer in self.open_peers)

        for peer in self.open_peers:
            if peer.paused:
                peer.resume()
        if await _holds(is_drained, DRAIN_SECONDS):
            return
        for peer in self.open_peers:
            owed = peer.owed()
            if owed or not peer.is_open:
                what = ", ".join(f"{asked.what} {asked.number}" for asked in owed[:5])
                self.ledger.violate(
                    f"{DRAIN_SECONDS} s after the last request a connection ({peer.ending.value}) "
                    f"is owed {len(owed)} replies: {what}"
                )
        raise Stuck(f"not all was answered; the server says {await self._status()}")

    def _close_all(self) -> None:
        self._replaces = False
        for peer in list(self.open_peers):
            if isinstance(peer, WebSocketPeer) and peer.is_open:
                peer.close()
            elif peer.is_open:
                peer.drop(reset=False)

    async def _end(self, before: int) -> None:
        self._close_all()
        after = await self._quiet()
        stay = next(function for function in (await self._status())["functions"] if function["name"] == STAY)
        if stay["done"] or stay["timed_out"]:
            self.ledger.violate(f"tasks went on after their connections had ended: {stay}")
        self.figures["descriptors"] = f"{before} at first, {after} at last"
        if after != before:
            self.ledger.violate(
                f"the daemon has {after} descriptors for itself, it had {before}: {self.server.descriptors()}"
            )
        self._control.drop(reset=False)
        status = await self.server.stop()
        if status != -signal.SIGTERM:  # twistd ends by the signal that it was stopped by
            self.ledger.violate(f"the server ended with status {status}")
        left = self.server.left_over()
        if left:
            self.ledger.violate(f"processes are left over: {left}")
        self.figures["processes"] = f"{self.most_processes} workers at most, {len(left)} left over"
        self.ledger.check_bounds()
        marks: array[int] = array("Q")
        marks.frombytes(self.marks.read_bytes())
        self.ledger.check_marks(marks)
        self._check_memory()
        if self.ledger.worst_in_reload > WORST_LATENCY:
            self.ledger.violate(f"a short task took {self.ledger.worst_in_reload:.1f} s during a reload")

    async def _quiet(self) -> int:
        """The daemon's own descriptors, once it has nothing to do and is as small as it may be.

        Those of workers, and of what a pooled link keeps, are not counted.
        """
        ending = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < ending:
            await asyncio.sleep(0.1)
            status = await self._status()
            workers = status["workers"]
            ours = status["connections"] - 1
            own = self.server.descriptors().total() - 2 * len(workers) - 2 * ours
            why = self._not_quiet(status)
            if not why:
                return own
        raise Stuck(f"the server does not come to rest: {why}; it says {status}")

    def _not_quiet(self, status: dict[str, Any]) -> str:
        workers, fork_servers = status["workers"], self.server.fork_servers()
        strangers = self.server.strangers()
        if status["waiting"] or status["running"] or status["reloading"]:
            return "it has something to do"
        if [worker["state"] for worker in workers] != ["idle"] * status["min_workers"]:
            return "it has more or less workers than it has to"
        if len(fork_servers) != 1:
            return f"it has the fork servers {fork_servers}"
        if sorted(worker["pid"] for worker in workers) != sorted(self.server.workers()):
            return f"the workers are {self.server.workers()}"
        if strangers:
            return f"it has other processes as well: {strangers}"
        # Ours, and those of the gateway's link: in-process, each has two descriptors.
        if status["connections"] > (1 + MAX_LINKS if self.link == "pooled" else 1):
            return "it has connections"
        return ""

    def _check_memory(self) -> None:
        """The last quarter of the time beside the first one after the warm-up."""
        if not self.memory:
            return
        began, ended = self.memory[0][0], self.memory[-1][0]
        warm = began + min(WARM_UP * self.seconds, WARM_UP_SECONDS)
        quarter = (ended - warm) / 4
        first = [used for when, used in self.memory if warm <= when <= warm + quarter]
        last = [used for when, used in self.memory if when >= ended - quarter]
        if not first or not last:
            return
        before, after = statistics.median(first), statistics.median(last)
        self.figures["memory"] = (
            f"{before / MIB:.1f} MiB at first (after {warm - began:.0f} s), {after / MIB:.1f} MiB at last, "
            f"{max(used for _, used in self.memory) / MIB:.1f} MiB at most"
        )
        allowed = max(GROWTH_BYTES, GROWTH_PART * before)
        if self.seconds < SHORT_RUN:
            allowed = SHORT_GROWTH_BYTES
        if after - before > allowed:
            self.ledger.violate(f"the daemon's memory has grown: {self.figures['memory']}")

    def report(self) -> str:
        """What was done, and what was seen."""
        ledger, chaos = self.ledger, self.chaos
        latencies = sorted(ledger.latencies)
        if latencies:
            at = lambda part: latencies[int(part * (len(latencies) - 1))] * 1000  # noqa: E731
            self.figures["short tasks"] = (
                f"p50 {at(0.5):.1f} ms, p99 {at(0.99):.1f} ms, {at(1):.0f} ms at most; "
                f"{ledger.worst_in_reload * 1000:.0f} ms at most during a reload"
            )
        names = {0: "results"}
        self.figures["outcomes"] = ", ".join(
            f"{names.get(code, code)} {count:,}"
            for code, count in sorted(ledger.outcomes.items(), reverse=True)
        )
        self.figures["asked"] = ", ".join(f"{what} {count:,}" for what, count in ledger.sent.most_common())
        self.figures["happened"] = ", ".join(
            f"{what} {count}" for what, count in sorted(chaos.happened.items())
        )
        self.figures["lost"] = (
            f"{ledger.lost} tasks with a process that we had killed (it may have been {ledger.may_be_lost}); "
            f"{ledger.dropped} requests with their connection; {ledger.unexplained_cancels} cancelled by job"
        )
        self.figures["also"] = (
            f"{ledger.progress:,} reports of progress, {len(ledger.marks):,} marks, "
            f"reloads took {chaos.worst_reload:.1f} s at most; workers {self.workers}, link {self.link}"
        )
        self.figures["log"] = ", ".join(
            f"{level or 'other'} {n:,}" for level, n in self.server.levels.items()
        )
        return "\n".join(f"{name:12} {text}" for name, text in self.figures.items())


async def _holds(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes to hold within so many seconds."""
    ending = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ending:
            return False
        await asyncio.sleep(0.05)
    return True


async def _bounded(soak: Soak) -> None:
    limit = soak.seconds + EXTRA_SECONDS
    try:
        await asyncio.wait_for(soak.run(), limit)
    except Stuck as stuck:
        soak.ledger.violate(str(stuck))
    except TimeoutError:
        soak.ledger.violate(f"the soak has not ended after {limit:.0f} s")
    except Exception as error:
        soak.ledger.violate(f"the soak itself failed: {''.join(traceback.format_exception(error))}")


def main() -> int:
    """Run it, and tell what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the load lasts")
    parser.add_argument("--seed", type=int, default=None, help="what everything random follows from")
    parser.add_argument("--haste", type=float, default=1.0, help="how much more often things happen")
    parser.add_argument("--log", type=argparse.FileType("w"), help="write the server's log there")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(2))
    print(f"{'seed':12} {seed}, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        soak = Soak(Path(directory), options.seconds, seed, options.log, options.haste)
        try:
            asyncio.run(_bounded(soak))
        finally:
            soak.server.kill_all()
        print(soak.report())
    ledger = soak.ledger
    if not ledger.violated:
        print("all is well")
        return 0
    if any("the log says" in text for text in ledger.violations) or options.log is None:
        print("the end of the log:", *list(soak.server.records)[-60:], sep="\n")
    print(f"{ledger.violated} violations:")
    for text in ledger.violations:
        print(f"- {text}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
