"""``make soak``: a server under half the load that it can bear, exposed to every kind of accident.

``python -m tests.soak.run --seconds 600 --seed 7``. It checks that each request is answered exactly
once (see `ledger`), that what the daemon has allocated stays flat, that no descriptor and
no process is left over, and that the log reports no internal error. The exit
status is 1, with the reasons, if a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
import traceback
from array import array
from collections import Counter
from pathlib import Path
from random import Random
from typing import IO

from tests.soak.attack import end_attacks
from tests.soak.attacks import ATTACKS, Attacker, Target
from tests.soak.changes import Changes, Code
from tests.soak.chaos import STAY, Chaos
from tests.soak.clients import Clients, Stuck
from tests.soak.kills import run as kills
from tests.soak.ledger import Ledger
from tests.soak.mix import Mix
from tests.soak.peers import TextPeer
from tests.soak.report import SHORT_RUN, Memory, figures_of, latency_at
from tests.soak.server import Server
from tests.soak.twistd import LEAK
from tests.soak.websocket import WebSocketPeer

SETTINGS = {
    "--workers": ["4:20", "0:12", "10"],
    "--link": ["pooled", "per-message"],
    "--max-tasks": ["100", "2000"],
    "--max-outstanding": ["100", "1000"],
    "--max-unsent": ["65536", "1048576"],
}
"""Options of the server, with the values of which one is chosen at random."""

MAX_MESSAGE = 1024 * 1024
"""Bytes: a low limit, so that longer messages cost the soak little."""

OPTIONS = [
    *("--idle", "2", "--timeout", "5"),
    *("--max-memory", "80M", "--hard-memory", "1G", "--max-message", str(MAX_MESSAGE)),
    *("--listen", "tcp:0:interface=127.0.0.1", "--websocket", "tcp:0:interface=127.0.0.1"),
]

PEERS = [TextPeer] * 12 + [WebSocketPeer] * 6

TICK = 0.005
"""Seconds between two rounds of requests."""

AT_ONCE = 500
"""The largest number of requests in one tick: more would be a burst instead of a load."""

MAX_RATE = 10_000.0
"""The largest number of requests per second: the records of ten minutes fit into memory."""

DEEP = 60
"""The number of requests in flight on each connection while the saturation is measured."""

LAST, LAST_SECONDS = 30, 0.3
"""The requests in flight on each connection at the stop: their number, and the seconds of one."""

QUIET_SECONDS = 20.0
"""Seconds within which the server must release everything that it no longer needs."""

LOOKS = 5
"""How many times in a row it must look the same."""

WORST_LATENCY = 5.0
"""Seconds that a short task may take during a reload."""

USUAL_TIMES = 4
"""How many times the 99th percentile of all short tasks it may take, on a machine that is slow or busy."""

EXTRA_SECONDS = 120.0
"""Seconds that everything except the load itself may take."""

LAST_RECORDS = 60
"""The number of log records shown if a check fails."""

ATTACK_SECONDS = 2.0, 10.0
"""Seconds for which one attack goes on, at least and at most."""

NOT_BESIDE_A_LOAD = {
    *("leave", "leave-websocket", "numbers"),  # the soak's load disturbs what they check
    *("log", "descriptors", "crowd-batches"),  # they need an unread log, or a limit of descriptors
    *("hold-order", "hold-batch", "hold-gone"),  # the server goes on with their calls for minutes
}
"""Attacks that are made without the load of the soak alone."""

MAX_LINKS, ATTACKED_LINKS = 4, 32
"""The number of connections that a pooled link may keep: each has room for 500 calls, and attackers have
hundreds of websockets with 100 each.
"""


class Soak:
    """One run. Everything random follows from `seed`."""

    def __init__(
        self,
        directory: Path,
        seconds: float,
        seed: int,
        log: IO[str] | None,
        haste: float,
        *,
        attackers: bool,
        leak: int,
    ) -> None:
        self.seconds = seconds
        self._attackers = attackers
        self._leak = leak
        self.ledger = Ledger(time.monotonic, may_be_busy=attackers)
        self.server = Server(directory, self.ledger.violate, log)
        self.figures: dict[str, str] = {}
        self._rng = rng = Random(seed)
        self._settings = {option: rng.choice(values) for option, values in SETTINGS.items()}
        self._happened: Counter[str] = Counter()
        self._mix = Mix(Random(rng.random()), self.ledger)
        self._code = Code(Path(__file__).with_name("app.py"), directory / "soak_app.py")
        self._marks = directory / "marks"
        self._clients = Clients(Random(rng.random()), self.ledger, self._mix)
        self._chaos = Chaos(
            Random(rng.random()),
            self.server,
            self.ledger,
            self._mix,
            self._clients.peers,
            self._happened,
            MAX_MESSAGE,
            haste,
        )
        self._changes = Changes(
            Random(rng.random()), self.server, self.ledger, self._code, self._happened, haste
        )
        self._memory = Memory(seconds, is_attacked=attackers)
        self._most_workers = 0
        self._held_back = 0

    async def run(self) -> None:
        """Run the soak; violations are in the ledger. Raises `Stuck`."""
        await self._start()
        before = await self._descriptors_at_rest()
        for kind in PEERS:
            await self._clients.open(kind)
        self._clients.replaces = True
        saturation = await self._measure()
        watching = asyncio.create_task(self._watch())
        self._chaos.begin()
        self._changes.begin()
        attacking = asyncio.create_task(self._attack()) if self._attackers else None
        await self._load(saturation)
        if attacking is not None:
            await end_attacks([attacking])
        await self._chaos.end()
        await self._changes.end()
        watching.cancel()
        await asyncio.wait([watching])
        if not watching.cancelled():
            watching.result()
        await self._clients.drain()
        self._clients.close()
        await self._check_rest(before)
        await self._stop()
        self._check_all()

    async def _start(self) -> None:
        await self.server.start(
            *("--app", str(self._code.path), *OPTIONS),
            *(word for setting in self._settings.items() for word in setting),
            # Python would take the old byte code for a changed file of the same second and size.
            env={"SOAK_MARKS": str(self._marks), "PYTHONDONTWRITEBYTECODE": "1", LEAK: str(self._leak)},
        )
        clients = self._clients
        await clients.connect(self.server.ports)
        # A pooled link keeps its connection: make it open one.
        websocket = await clients.open(WebSocketPeer)
        websocket.ask(self._mix.echo())
        websocket.flush()
        await clients.drain()
        clients.close()

    # --- load ---

    async def _measure(self) -> float:
        """Measure how many requests per second are answered if as many as possible are sent."""
        warm, seconds = (0.5, 1.0) if self.seconds < SHORT_RUN / 2 else (2.0, 4.0)
        await self._saturate(warm)
        before, began = self.ledger.answered, time.monotonic()
        await self._saturate(seconds)
        return (self.ledger.answered - before) / (time.monotonic() - began)

    async def _saturate(self, seconds: float) -> None:
        ending = time.monotonic() + seconds
        while time.monotonic() < ending:
            for peer in self._clients.peers:
                for _ in range(DEEP - peer.in_flight):
                    self._mix.put_one(peer)
                peer.flush()
            await asyncio.sleep(0)

    async def _load(self, saturation: float) -> None:
        asked, answered = self.ledger.sent.total(), self.ledger.answered
        daemon, ours = self.server.cpu_seconds(), time.process_time()
        seconds = await self._ask_at(min(saturation / 2, MAX_RATE))
        asked = self.ledger.sent.total() - asked
        self.figures |= {
            "settings": " ".join(word for setting in self._settings.items() for word in setting),
            "requests": f"{asked:,} in {seconds:.0f} s: {asked / seconds:,.0f} a second, where "
            f"{saturation:,.0f} are answered without all this; {self._held_back:,} held back",
            "answered": f"{self.ledger.answered - answered:,} meanwhile",
            "processors": f"{self.server.cpu_seconds() - daemon:.0f} s the daemon, "
            f"{time.process_time() - ours:.0f} s the soak itself",
        }

    async def _ask_at(self, rate: float) -> float:
        """Send so many requests per second, and return the seconds that this took."""
        peers = self._clients.peers
        began = last = now = time.monotonic()
        owed, asked = 0.0, self.ledger.sent.total()
        while now < began + self.seconds:
            # Other requests sent meanwhile count as part of it.
            owed = min(owed + (now - last) * rate - (self.ledger.sent.total() - asked), AT_ONCE)
            last = now
            while owed >= 1:
                owed -= 1
                peer = self._rng.choice(peers) if peers else None
                if peer is None or not peer.is_open or peer.in_flight >= peer.room:
                    self._held_back += 1
                else:
                    self._mix.put_one(peer)
            for peer in peers:
                peer.flush()
            asked = self.ledger.sent.total()
            await asyncio.sleep(TICK)
            now = time.monotonic()
        return now - began

    async def _attack(self) -> None:
        """Attack the server in one way after the other, from other addresses than that of the clients."""
        names = [name for name in ATTACKS if name not in NOT_BESIDE_A_LOAD]
        while True:
            name = self._rng.choice(names)
            source = f"127.0.0.{self._rng.randrange(2, 255)}"
            attacker = Attacker(Target(*self.server.ports, source, max_message=MAX_MESSAGE))
            attack = asyncio.create_task(ATTACKS[name].run(attacker))
            try:
                await asyncio.sleep(self._rng.uniform(*ATTACK_SECONDS))
            finally:
                for wrong in [*attacker.wrong, *await end_attacks([attack])]:
                    self.ledger.violate(f"the attack {name}: {wrong}")
                attacker.close()
            self._happened[f"attack {name}"] += 1

    async def _watch(self) -> None:
        """Every second, ask for the server's status, and cancel one of the tasks in it."""
        while True:
            await asyncio.sleep(1)
            self._memory.add(await self.server.allocated())
            self._most_workers = max(self._most_workers, len(self.server.workers()))
            status = await self._clients.status()
            tasks = [worker["task"] for worker in status["workers"] if worker["task"] is not None]
            if tasks:
                self._chaos.cancel_task(self._clients.control, self._rng.choice(tasks))

    # --- the end ---

    async def _descriptors_at_rest(self) -> int:
        """Return the daemon's own descriptors, once it is idle and has shrunk to its minimum.

        Those of workers and of a pooled link's connections are not counted.
        """
        links = 0
        if self._settings["--link"] == "pooled":
            links = ATTACKED_LINKS if self._attackers else MAX_LINKS
        ending = time.monotonic() + QUIET_SECONDS
        last, same = 0, 0
        while same < LOOKS:  # a connection that is closed at one end must still be closed at the other
            status = await self._clients.status()
            # A link's connection has both of its ends in the daemon; one is the soak's own.
            linked = status["connections"] - 1
            descriptors = self.server.descriptors().total() - 2 * len(status["workers"]) - 2 * linked
            why_not = self.server.why_not_at_rest(status, 1 + links)
            if time.monotonic() > ending:
                why_not = why_not or f"it has now {descriptors} descriptors, now {last}"
                raise Stuck(f"the server does not come to rest: {why_not}; it says {status}")
            same = 0 if why_not or descriptors != last else same + 1
            last = descriptors
            await asyncio.sleep(0.1)
        return last

    async def _check_rest(self, before: int) -> None:
        after = await self._descriptors_at_rest()
        self.figures["descriptors"] = f"{before} at first, {after} at last"
        if after != before:
            self.ledger.violate(
                f"the daemon has {after} descriptors for itself, it had {before}: {self.server.descriptors()}"
            )
        status = await self._clients.status()
        self.figures["server's counts"] = ", ".join(
            f"{what} {count:,}" for what, count in status["counts"].items()
        )
        stay = next((function for function in status["functions"] if function["name"] == STAY), None)
        if stay is not None and (stay["done"] or stay["timed_out"]):
            self.ledger.violate(f"tasks went on after their connections had ended: {stay}")

    async def _stop(self) -> None:
        """Stop the server while it is busy: every request must be answered."""
        clients = self._clients
        for kind in [TextPeer, TextPeer, WebSocketPeer, WebSocketPeer]:
            await clients.open(kind)
        last = [*clients.open_peers, clients.control]
        for peer in last:
            peer.ask(self._mix.nap(LAST_SECONDS))
            for _ in range(LAST):
                self._mix.put_one(peer)
            peer.flush()
        for peer in last:
            await clients.ask(peer, "taskd.ping")  # everything sent before has been read by then
            peer.expect_end()
        self.ledger.is_stopping = True
        status = await self.server.stop()
        if status != -signal.SIGTERM:  # twistd ends by the signal that stopped it
            self.ledger.violate(f"the server ended with status {status}")
        await asyncio.sleep(0)
        if clients.open_peers:
            self.ledger.violate(f"{len(clients.open_peers)} connections have survived the server")
        left = self.server.left_over()
        if left:
            self.ledger.violate(f"processes are left over: {left}")
        self.figures["processes"] = f"{self._most_workers} workers at most, {len(left)} left over"

    def _check_all(self) -> None:
        self.ledger.check_bounds()
        marks: array[int] = array("Q")
        marks.frombytes(self._marks.read_bytes())
        self.ledger.check_marks(marks)
        self.figures["memory"] = self._memory.judge(self.ledger)
        usual = latency_at(self.ledger, 0.99)
        if self.ledger.worst_in_reload > max(WORST_LATENCY, USUAL_TIMES * usual) and not self._attackers:
            self.ledger.violate(f"a short task took {self.ledger.worst_in_reload:.1f} s during a reload")

    def report(self) -> str:
        """Describe the run and its results."""
        figures = self.figures | figures_of(self.ledger, self._happened)
        figures["reloads"] = f"the longest took {self._changes.worst:.1f} s"
        figures["log"] = ", ".join(
            f"{level or 'other'} {count:,}" for level, count in self.server.levels.items()
        )
        return "\n".join(f"{name:16} {text}" for name, text in figures.items())


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
    """Run the soak, and print its results."""
    parser = argparse.ArgumentParser(description="Soak a server.", prog="python -m tests.soak.run")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the load lasts")
    parser.add_argument("--seed", type=int, help="what everything that is random follows from")
    parser.add_argument("--haste", type=float, default=1.0, help="how much more often things happen")
    parser.add_argument("--attackers", action="store_true", help="attack the server meanwhile")
    parser.add_argument("--leak", type=int, default=0, help="leak so many bytes with each task")
    parser.add_argument("--log", type=argparse.FileType("w"), help="write the server's log there")
    parser.add_argument("--kills", type=int, help="kill a daemon with a store so many times instead")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(2))
    if options.kills is not None:
        print(f"seed {seed}", flush=True)
        return kills.soak(options.kills, seed, options.log)
    print(f"{'seed':16} {seed}, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        soak = Soak(
            Path(directory),
            options.seconds,
            seed,
            options.log,
            options.haste,
            attackers=options.attackers,
            leak=options.leak,
        )
        try:
            asyncio.run(_bounded(soak))
        finally:
            soak.server.kill_all()
    print(soak.report())
    ledger = soak.ledger
    if not ledger.violated:
        print("all is well")
        return 0
    print("the end of the log:", *list(soak.server.records)[-LAST_RECORDS:], sep="\n")
    print(f"{ledger.violated} violations:")
    for text in ledger.violations:
        print(f"- {text}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
