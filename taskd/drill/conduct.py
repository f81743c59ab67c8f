"""The course of a drill: nodes, load and kills at once, then rest until all has ended, and the evidence."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from taskd.drill.evidence import Evidence
from taskd.drill.link import StoreLink
from taskd.drill.load import Load
from taskd.drill.node import DrillError, Node
from taskd.drill.plan import LINK, How, Kill, Planned, planned
from taskd.drill.reading import LOOK_SECONDS, Reading, is_finished
from taskd.drill.runs import RUNS, runs_of
from taskd.drill.stores import Place
from taskd.drill.work import Mix
from taskd.errors import TaskdError

__all__ = ["Drill", "DrillConfig"]

SETTLE_SECONDS = 120.0
"""Seconds within which everything must have ended after the load."""

TELL_SECONDS = 5.0
"""Seconds between two lines about how far it is."""

BUGS = ("a bug in taskd", "Unhandled")
"""What a log has only if something is wrong with taskd."""

MOST_LOG_FAULTS = 20


@dataclass(frozen=True, slots=True)
class DrillConfig:
    """The parts of a drill: so many nodes, workers of each, seconds of load and tasks a second.

    `targets` are what is killed. `late` is the number of seconds after which a start is late.
    """

    nodes: int
    workers: int
    seconds: float
    rate: float
    targets: frozenset[str]
    seed: int
    late: float


class Drill:
    """One drill at a place. `say` is called with lines about how far it is."""

    def __init__(self, config: DrillConfig, place: Place, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._place = place
        self._runs = place.directory / "runs"
        self._sockets = Path(tempfile.mkdtemp(prefix="taskd-drill-"))  # their paths have to be short
        self._rng = Random(config.seed)  # noqa: S311
        self._seconds = 0.0
        self._kills: list[Kill] = []
        self._died: list[str] = []
        self._frozen: list[tuple[Node, list[int]]] = []
        self._links: dict[Node, StoreLink] = {}
        self._over = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._nodes = [self._node(number) for number in range(1, config.nodes + 1)]
        addresses = [node.address for node in self._nodes]
        self._mix = Mix(Random(config.seed), config.rate, config.nodes * config.workers)  # noqa: S311
        self._load = Load(addresses, self._mix, config.rate, self._rng, f"drill {os.urandom(4).hex()}")
        self._reading = Reading(addresses)

    def _node(self, number: int) -> Node:
        options = ["--workers", str(self._config.workers)]
        socket = self._sockets / f"node-{number}"
        return Node(number, options, self._place.directory, socket, {RUNS: str(self._runs)})

    def interrupt(self) -> None:
        """End the load, and report when all has ended; the second time, report at once."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def run(self) -> Evidence:
        """Run it, and return the evidence. Raises `DrillError` if the nodes cannot be started."""
        try:
            await self._start()
            await self._disturb_under_load()
            return await self._rest()
        finally:
            await self._end()

    # --- its parts ---

    async def _start(self) -> None:
        starting = [self._start_node(node) for node in self._nodes]
        if not await self._unless(self._hurrying, asyncio.gather(*starting)):
            raise DrillError("it was ended before the nodes had started")

    async def _start_node(self, node: Node) -> None:
        node.use_store(await self._store_of(node))
        await node.start()
        self._say(f"node {node.life} has started")

    async def _store_of(self, node: Node) -> str:
        """Return the store as a node reaches it, through a link of its own if that may be cut."""
        place, server = self._place, self._place.server
        if LINK not in self._config.targets or server is None:
            return place.store
        link = self._links[node] = StoreLink(place.connect)
        if not server.host.startswith("/"):
            await link.start()
            return server.through("127.0.0.1", link.port)
        # The server knows by such a socket who is there; it has no name by which it could be reached else.
        await link.start_at(self._sockets / f".s.PGSQL.{node.number}")
        return server.through(str(self._sockets), node.number)

    async def _disturb_under_load(self) -> None:
        config = self._config
        rng = Random(config.seed)  # noqa: S311  # of its own, so that the plan does not depend on the times
        plan = planned(rng, config.seconds, config.nodes, config.targets)
        workers = [each for each in plan if each.how is How.WORKER]
        nodes = [each for each in plan if each.how in (How.KILL, How.STOP, How.FREEZE)]
        links = [each for each in plan if each.how in (How.CUT, How.HOLD)]
        began = time.monotonic()
        telling = asyncio.create_task(self._tell(began))
        doing = asyncio.gather(*(self._in_turn(part, began) for part in (workers, nodes, links)))
        try:
            await self._unless(self._stopping, self._load.run(config.seconds))
            self._seconds = time.monotonic() - began
            self._over.set()
            await self._unless(self._hurrying, doing)  # a node that is about to start is waited for
        finally:
            doing.cancel()
            telling.cancel()

    async def _in_turn(self, plan: list[Planned], began: float) -> None:
        for each in plan:
            await self._pause(began + each.at - time.monotonic())
            if self._over.is_set():
                return
            await self._do(each)

    async def _pause(self, seconds: float) -> None:
        """Wait so many seconds, or until the load is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), max(seconds, 0.0))

    async def _tell(self, began: float) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            self._note_deaths()
            seconds = time.monotonic() - began
            self._say(f"{seconds:.0f} s: {self._load.accepted:,} tasks accepted, {len(self._kills)} kills")

    async def _rest(self) -> Evidence:
        self._say("the load is over: waiting until everything has ended")
        await self._recover()
        settling = asyncio.create_task(self._settle())
        await self._unless(self._hurrying, settling)
        evidence = Evidence(
            asked=self._mix.asked,
            batches=self._mix.batches,
            kills=self._kills,
            refused=self._load.refused,
            seconds=self._seconds,
            late=self._config.late,
            was_interrupted=self._stopping.is_set(),
            died=self._died,
            was_read=False,
            has_settled=False,
        )
        if not settling.cancelled() and (found := settling.result()) is not None:
            evidence.stored, evidence.stored_batches = found
            evidence.was_read = evidence.has_settled = True
        return evidence

    async def _recover(self) -> None:
        """Let what is frozen go on, and start what is not there, as an operator would."""
        self._thaw()
        self._note_deaths()
        for node in self._nodes:
            if not node.is_running:
                await self._restart(node)

    async def _restart(self, node: Node) -> None:
        """Start a node again; as long as its store is away, again and again, as a supervisor would."""
        link = self._links.get(node)
        while True:
            began = time.monotonic()
            try:
                return await node.start()
            except DrillError as error:
                if link is None or not link.was_disturbed_since(began):
                    self._died.append(str(error))
                    return None
            await asyncio.sleep(LOOK_SECONDS)

    async def _settle(self) -> Any:
        """Wait until all has ended or should have, and return all tasks and all batches."""
        ending = time.monotonic() + SETTLE_SECONDS
        await self._load.finish(SETTLE_SECONDS)
        try:
            while True:
                await self._reading.settled(ending - time.monotonic())
                self._say("reading what is stored")
                tasks, batches = await self._reading.tasks(), await self._reading.batches()
                is_over = time.monotonic() > ending
                if is_over or is_finished(tasks, batches):
                    return tasks, batches
                await asyncio.sleep(LOOK_SECONDS)
        except* TaskdError as errors:
            self._died.append(f"what is stored cannot be read: {errors.exceptions[0]}")
        return None

    async def _end(self) -> None:
        self._thaw()
        await self._load.close()
        await self._reading.close()
        self._note_deaths()
        for node in self._nodes:
            if node.is_running:
                if self._hurrying.is_set():
                    await node.abort()
                elif (wrong := await node.stop()) is not None:
                    self._died.append(wrong)
        for link in self._links.values():
            await link.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    # --- what is done ---

    async def _do(self, each: Planned) -> None:
        if each.how is How.WORKER:
            node = self._rng.choice(self._nodes)
            at, life = time.time(), node.life
            if pid := node.kill_worker(self._rng):
                self._kills.append(Kill(at, each.how, life, pid, at))
            return
        while not (ready := [node for node in self._nodes if node.is_ready]):
            await self._pause(LOOK_SECONDS)
            if self._over.is_set():
                return
        node = self._rng.choice(ready)
        kill = Kill(time.time(), each.how, node.life)
        self._kills.append(kill)
        self._say(f"{each.how}: {node.life}")
        try:
            await self._hit(node, each)
        finally:
            kill.until = time.time()

    async def _hit(self, node: Node, each: Planned) -> None:
        if each.how is How.FREEZE:
            self._frozen.append((node, node.freeze()))
            await self._pause(each.seconds)
            self._thaw()
            return
        if each.how in (How.CUT, How.HOLD):
            link = self._links[node]
            link.cut() if each.how is How.CUT else link.hold()
            await self._pause(each.seconds)
            link.restore()
            return
        if each.how is How.KILL:
            await node.kill()
        elif (wrong := await node.stop()) is not None:
            self._died.append(wrong)
        await self._pause(each.seconds)
        await self._restart(node)

    def _thaw(self) -> None:
        while self._frozen:
            node, family = self._frozen.pop()
            node.thaw(family)

    def _note_deaths(self) -> None:
        self._died += [death for node in self._nodes if (death := node.death) and death not in self._died]

    # --- the files ---

    def read_files(self, evidence: Evidence) -> None:
        """Add what the functions and the nodes have written, once nothing writes any more."""
        if self._runs.exists():
            with self._runs.open() as lines:
                evidence.runs = runs_of(lines)
        faults = []
        for node in self._nodes:
            with suppress(OSError), node.log.open(errors="backslashreplace") as lines:
                faults += [
                    f"node {node.number}: {line.strip()}"
                    for line in lines
                    if any(bug in line for bug in BUGS)
                ]
        evidence.log_faults = faults[:MOST_LOG_FAULTS]

    async def _unless(self, event: asyncio.Event, work: Any) -> bool:
        """Do something until it is done or the event comes; return whether it is done."""
        doing = asyncio.ensure_future(work)
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait([doing, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if doing.done():
            await doing
            return True
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
        return False
