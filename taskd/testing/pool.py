"""A pool whose workers are threads of the test's own process."""

from __future__ import annotations

import os
import signal
from resource import RUSAGE_SELF, getrusage

from msgspec import structs
from twisted.internet.defer import Deferred, succeed

from taskd.functions.registry import FunctionInfo, Registry
from taskd.net.reactor import Reactor
from taskd.pool.exits import WorkerExit
from taskd.pool.generations import CodeStatus
from taskd.pool.pool import PoolObserver
from taskd.testing.worker import Said, ThreadWorker, serve_this_process
from taskd.worker.messages import Attempt, Interrupt, Ready, WorkerConfig

__all__ = ["ThreadPool", "ThreadPoolConfig"]

GRACE = 1.0
"""Seconds at most that an interrupted function has to end: a thread that waits in C code cannot be ended,
and no test should wait for it for long."""

_GENERATION = 1


class ThreadPoolConfig:
    """The configuration of a `ThreadPool`: the functions that it runs, and the limits of their results.

    Raises `TypeError` if a signature cannot be resolved.
    """

    def __init__(self, registry: Registry, config: WorkerConfig) -> None:
        registry.compile()
        self.registry = registry
        self.config = config
        self.functions = [_unscheduled(function.describe()) for function in registry]

    def start(self, reactor: Reactor, observer: PoolObserver) -> ThreadPool:
        """Start the pool; its functions are reported in the next turn of the reactor."""
        return ThreadPool(reactor, self, observer)


def _unscheduled(function: FunctionInfo) -> FunctionInfo:
    """Return a function as the double has it: it runs when a test asks for it, and not by itself."""
    return structs.replace(function, schedule=None, grace=min(function.grace, GRACE))


class ThreadPool:
    """A pool of threads, with the interface of `taskd.pool.pool.Pool`; `reactor` runs in another thread."""

    def __init__(self, reactor: Reactor, wanted: ThreadPoolConfig, observer: PoolObserver) -> None:
        serve_this_process()
        self.loaded: Deferred[None] = Deferred()
        self._reactor = reactor
        self._wanted = wanted
        self._observer = observer
        self._workers: dict[int, ThreadWorker] = {}
        self._last_number = 0
        self._is_closing = False
        self._emptied: Deferred[None] = Deferred()
        reactor.callLater(0, self._load)

    def _load(self) -> None:
        self._observer.code_loaded(_GENERATION, self._wanted.functions)
        self.loaded.callback(None)

    # --- workers ---

    def start_worker(self, generation: int) -> int | None:
        """Start a worker. As `Pool.start_worker`."""
        if self._is_closing or generation != _GENERATION:
            return None
        self._last_number += 1
        worker = ThreadWorker(self._last_number, self._wanted.registry, self._wanted.config, self._said)
        self._workers[worker.number] = worker
        worker.start()
        return worker.number

    def _said(self, worker: ThreadWorker, message: Said | None) -> None:
        self._reactor.callFromThread(self._take, worker, message)

    def _take(self, worker: ThreadWorker, message: Said | None) -> None:
        if worker.is_alone or worker.number not in self._workers:
            return
        if message is None:
            self._gone(worker, 0)
        elif isinstance(message, Ready):
            worker.is_ready = True
            self._observer.worker_ready(worker.number)
        else:
            self._observer.worker_messages(worker.number, [message])

    def _gone(self, worker: ThreadWorker, code: int) -> None:
        if self._workers.pop(worker.number, None) is None:
            return
        ending = WorkerExit(code, worker.begun, was_ready=worker.is_ready)
        self._observer.worker_exited(worker.number, ending)
        self._check_emptied()

    def send(self, number: int, attempts: list[Attempt]) -> None:
        """Give a worker tasks. As `Pool.send`."""
        self._workers[number].send(attempts)

    def read_on(self, number: int) -> None:
        """Do nothing: results come whole."""

    def drop_result(self, number: int) -> None:
        """Do nothing: results come whole."""

    def reclaim(self, number: int) -> None:
        """Have a worker return what it has not begun. As `Pool.reclaim`."""
        self._workers[number].reclaim()

    def interrupt(self, number: int, message: Interrupt) -> None:
        """Have a worker interrupt a function. As `Pool.interrupt`."""
        self._workers[number].interrupt(message)

    def signal(self, number: int, signal_number: int = signal.SIGKILL) -> None:
        """Leave a worker alone: a thread cannot be killed, but its task has ended for everybody else."""
        worker = self._workers.get(number)
        if worker is not None:
            worker.leave_alone()
            self._reactor.callLater(0, self._gone, worker, -signal_number)

    def retire(self, number: int) -> None:
        """Let a worker end. As `Pool.retire`."""
        self._workers[number].retire()

    def stacks(self, number: int) -> Deferred[str | None]:
        """Return None: no process prints what its threads do. As `Pool.stacks`."""
        return succeed(None)

    def pid(self, number: int) -> int | None:
        """Return the process id: that of the test."""
        return os.getpid() if number in self._workers else None

    def memory_kib(self, number: int) -> int | None:
        """Return the memory, in KiB, of which the process has had most resident: all threads share it."""
        return getrusage(RUSAGE_SELF).ru_maxrss if number in self._workers else None

    def begun(self, number: int) -> int:
        """Return the number of the task that a worker began last. As `Pool.begun`."""
        return self._workers[number].begun

    def printed(self, number: int, task: int) -> str:
        """Return nothing: what a thread prints is not collected."""
        return ""

    # --- code ---

    def reload(self) -> int | None:
        """Return None: the functions stay as they are."""

    def code_status(self) -> CodeStatus:
        """Return the state of the code. As `Pool.code_status`."""
        return CodeStatus("ready" if self.loaded.called else "importing")

    can_start = True
    """Nothing prevents the start of a thread."""

    def abandon_next(self) -> None:
        """Do nothing: there is no reload."""

    def switch(self) -> None:
        """Do nothing: there is no reload."""

    # --- the end ---

    def close(self) -> Deferred[None]:
        """Let every worker end; fires when none is left. As `Pool.close`."""
        self._is_closing = True
        for worker in self._workers.values():
            worker.retire()
        self._check_emptied()
        return self._emptied

    def abort(self) -> None:
        """Leave every worker alone. As `Pool.abort`."""
        for number in self._workers:
            self.signal(number)

    def kill(self) -> None:
        """Do nothing: the threads end with the process."""

    def _check_emptied(self) -> None:
        if self._is_closing and not self._workers and not self._emptied.called:
            self._emptied.callback(None)
