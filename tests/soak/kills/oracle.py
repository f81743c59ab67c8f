"""The oracle of the kill soak: what was acknowledged, what was done, and whether the store agrees."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from taskd.drill.task_log import Logged, faults_of_log
from taskd.store.base import Filter, Store
from taskd.store.records import ENDED, Event, Record, State

__all__ = ["Asked", "AskedBatch", "Oracle"]

PAGE = 1000
"""Tasks that are read at once."""

MAX_SHOWN = 20


@dataclass
class Asked:
    """What a client has asked for, and what it has been answered."""

    number: int
    function: str
    seconds: float
    delay: float
    task: str | None = None
    """The id, once it is acknowledged."""
    answered: list[str] = field(default_factory=list)
    """The states and outcomes that the client has been sent, as JSON text."""
    was_cancelled_unbegun: bool = False
    is_in_batch: bool = False


@dataclass
class AskedBatch:
    """A batch that a client has asked for."""

    token: str
    rows: list[Asked]
    delay: float
    batch: str | None = None
    """The id, once it is acknowledged."""


@dataclass
class Runs:
    """What the functions have noted of a task's runs."""

    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


class Oracle:
    """Compares what clients know, the effects and the store. `daemons` has when each began, in order."""

    def __init__(self, asked: dict[int, Asked], effects: Path, daemons: list[float]) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._asked = asked
        self._daemons = daemons
        self._runs: dict[int, Runs] = defaultdict(Runs)
        for line in effects.read_text().splitlines() if effects.exists() else ():
            number, run, what = line.split()
            runs = self._runs[int(number)]
            (runs.begun if what == "begun" else runs.ended).append(run)

    def violate(self, text: str) -> None:
        """Count a violation."""
        self.counts["violations"] += 1
        if len(self.violations) < MAX_SHOWN:
            self.violations.append(text)

    def check(self, store: Store) -> None:
        """Check every task of a store in which nothing is left to do."""
        found: dict[str, Record] = {}
        after = ""
        while page := store.find(Filter(), after, PAGE):
            found |= {record.new.id: record for record in page}
            after = page[-1].new.id
        numbers: Counter[int] = Counter()
        for asked in self._asked.values():
            if asked.task is None:
                continue
            self.counts["acknowledged"] += 1
            record = found.get(asked.task)
            if record is None:
                self._check_forgotten(asked)
            else:
                self._check(asked, record, store.events(asked.task, 0, 10_000))
        for record in found.values():
            if record.new.function != "closed":
                numbers[json.loads(record.new.args or b"[0]")[0]] += 1
        for number, count in numbers.items():
            if count > 1:
                self.violate(f"{number} was accepted {count} times, although its token is the same")
        for number, runs in self._runs.items():
            self.counts["runs"] += len(runs.begun)
            self.counts["ran more than once"] += (
                self._asked[number].function != "flaky" and len(runs.begun) > 1
            )

    def check_batches(self, store: Store, batches: list[AskedBatch]) -> None:
        """Check every batch: its counts, its tasks, and the call at its end."""
        for asked in batches:
            if asked.batch is None:
                continue
            self.counts["batches"] += 1
            record = store.batches.get(asked.batch)
            if record is None:
                self.violate(f"{asked} is lost")
                continue
            tasks = store.find(Filter(batch=asked.batch), "", PAGE)
            ended = Counter(task.state for task in tasks)
            counts = [record.done, record.failed, record.cancelled, record.total]
            right = [
                ended[State.SUCCEEDED],
                ended[State.FAILED] + ended[State.SET_ASIDE],
                ended[State.CANCELLED],
            ]
            if record.ended is None or counts != [*right, len(asked.rows)] or len(tasks) != len(asked.rows):
                self.violate(f"{asked} has the counts {counts}, and its tasks are {ended}")
            then = None if record.then is None else store.get(record.then.id)
            if then is None or then.state is not State.SUCCEEDED or then.outcome is None:
                self.violate(f"{asked} has ended, and there was called {then}")
            elif json.loads(then.outcome) != [asked.batch, *counts]:
                self.violate(f"{asked} has the counts {counts}, and was called {then}")

    def _check_forgotten(self, asked: Asked) -> None:
        if asked.function != "brief":
            self.violate(f"{asked} is lost")
        elif not self._runs[asked.number].ended:
            self.violate(f"{asked} was forgotten, and has never run to its end")

    def _check(self, asked: Asked, record: Record, events: list[Event]) -> None:
        runs = self._runs[asked.number]
        if record.state not in ENDED:
            self.violate(f"{asked} is {record.state.name} after {record.errors} errors, due at {record.due}")
            return
        self.counts[record.state.name.lower()] += 1
        if json.loads(record.new.args or b"[0]")[0] != asked.number or record.new.function != asked.function:
            self.violate(f"{asked} is stored as {record}")
        self._check_log(asked, record, events)
        if record.state is State.SUCCEEDED:
            self._check_result(asked, record, events, runs)
        if asked.was_cancelled_unbegun and (record.state is not State.CANCELLED or runs.begun):
            self.violate(f"{asked} was cancelled before it began, and is {record.state.name}: {runs}")
        if asked.function == "mark_once" and len(runs.begun) > 1:
            self.violate(f"{asked} is to run once, and ran {len(runs.begun)} times")
        if record.state is State.SET_ASIDE and record.losses < 2:
            self.violate(f"{asked} was set aside after {record.losses} losses")
        for answer in asked.answered:
            state, outcome = json.loads(answer)
            mine = None if record.outcome is None else json.loads(record.outcome)
            if state in {each.name.lower() for each in ENDED} and [state, outcome] != [
                record.state.name.lower(),
                mine,
            ]:
                self.violate(f"{asked}: its client was told {answer}, the store has {record}")

    def _check_log(self, asked: Asked, record: Record, events: list[Event]) -> None:
        logged = [Logged(each.seq, each.event, json.loads(each.data).get("attempt")) for each in events]
        for fault in faults_of_log(record.state.name.lower(), record.attempt, logged):
            self.violate(f"{asked} {fault}")

    def _check_result(self, asked: Asked, record: Record, events: list[Event], runs: Runs) -> None:
        number, run = json.loads(record.outcome or b"[0, null]")
        if number != asked.number or run not in runs.ended:
            self.violate(f"{asked} has the result of no run of its own: {record.outcome!r}, {runs}")
            return
        started = max(event.at for event in events if event.event == "started")
        by = sum(began <= started for began in self._daemons)
        if int(run.partition("-")[0]) != by:
            self.violate(f"{asked} has a stale result: its last attempt is of daemon {by}, {run=}")
