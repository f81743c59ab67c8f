"""``python -m tests.soak.attack NAME … --seconds 10``: attackers, and a well-behaved client beside them.

The names are those of `attacks.ATTACKS`; without one, each is tried in turn, and with ``--together`` all at
once. For each, the times of the well-behaved client before and during the attack are shown (median, 99th
percentile, worst), and what it costs the daemon. The exit status is 1 if the well-behaved client was
refused or had to wait too long, if too much was kept, or if an attacker has found something that must not be.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.attacks import ATTACKS, Attack, Attacker, Target
from tests.soak.probe import Probe, Series
from tests.soak.server import TWISTD, Server

__all__ = ["Observed", "attack", "end_attacks"]

QUIET_SECONDS = 2.0
"""Seconds of measurement before the attack."""

RSS_LIMIT = 1536 * 1024 * 1024
"""Bytes of the daemon's resident memory over which an attack is stopped, to save the machine."""

RSS_KILL = 2 * RSS_LIMIT

LOOK_SECONDS = 0.1
"""Seconds between two looks at the daemon's resources."""

REST_SECONDS = 8.0
"""Seconds after the attack, within which the daemon must have closed what the attackers have left."""

MIB = 1024 * 1024

BUDGET_BYTES = 256 * MIB
"""Bytes that the server may keep for all of its clients: its own default."""

BESIDE_BUDGET_BYTES = 96 * MIB
"""Bytes by which its memory may grow beside that: what the allocator keeps, and what is being copied."""

WAIT_SECONDS = 5.0
"""Seconds within which the well-behaved client must have each of its answers."""

LEFT_OVER = 4
"""Descriptors that may stay: a pooled link keeps its connections."""

OPTIONS = (
    *("--workers", "4"),
    *("--listen", "tcp:0:interface=127.0.0.1", "--websocket", "tcp:0:interface=127.0.0.1"),
)


@dataclass
class Observed:
    """What an attack did, and what it cost: memory in bytes, series by name."""

    name: str
    before: dict[str, Series] = field(default_factory=dict)
    during: dict[str, Series] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)
    """At rest, at most, and after."""
    descriptors: list[int] = field(default_factory=list)
    lines: int = 0
    seconds: float = 0.0
    deeds: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"== {self.name}"]
        for name, series in self.during.items():
            lines.append(f"   {name:10} {self.before[name]} -> {series}")
        at_rest, at_most, after = (each / MIB for each in self.memory)
        lines.append(
            f"   memory     {at_rest:.0f} MiB at rest, {at_most:.0f} at most, {after:.0f} after; "
            f"descriptors {' / '.join(map(str, self.descriptors))}; "
            f"{self.lines} lines of log in {self.seconds:.0f} s"
        )
        lines.append("   done       " + ", ".join(f"{what} {count:g}" for what, count in self.deeds.items()))
        different = dict.fromkeys(self.wrong)
        lines += [f"   WRONG      {self.wrong.count(each)} x {each:.300}" for each in different]
        return "\n".join(lines)

    def judge(self, patience: float) -> None:
        """Add what went beyond the bounds to `wrong`; `patience` multiplies those of time."""
        for name, series in self.during.items():
            if series.errors or series.unanswered or series.lost_connections:
                self.wrong.append(f"the well-behaved client was refused: {name} {series}")
            elif series.worst > WAIT_SECONDS * patience * 1000:
                self.wrong.append(f"the well-behaved client had to wait: {name} {series}")
        at_rest, at_most, _ = self.memory
        if at_most > at_rest + BUDGET_BYTES + BESIDE_BUDGET_BYTES:
            self.wrong.append(f"{(at_most - at_rest) // MIB} MiB were kept")
        if self.descriptors[2] > self.descriptors[0] + LEFT_OVER:
            self.wrong.append("descriptors are left over")


async def attack(
    server: Server, name: str, attacks: Sequence[Attack], seconds: float, patience: float
) -> Observed:
    """Attack a server that is at rest, with all of the attacks at once."""
    seen = Observed(name)
    task_port, web_port = server.ports
    probe = await Probe.start(task_port, web_port)
    await asyncio.sleep(QUIET_SECONDS)
    seen.before = await probe.stop()
    at_rest, files = server.memory(), server.descriptors().total()
    lines = server.levels.total()
    if not all(each.reads_log for each in attacks):
        server.pause_log()
    attackers = [
        Attacker(Target(task_port, web_port, f"127.0.0.{number}"), patience)
        for number in range(2, 2 + len(attacks))
    ]
    probe = await Probe.start(task_port, web_port)
    began = time.monotonic()
    running = [
        asyncio.create_task(each.run(attacker)) for each, attacker in zip(attacks, attackers, strict=True)
    ]
    highest, most_files = await _watch(server, seen, running, began + seconds)
    seen.wrong += await end_attacks(running)
    seen.seconds = time.monotonic() - began
    for attacker in attackers:
        attacker.close()
    seen.during = await probe.stop()
    server.resume_log()
    for attacker in attackers:
        for what, count in attacker.deeds.items():
            seen.deeds[what] = seen.deeds.get(what, 0) + count
        seen.wrong += attacker.wrong
    resting = time.monotonic() + REST_SECONDS * patience
    with suppress(OSError):
        while server.descriptors().total() > files + LEFT_OVER and time.monotonic() < resting:
            await asyncio.sleep(LOOK_SECONDS)
        seen.memory = [at_rest, highest, server.memory()]
        seen.descriptors = [files, most_files, server.descriptors().total()]
    if not seen.memory:
        seen.memory, seen.descriptors = [at_rest, highest, 0], [files, most_files, 0]
        seen.wrong.append("the daemon is gone")
    seen.lines = server.levels.total() - lines
    seen.judge(patience)
    return seen


async def end_attacks(running: Sequence[asyncio.Task[None]]) -> list[str]:
    """Cancel attacks; return how those have ended that had done so by themselves."""
    wrong = [f"an attack has ended: {task.exception()!r}" for task in running if task.done()]
    while pending := [task for task in running if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=1.0)
    return wrong


async def _watch(
    server: Server, seen: Observed, running: list[asyncio.Task[None]], ending: float
) -> tuple[int, int]:
    """Look at the daemon until the time is over; return its highest memory and number of descriptors."""
    highest = most_files = 0
    while time.monotonic() < ending and not all(task.done() for task in running):
        try:
            highest = max(highest, server.memory())
            most_files = max(most_files, server.descriptors().total())
        except OSError:
            break
        if highest > RSS_LIMIT:
            seen.wrong.append(f"more than {RSS_LIMIT // MIB} MiB after the attack had begun: stopped")
            break
        await asyncio.sleep(LOOK_SECONDS)
    return highest, most_files


async def _guard(server: Server) -> None:
    """Kill a daemon that grows on after its attack has been stopped."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        with suppress(OSError):
            if server.memory() > RSS_KILL:
                os.kill(server.pid, signal.SIGKILL)


async def _run(names: list[str], options: argparse.Namespace) -> Observed:
    attacks = [ATTACKS[name] for name in names]
    with tempfile.TemporaryDirectory(prefix="attack-") as directory:
        violations: list[str] = []
        command = [options.twistd] if options.twistd else TWISTD
        limit = min((each.descriptors for each in attacks if each.descriptors), default=0)
        if limit:
            command = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *command]
        server = Server(Path(directory), violations.append, options.log, command)
        try:
            await server.start(
                *("--app", str(Path(__file__).with_name("app.py")), *OPTIONS, *options.options.split()),
                env={"SOAK_MARKS": str(Path(directory) / "marks"), "PYTHONDONTWRITEBYTECODE": "1"},
            )
            guard = asyncio.create_task(_guard(server))
            seen = await attack(server, ", ".join(names), attacks, options.seconds, options.patience)
            status = await server.stop()
            guard.cancel()
            if status != -signal.SIGTERM:
                seen.wrong.append(f"the daemon ended with status {status}")
        finally:
            server.kill_all()
        seen.wrong += violations
    return seen


def main() -> int:
    """Attack, and print what was seen."""
    parser = argparse.ArgumentParser(description="Attack a server.", prog="python -m tests.soak.attack")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which attacks; each by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each goes on")
    parser.add_argument("--together", action="store_true", help="all of them at once")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies the bounds of time")
    parser.add_argument("--twistd", default="", help="the twistd of another version of taskd")
    parser.add_argument("--options", default="", help="more options of the server, in one argument")
    parser.add_argument("--log", type=argparse.FileType("w"), help="write the server's log there")
    options = parser.parse_args()
    names: list[str] = options.names or list(ATTACKS)
    for name in names:
        if name not in ATTACKS:
            parser.error(f"there is no attack {name!r}, only: {', '.join(ATTACKS)}")
    wrong = 0
    for together in [names] if options.together else [[name] for name in names]:
        seen = asyncio.run(_run(together, options))
        print(seen, flush=True)
        wrong += len(seen.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
