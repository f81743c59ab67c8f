"""Stored tasks: taskd with SQLite beside Celery, Dramatiq, Huey and Procrastinate, two workers each."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol

from bench.brokers import PostgreSQL, RabbitMQ
from bench.field import Field
from bench.loads import Load, LoadFailed, output
from bench.peers import marks
from bench.processes import wait_until_quiet
from bench.results import Result, Series, Target
from bench.scenarios import RATE
from bench.servers import Server, Taskd, ask
from bench.settings import Settings
from bench.tools import BENCH, Missing, environment, say, version

PEERS = BENCH / "peers"
APP = PEERS / "stored_taskd.py"
WORKERS = 2
DISK = "/var/tmp"
"""Where all keep their files: on a disk, which /tmp need not be on."""

CALLS = '{"function":"stored_echo","args":[#]}'
WARM = 0.1
"""The share of a backlog that has run when the time begins to count."""

HOW_MANY = {"taskd": 60_000, "celery": 6_000, "dramatiq": 8_000, "huey": 8_000, "procrastinate": 1_500}
"""Tasks of a backlog: some two seconds."""


class StoredTaskd(Taskd):
    """taskd with two workers and a store in a file."""

    def __init__(self, file: Path, marks_in: Path) -> None:
        marks_in.mkdir(exist_ok=True)
        environ = {"MARKS": str(marks_in)}
        options = ("--store", f"sqlite:{file}")
        super().__init__(*options, workers=WORKERS, websocket=False, app=APP, environ=environ)

    def wait_until_ready(self) -> None:
        """Wait until both workers are idle."""
        self.wait_for_listening()
        self.wait_for_workers("idle", WORKERS)


class Contestant(Protocol):
    """Who takes part. `begin` lets the workers run what has been submitted meanwhile."""

    name: str
    python: str
    module: str
    environ: Mapping[str, str]
    marks_in: Path

    def hold(self) -> None:
        """Let nothing run from now on."""

    def begin(self) -> None:
        """Let the workers run."""

    def rest(self) -> None:
        """Use as little as possible while others are measured."""


@dataclass(slots=True)
class Ours:
    """taskd, whose function is paused while a backlog grows."""

    taskd: StoredTaskd
    marks_in: Path
    name: str = "taskd"
    python: str = sys.executable
    module: str = "stored_taskd"
    environ: dict[str, str] = field(default_factory=dict)

    def hold(self) -> None:
        """Pause the function."""
        ask(self.taskd.port, "taskd.pause", "stored")

    def begin(self) -> None:
        """Resume it."""
        ask(self.taskd.port, "taskd.resume", "stored")

    def rest(self) -> None:
        """Do nothing: it is idle."""


@dataclass(slots=True)
class Peer:
    """A task queue, whose workers are started when a backlog is there."""

    name: str
    commands: list[list[str]]
    environ: dict[str, str]
    marks_in: Path
    running: list[Server] = field(default_factory=list)

    @property
    def module(self) -> str:
        """What its driver imports."""
        return f"stored_{self.name}"

    @property
    def python(self) -> str:
        """That of its own environment."""
        return str(environment(self.module) / "python")

    def hold(self) -> None:
        """End the workers."""
        for server in self.running:
            server.stop()
        self.running.clear()

    def begin(self) -> None:
        """Start them."""
        programs = environment(self.module)
        for program, *options in self.commands:
            self.running.append(Server([str(programs / program), *options], **self.environ))

    def rest(self) -> None:
        """End the workers."""
        self.hold()

    def settle(self) -> None:
        """Wait until all of their processes have come up."""
        for server in self.running:
            wait_until_quiet(server.process.pid)


COMMANDS = {
    "celery": [
        [
            *("celery", "-A", "stored_celery", "worker", "-l", "ERROR", "-c", str(WORKERS)),
            *("--prefetch-multiplier", "64", "--without-gossip", "--without-mingle"),
        ]
    ],
    "dramatiq": [["dramatiq", "stored_dramatiq", "-p", str(WORKERS), "-t", "8"]],
    "huey": [["huey_consumer", "stored_huey.huey", "-q", "-k", "process", "-w", str(WORKERS)]],
    "procrastinate": WORKERS * [["procrastinate", "--app", "stored_procrastinate.app", "worker"]],
}
SETTINGS = {
    "celery": "RabbitMQ, acks late, confirms; 2 processes, prefetch 64, no gossip",
    "dramatiq": "RabbitMQ, confirms; 2 processes, 8 threads each",
    "huey": "SQLite with fsync; 2 processes",
    "procrastinate": "PostgreSQL; 2 processes",
}


@dataclass(slots=True)
class _Round:
    """The figures of one contestant in all rounds."""

    backlog: Series
    single: Series
    start: Series


def _drive(one: Contestant, how: str, *options: str) -> tuple[int, float]:
    """How many tasks a driver has submitted, and how many in a second."""
    environ = {**os.environ, **one.environ, "MARKS": str(one.marks_in)}
    command = [one.python, "stored.py", one.module, how, *options]
    done = output(command, cwd=PEERS, env=environ)
    return int(done["sent"]), float(done["per_second"])


def drain(begin: Callable[[], None], marks_in: Path, tasks: int) -> float:
    """The rate at which so many waiting tasks run, from a tenth of them to the end."""
    before = marks.read(marks_in).count
    begin()
    began = marks.wait_for(marks_in, before + round(WARM * tasks))
    ended = marks.wait_for(marks_in, before + tasks)
    if began.count >= ended.count:
        raise LoadFailed("the backlog was too small")
    return (ended.count - began.count) / (ended.last - began.last)


def _measure(one: Contestant, settings: Settings, into: _Round) -> None:
    """A round of one contestant."""
    one.hold()
    tasks = round(HOW_MANY[one.name] * settings.stored_share)
    _drive(one, "fill", "--tasks", str(tasks))
    into.backlog.values.append(round(drain(one.begin, one.marks_in, tasks)))
    if isinstance(one, Peer):
        one.settle()
    before = marks.read(one.marks_in).count
    sent, rate = _drive(one, "single", "--seconds", str(settings.stored_seconds))
    marks.wait_for(one.marks_in, before + sent)
    into.single.values.append(rate)
    earlier = marks.read(one.marks_in)
    sent, _ = _drive(one, "paced", "--tasks", str(settings.stored_paced))
    marks.wait_for(one.marks_in, earlier.count + sent)
    delays = marks.read(one.marks_in).delays
    # Those of earlier rounds are in the files as well, of the processes that have ended too.
    new = sorted(_without(delays, earlier.delays))
    into.start.values.append(round(1000 * median(new), 3))


def _without(values: list[float], others: list[float]) -> list[float]:
    known = set(others)
    return [value for value in values if value not in known]


@contextmanager
def contestants(directory: Path) -> Iterator[tuple[list[Contestant], list[str]]]:
    """All who can take part here, and notes on the others."""
    notes: list[str] = []
    found: list[Contestant] = []
    with ExitStack() as stack:
        brokers: dict[str, dict[str, str]] = {"huey": {"HUEY_FILE": str(directory / "huey.db")}}
        for names, variable, make in (
            (("celery", "dramatiq"), "AMQP_URL", lambda: RabbitMQ(directory / "rabbitmq")),
            (("procrastinate",), "POSTGRES_URL", lambda: PostgreSQL(directory / "postgresql")),
        ):
            try:
                url = stack.enter_context(make()).url
                brokers.update({name: {variable: url} for name in names})
            except (Missing, OSError) as missing:
                notes.append(f"{' and '.join(names)} did not take part: {missing}.")
        marks_in = directory / "marks-taskd"
        taskd = stack.enter_context(StoredTaskd(directory / "taskd.db", marks_in))
        found.append(Ours(taskd, marks_in, environ={"TASKD_PORT": str(taskd.port)}))
        for name, commands in COMMANDS.items():
            if name not in brokers:
                continue
            try:
                environment(f"stored_{name}")
            except Missing as missing:
                notes.append(f"{name} did not take part: {missing}.")
                continue
            marks_in = directory / f"marks-{name}"
            marks_in.mkdir()
            peer = Peer(
                name, commands, {**brokers[name], "MARKS": str(marks_in), "PYTHONPATH": str(PEERS)}, marks_in
            )
            stack.callback(peer.hold)
            if name == "procrastinate":
                schema = [
                    str(environment(peer.module) / "procrastinate"),
                    "--app",
                    "stored_procrastinate.app",
                ]
                _run([*schema, "schema", "--apply"], peer.environ)
            found.append(peer)
        yield found, notes


def _run(command: list[str], environ: Mapping[str, str]) -> None:
    env = {**os.environ, **environ}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PEERS, env=env)
    if done.returncode:
        raise LoadFailed(f"{' '.join(command)} has failed: {done.stderr[-300:]}")


def stored(field: Field) -> list[Result]:
    """A backlog, one client with one submit at a time, and the time until a task starts."""
    settings = field.settings
    with tempfile.TemporaryDirectory(prefix="taskd-bench-", dir=DISK) as name:
        os.chmod(name, 0o755)
        with contestants(Path(name)) as (found, notes):
            rounds = {one.name: _series(one) for one in found}
            for number in range(settings.peer_rounds):
                for one in found:
                    say(f"  {one.name}, round {number + 1} …")
                    try:
                        _measure(one, settings, rounds[one.name])
                    except (LoadFailed, OSError) as error:
                        say(f"  {one.name}: {error}")
                        rounds[one.name].backlog.failures.append(str(error))
                    finally:
                        one.rest()
            calls = _calls(field, found[0])
    return _results(rounds, notes, calls)


def _series(one: Contestant) -> _Round:
    setting = SETTINGS.get(one.name, "SQLite with fsync; 2 processes")
    name = one.name if isinstance(one, Ours) else f"{one.name} {version(one.module)}"
    return _Round(
        Series(name, RATE, setting),
        Series(name, RATE, setting),
        Series(name, "ms", setting),
    )


def _calls(field: Field, ours: Contestant) -> Series:
    """Calls of a durable function, each answered once its end is stored."""
    series = Series("taskd, calls answered at their end", RATE, "50 connections with 16 in flight each")
    assert isinstance(ours, Ours)
    for _ in range(field.settings.peer_rounds):
        try:
            series.values.append(
                field.timed(Load("pipelined", 50, 16, CALLS)).run(ours.taskd.port).per_second
            )
        except LoadFailed as failure:
            series.failures.append(str(failure))
    return series


def _times(ours: Series, theirs: Series, factor: float, *, least: bool = True) -> Target:
    value = ours.median / theirs.median if theirs.median else 0.0
    how = f"{factor:g} times" if factor != 1 else ("as fast as" if least else "no longer than")
    return Target(f"{how} {theirs.name}", factor, round(value, 3), "times", at_most=not least)


def _results(rounds: dict[str, _Round], notes: list[str], calls: Series) -> list[Result]:
    ours = rounds["taskd"]

    def targets(which: str, factors: Mapping[str, float], *, least: bool = True) -> list[Target]:
        mine: Series = getattr(ours, which)
        return [
            _times(mine, getattr(rounds[name], which), factor, least=least)
            for name, factor in factors.items()
            if name in rounds
        ]

    backlog = Result(
        "stored-backlog",
        "Stored tasks: a backlog",
        "Tasks that do nothing, two worker processes. A task is acknowledged when it is on the disk, and is "
        "taken off it when it has run; by Huey before it runs. All of them have been submitted when the "
        "workers begin; counted from when a tenth of them has run.",
        [*(one.backlog for one in rounds.values()), calls],
        targets("backlog", {"celery": 8, "dramatiq": 5, "huey": 5}),
        notes,
    )
    single = Result(
        "stored-single",
        "Stored tasks: one client submits one at a time",
        "The next is submitted when the one before is acknowledged, while the workers run them.",
        [one.single for one in rounds.values()],
        targets("single", {"celery": 2, "huey": 1}),
    )
    start = Result(
        "stored-start",
        "Stored tasks: from the submit to the start",
        "One every 20 ms, so that each finds the workers idle: the median from before the submit to the "
        "first line of the function.",
        [one.start for one in rounds.values()],
        targets("start", {"dramatiq": 1}, least=False),
    )
    return [backlog, single, start]
