"""The answer of the method `taskd.status`: its structure, and how it is collected."""

from __future__ import annotations

from typing import Any

import msgspec

from taskd import __version__
from taskd.pool.generations import CodeStatus
from taskd.pool.pool import Pool
from taskd.scheduler import FunctionStats, Scheduler
from taskd.scheduler.workers import WorkerView
from taskd.server.counters import Counters

__all__ = ["SHOWN_PARTIES", "FunctionStatus", "PartyStatus", "ServerStatus", "WorkerStatus", "server_status"]


SHOWN_PARTIES = 10
"""Parties that the status names: whoever fills the queue is among them, however many others wait."""


class WorkerStatus(msgspec.Struct, frozen=True):
    """The status of one worker: its process, its state, for how many `seconds`, and its task.

    `function` and `task` are None if it has no task. `tasks` counts those that
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
    tasks: int
    stopping: str | None
    done: int
    generation: int
    memory_kib: int | None


class FunctionStatus(msgspec.Struct, frozen=True):
    """The statistics of one function; times are in seconds.

    `short` says that the function is known to be short, so that several of its
    tasks may be given to a worker at once.
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


class PartyStatus(msgspec.Struct, frozen=True):
    """What waits of one party, and on how many of its connections."""

    party: str
    waiting: int
    connections: int


class ServerStatus(msgspec.Struct, frozen=True):
    """The status of a server: times are in seconds, `waiting` and `running` are numbers of tasks.

    `parties` has those of which most tasks wait, at most `SHOWN_PARTIES` of them.
    `code` says whether there is a fork server and, if not, why, and when the next one starts.
    `unanswered` has the numbers of failures that no reply carried, by reason.
    `log_lines_lost` counts the lines that the log did not take in time.
    """

    name: str
    version: str
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
    counts: Counters
    unanswered: dict[str, int]
    log_lines_lost: int
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
        tasks=len(worker.tasks),
        stopping=running.stop.reason if running is not None and running.stop is not None else None,
        done=worker.done,
        generation=worker.generation,
        memory_kib=pool.memory_kib(worker.number),
    )


def function_status(stats: FunctionStats) -> FunctionStatus:
    """Return the statistics of one function, as `taskd.status` shows them."""
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
    )


def _has_run(stats: FunctionStats) -> bool:
    return bool(stats.done or stats.failed or stats.lost or stats.timed_out or stats.cancelled)


def server_status(
    scheduler: Scheduler, pool: Pool, now: float, counts: Counters, **more: Any
) -> ServerStatus:
    """Return the status of a server; `more` are the members that the scheduler does not know."""
    oldest = scheduler.queue.oldest
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
        counts=counts,
        workers=[worker_status(worker, pool, now) for _, worker in sorted(scheduler.fleet.workers.items())],
        functions=[
            function_status(stats) for _, stats in sorted(scheduler.functions.items()) if _has_run(stats)
        ],
        **more,
    )
