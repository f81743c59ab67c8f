"""taskd alone, with a million stored tasks that wait; and a batch that a thousand watch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.field import Field
from bench.loads import Load, output
from bench.peers import marks
from bench.processes import pss_kib
from bench.results import Result, Series, Target, alternate
from bench.scenarios import RATE
from bench.servers import ask
from bench.settings import Settings
from bench.stored import CALLS, DISK, HOW_MANY, PEERS, StoredTaskd, drain
from bench.tools import ROOT, say

TO_SPARE = 150_000
"""Tasks of the file beyond the million in each round: what runs in it."""

TARGET = 0.8
"""The rate with a million waiting, as a share of the empty one."""

FIRST_SECONDS = 1.0
WATCHED_MS = 200.0
WATCHED_TASKS = 1_000


@dataclass(slots=True)
class _Started:
    """What was seen of the starts with many waiting."""

    from_listening: Series = field(default_factory=lambda: Series("taskd, from listening", "s"))
    from_exec: Series = field(default_factory=lambda: Series("taskd, from the command", "s"))
    memory: Series = field(default_factory=lambda: Series("taskd, the daemon", "MiB"))
    empty: Series = field(default_factory=lambda: Series("taskd, the daemon, nothing waits", "MiB"))


def fill(path: Path, tasks: int) -> None:
    """Put so many waiting tasks into a new file."""
    code = "import sys; from bench.waiting import _fill; _fill(sys.argv[1], int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, str(path), str(tasks)], check=True, cwd=ROOT)


def _fill(path: str, tasks: int) -> None:
    # In a process of its own, as what the daemon itself imports is no business of the others here.
    from taskd.durable.ids import Ids
    from taskd.store.base import Changes
    from taskd.store.records import New
    from taskd.store.sqlite import SqliteStore

    store, ids, now = SqliteStore(path), Ids(), time.time()
    for done in range(0, tasks, 5_000):
        some = min(5_000, tasks - done)
        news = [New(ids.make(now), "stored", b"[0]", keep=3600.0) for _ in range(some)]
        store.write(Changes(submits=news), now)
    store.close()


class _Many:
    """Starts on a file with many waiting tasks; each first runs some of them, and then calls beside them."""

    def __init__(self, field: Field, file: Path, marks_in: Path, started: _Started) -> None:
        self._field = field
        self._file = file
        self._marks_in = marks_in
        self._started = started
        self._calls = 0.0

    def drained(self) -> float:
        """The rate of the waiting tasks; and, of this start, what `_Started` has."""
        self._marks_in.mkdir(exist_ok=True)
        before = marks.read(self._marks_in).count
        with StoredTaskdAtOnce(self._file, self._marks_in) as taskd:
            listening = time.monotonic()
            first = marks.wait_for(self._marks_in, before + 1).last
            self._started.from_listening.values.append(round(max(0.0, first - listening), 3))
            self._started.from_exec.values.append(round(first - taskd.began, 3))
            begun = marks.wait_for(self._marks_in, before + 5_000)
            time.sleep(self._field.settings.stored_seconds)
            ended = marks.read(self._marks_in)
            self._started.memory.values.append(round(pss_kib(taskd.daemon) / 1024, 1))
            ask(taskd.port, "taskd.pause", "stored")
            self._calls = _calls(self._field, taskd.port)
            ask(taskd.port, "taskd.resume", "stored")
        return round((ended.count - begun.count) / (ended.last - begun.last))

    def called(self) -> float:
        """The rate of calls of another function beside those that wait, in the same start."""
        return self._calls


class StoredTaskdAtOnce(StoredTaskd):
    """One that is looked at as soon as it listens."""

    def wait_until_ready(self) -> None:
        """Wait until it listens."""
        self.wait_for_listening()


def _calls(field: Field, port: int) -> float:
    return field.timed(Load("pipelined", 50, 16, CALLS)).run(port).per_second


def many_waiting(field: Field) -> list[Result]:
    """A million waiting tasks: how fast they run, how fast others do beside them, and the start with them."""
    settings = field.settings
    many = settings.many_stored
    words = f"{many:,} waiting".replace(",", " ")
    started = _Started()
    with tempfile.TemporaryDirectory(prefix="taskd-bench-", dir=DISK) as name:
        directory = Path(name)
        file = directory / "many.db"
        say(f"  storing {words} tasks …")
        fill(file, many + settings.peer_rounds * min(TO_SPARE, many))
        marks_in = directory / "marks-empty"
        with StoredTaskd(directory / "empty.db", marks_in) as taskd:
            full = _Many(field, file, directory / "marks-many", started)
            backlog = round(HOW_MANY["taskd"] * settings.stored_share)
            series = {
                "few": Series("taskd, a backlog", RATE, f"{backlog:,} waiting".replace(",", " ")),
                "many": Series("taskd, a backlog", RATE, words),
                "empty calls": Series("taskd, calls", RATE, "nothing waits"),
                "calls": Series("taskd, calls beside them", RATE, f"{words} of a function that is paused"),
            }
            measures: dict[str, Callable[[], float]] = {
                "few": lambda: _backlog(taskd, marks_in, backlog),
                "many": full.drained,
                "empty calls": lambda: _calls(field, taskd.port),
                "calls": full.called,
            }
            started.empty.values.append(round(pss_kib(taskd.daemon) / 1024, 1))
            alternate(settings.peer_rounds, {key: (series[key], measures[key]) for key in series})
    started.memory.setting = words
    rates = Result(
        "stored-many",
        f"Stored tasks: {words}",
        "Two worker processes, SQLite. The calls are of a durable function, 50 connections with 16 in flight "
        "each, every one answered once its end is stored.",
        list(series.values()),
        [
            _share("a backlog", series["many"], series["few"]),
            _share("calls", series["calls"], series["empty calls"]),
        ],
    )
    first = Result(
        "stored-restart",
        f"A start with {words} stored tasks: the first task",
        "Until the first of the waiting tasks runs.",
        [started.from_listening, started.from_exec],
        [Target("1 s", FIRST_SECONDS, started.from_listening.median, "s", at_most=True)],
    )
    memory = Result(
        "stored-memory",
        f"Memory of the daemon with {words} stored tasks",
        "Proportional set size (PSS), after seconds in which they ran.",
        [started.memory, started.empty],
    )
    return [rates, first, memory]


def _share(name: str, mine: Series, empty: Series) -> Target:
    value = mine.median / empty.median if empty.median else 0.0
    return Target(f"{name}: {TARGET:g} of the empty rate", TARGET, round(value, 3), "times")


def _backlog(taskd: StoredTaskd, marks_in: Path, tasks: int) -> float:
    """The rate of a backlog that begins and ends."""
    ask(taskd.port, "taskd.pause", "stored")
    environ = {**os.environ, "TASKD_PORT": str(taskd.port), "MARKS": str(marks_in)}
    output(
        [sys.executable, "stored.py", "stored_taskd", "fill", "--tasks", str(tasks)], cwd=PEERS, env=environ
    )
    return round(drain(lambda: ask(taskd.port, "taskd.resume", "stored"), marks_in, tasks))


def watched(field: Field) -> list[Result]:
    """One batch with a thousand watchers: when the last has its last event."""
    settings: Settings = field.settings
    first = Series("taskd, the first watcher", "ms")
    last = Series("taskd, the last watcher", "ms", f"{settings.watchers} connections")
    with tempfile.TemporaryDirectory(prefix="taskd-bench-", dir=DISK) as name:
        marks_in = Path(name, "marks")
        with StoredTaskd(Path(name, "taskd.db"), marks_in) as taskd:

            def measure() -> float:
                ask(taskd.port, "taskd.pause", "stored")
                before = marks.read(marks_in).count
                options = {"port": taskd.port, "watchers": settings.watchers, "tasks": WATCHED_TASKS}
                words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
                seen = output([sys.executable, "watchers.py", *words], cwd=PEERS)
                ended = marks.wait_for(marks_in, before + WATCHED_TASKS).last
                first.values.append(round(1000 * (seen["first"] - ended), 1))
                return round(1000 * (seen["last"] - ended), 1)

            alternate(settings.peer_rounds, {"taskd": (last, measure)})
    return [
        Result(
            "stored-watched",
            f"A batch of {WATCHED_TASKS} stored tasks that {settings.watchers} watch",
            "From the start of its last task, which does nothing, until a watcher has the event that the "
            "batch has ended: that the task has ended is stored in between.",
            [last, first],
            [Target("200 ms", WATCHED_MS, last.median, "ms", at_most=True)],
        )
    ]
