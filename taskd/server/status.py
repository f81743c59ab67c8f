"""The answer of the method `taskd.status`: its structure, and how it is collected."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.interfaces import IReactorTime

from taskd import __version__
from taskd.model import Result
from taskd.pool.generations import CodeStatus
from taskd.pool.pool import Pool
from taskd.scheduler import FunctionStats, Scheduler
from taskd.scheduler.budget import Budget
from taskd.scheduler.histograms import quantile
from taskd.scheduler.task import Task
from taskd.scheduler.workers import WorkerView
from taskd.server.counters import Counters
from taskd.server.readiness import Unready

__all__ = [
    "SHOWN_PARTIES",
    "STATUS_AGE",
    "FunctionStatus",
    "PartyStatus",
    "RecentStatus",
    "ScheduleStatus",
    "ServerStatus",
    "WorkerStatus",
    "server_status",
]

STATUS_AGE = 0.1
"""Seconds for which a status may be sent again, if many ask for it."""

STATUS_SHARE = 0.05
"""The part of the time that may be spent on collecting the status for those who ask. Whoever asks
now and then gets a new one each time, so that it shows what has just happened."""

STATUS_BURST = 0.02
"""Seconds of collecting that may be saved up: a hundred times, on a server with a few workers."""

SHOWN_PARTIES = 10
"""Parties that the status names: whoever fills the queue is among them, however many others wait."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """The status of one worker: its process, its state, for how many `seconds`, and its task.

    `function`, `task` and its `owner` are None if it has no task. `tasks` counts those that
    it has been given and that have not ended; `stopping` is the reason why the
    running one is being stopped, None if it is not. `done` counts ended tasks.
    `memory_kib` is the resident memory; `generation` the number of the app's import.
    """

    number: int
    pid: int | None
    state: str
    seconds: float
    function: str | None
    task: int | None
    owner: str | None
    tasks: int
    stopping: str | None
    done: int
    generation: int
    memory_kib: int | None


class FunctionStatus(msgspec.Struct, frozen=True):
    """The statistics of one function; times are in seconds.

    `short` says that the function is known to be short, so that several of its
    tasks may be given to a worker at once. The percentiles are estimates from counts by ranges.
    """

    name: str
    done: int
    failed: int
    lost: int
    timed_out: int
    cancelled: int
    mean: float
    longest: float
    short: bool
    timeout: float | None
    wait_p50: float | None
    wait_p95: float | None
    run_p50: float | None
    run_p95: float | None


class PartyBytes(msgspec.Struct, frozen=True):
    """The bytes held for one party, and the number of its connections that hold many."""

    party: str
    held: int
    connections: int


class BudgetStatus(msgspec.Struct, frozen=True):
    """The byte budget: its `limit`, what is `held` of it, and the parties that hold most, at most ten.

    `waiting` counts the connections and results that wait for room.
    """

    limit: int
    held: int
    waiting: int
    biggest: list[PartyBytes]


def budget_status(budget: Budget) -> BudgetStatus:
    """Return the status of a byte budget."""
    biggest = [PartyBytes(*use) for use in budget.biggest()]
    return BudgetStatus(budget.limit, budget.held, budget.waiting, biggest)


class PartyStatus(msgspec.Struct, frozen=True):
    """The tasks of one party that wait, and on how many of its connections."""

    party: str
    waiting: int
    connections: int


class StoreStatus(msgspec.Struct, frozen=True):
    """The status of the store: whether it lasts, how many tasks are claimed, and its fault if it fails.

    `paused` are the functions of which no stored task is started. `node` is the number of
    this node if the store is shared; `polls` is why others cannot wake it then, None if they can.
    """

    lasting: bool
    claimed: int
    fault: str | None
    paused: list[str] = []
    node: int | None = None
    polls: str | None = None


class ScheduleStatus(msgspec.Struct, frozen=True):
    """The schedule of a function, its next tick and its last one, in seconds since 1970; None for none."""

    function: str
    schedule: str
    next: float | None
    last: float | None


class ServerStatus(msgspec.Struct, frozen=True):
    """The status of a server: times are in seconds, `waiting` and `running` are numbers of tasks.

    `parties` has those of which most tasks wait, at most `SHOWN_PARTIES` of them.
    `code` says whether there is a fork server and, if not, why, and when the next one starts.
    `unanswered` has the numbers of failures that no reply carried, by reason.
    `log_lines_lost` counts the lines that the log did not take in time.
    `unready` says why the server would not take a task now, None if it would.
    """

    name: str
    version: str
    labels: list[str]
    uptime: float
    stopping: bool
    generation: int
    code: CodeStatus
    reloading: bool
    connections: int
    waiting: int
    oldest_waiting: float | None
    parties: list[PartyStatus]
    running: int
    max_queue: int
    min_workers: int
    max_workers: int
    budget: BudgetStatus
    store: StoreStatus | None
    schedules: list[ScheduleStatus]
    counts: Counters
    unanswered: dict[str, int]
    log_lines_lost: int
    unready: Unready | None
    workers: list[WorkerStatus]
    functions: list[FunctionStatus]


def worker_status(worker: WorkerView, pool: Pool, now: float) -> WorkerStatus:
    """Return the status of one worker; `now` is the time on the scheduler's clock."""
    running = worker.first
    if len(worker.tasks) > 1:
        running = worker.tasks.get(pool.begun(worker.number), running)
    return WorkerStatus(
        number=worker.number,
        pid=pool.pid(worker.number),
        state=worker.state.name.lower(),
        seconds=round(now - worker.since, 3),
        function=running.stats.name if running is not None else None,
        task=running.number if running is not None else None,
        owner=running.lane.party.owner if running is not None else None,
        tasks=len(worker.tasks),
        stopping=running.stop.reason if running is not None and running.stop is not None else None,
        done=worker.done,
        generation=worker.generation,
        memory_kib=pool.memory_kib(worker.number),
    )


def function_status(stats: FunctionStats) -> FunctionStatus:
    """Return the statistics of one function, as `taskd.status` shows them."""
    waits, runs = stats.waits, stats.runs
    return FunctionStatus(
        name=stats.name,
        done=stats.done,
        failed=stats.failed,
        lost=stats.lost,
        timed_out=stats.timed_out,
        cancelled=stats.cancelled,
        mean=round(stats.mean, 6),
        longest=round(stats.longest, 6),
        short=stats.is_short,
        timeout=stats.timeout,
        wait_p50=_rounded(quantile(waits, 0.5, stats.longest_wait)),
        wait_p95=_rounded(quantile(waits, 0.95, stats.longest_wait)),
        run_p50=_rounded(quantile(runs, 0.5, stats.longest)),
        run_p95=_rounded(quantile(runs, 0.95, stats.longest)),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _has_run(stats: FunctionStats) -> bool:
    return bool(stats.done or stats.failed or stats.lost or stats.timed_out or stats.cancelled)


def server_status(
    scheduler: Scheduler,
    pool: Pool,
    budget: Budget,
    oldest: Task | None,
    now: float,
    counts: Counters,
    **more: Any,
) -> ServerStatus:
    """Return the status of a server; `more` are the members that the scheduler does not know.

    `oldest` is the oldest of the waiting tasks.
    """
    return ServerStatus(
        version=__version__,
        generation=scheduler.fleet.generation,
        code=pool.code_status(),
        waiting=scheduler.queue.waiting,
        oldest_waiting=None if oldest is None else round(now - oldest.received, 3),
        parties=[
            PartyStatus(party.key, party.waiting, len(party.lanes))
            for party in scheduler.queue.largest_parties(SHOWN_PARTIES)
        ],
        running=scheduler.fleet.running,
        max_queue=scheduler.config.max_queue,
        min_workers=scheduler.config.min_workers,
        max_workers=scheduler.config.max_workers,
        budget=budget_status(budget),
        counts=counts,
        workers=[worker_status(worker, pool, now) for _, worker in sorted(scheduler.fleet.workers.items())],
        functions=[
            function_status(stats) for _, stats in sorted(scheduler.functions.items()) if _has_run(stats)
        ],
        **more,
    )


class RecentStatus:
    """The status, collected and encoded: anew for each request, or if there are many, for several together.

    `collect` returns the present status; `clock` measures how long that takes.
    """

    def __init__(self, clock: IReactorTime, collect: Callable[[], ServerStatus]) -> None:
        self._clock = clock
        self._collect = collect
        self._at = -inf
        self._saved = STATUS_BURST
        self._result: Result | None = None

    def result(self) -> Result:
        """Return a status that is at most `STATUS_AGE` seconds old."""
        now = self._clock.seconds()
        age = now - self._at
        saved = min(self._saved + age * STATUS_SHARE, STATUS_BURST)
        if self._result is None or saved > 0 or not 0 <= age < STATUS_AGE:
            self._result = Result(Raw(msgspec.json.encode(self._collect())))
            self._at = now
            self._saved = saved - (self._clock.seconds() - now)
        return self._result
