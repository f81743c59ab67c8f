"""The pool as the task server uses it: start, feed, signal and retire workers by their numbers; reload.

`PoolConfig` describes a pool; `PoolConfig.start` makes a `Pool`, which reports
to its `PoolObserver`. The observer decides how many workers there are, and when
to start one. Generations (imports of the app) have numbers, too.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from taskd.net.descriptors import FileNeeds
from taskd.net.reactor import Reactor
from taskd.pool.backoff import Backoff
from taskd.pool.exits import WorkerExit
from taskd.pool.fork_server_process import ForkServerObserver, ForkServerProcess, FoundFolders
from taskd.pool.generation import StartForkServer
from taskd.pool.generations import CodeObserver, CodeStatus, Generations
from taskd.pool.timer import Timer
from taskd.pool.worker_process import WorkerMessage, WorkerObserver, WorkerProcess
from taskd.worker.messages import Attempt, Interrupt, Reclaim, WorkerConfig

__all__ = ["Pool", "PoolConfig", "PoolObserver", "WorkerMessage"]

_log = Logger(namespace="taskd.pool")

WORKER_FILES, FORKED_FILES = 2, 2
"""Descriptors of a worker: its socket and its output. Until it is forked, their other ends are open, too."""

FORK_SERVER_FILES = 4
"""Descriptors of a fork server: its socket, its output, its process, its board."""

START_FILES = 8
"""Descriptors that are open only while a fork server is started: the other ends of those, and what
`subprocess.Popen` needs."""


class PoolObserver(CodeObserver, WorkerObserver, Protocol):
    """The receiver of a pool's reports: of its code, of its workers, and these."""

    def can_start_workers(self) -> None:
        """Note that workers can be started again, after a pause in which none could."""

    def worker_exited(self, number: int, ending: WorkerExit) -> None:
        """Note that a worker has ended. Everything that it sent has been reported before."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """The configuration of a pool: at most `max_workers` processes in use at once.

    `found_folders` is called with the folders of the app's code after each import, if
    `config` asks for them.
    """

    max_workers: int
    config: WorkerConfig
    found_folders: FoundFolders | None = None

    @property
    def files(self) -> FileNeeds:
        """The descriptors that the pool needs, and those that a reload with all its workers takes."""
        workers = self.max_workers
        return FileNeeds(
            workers * WORKER_FILES + FORK_SERVER_FILES + START_FILES,
            workers * (2 * WORKER_FILES + FORKED_FILES) + 2 * FORK_SERVER_FILES + START_FILES,
        )

    def start(self, reactor: Reactor, observer: PoolObserver) -> Pool:
        """Start the first fork server. `Pool.loaded` fires once the app is imported."""

        def start(board: int, fork_server_observer: ForkServerObserver) -> ForkServerProcess:
            return ForkServerProcess(
                reactor, self.config, board, fork_server_observer, found_folders=self.found_folders
            )

        return Pool(reactor, self, observer, start)


class Pool:
    """A running pool. `PoolConfig.start` makes one, and `close` ends it.

    `start_fork_server` starts a process that imports the app and forks workers.
    """

    def __init__(
        self,
        reactor: Reactor,
        wanted: PoolConfig,
        observer: PoolObserver,
        start_fork_server: StartForkServer,
    ) -> None:
        self._reactor = reactor
        self._name = wanted.config.name
        self._observer = observer
        self._workers: dict[int, WorkerProcess] = {}
        self._last_number = 0
        self._backoff = Backoff()
        self._pause = Timer(reactor, observer.can_start_workers)
        self._why_paused = ""
        """Why no worker can be started during the pause, for `code_status`; "" if one has ended too soon."""
        self._emptied: Deferred[None] = Deferred()
        self._generations = Generations(reactor, wanted.max_workers, start_fork_server, observer)

    @property
    def loaded(self) -> Deferred[None]:
        """A Deferred that fires when the app is imported, and fails with `StartError` if it cannot be."""
        return self._generations.loaded

    # --- workers ---

    def start_worker(self, generation: int) -> int | None:
        """Start a worker of this generation, and return its number.

        Returns None if that is not possible now: `PoolObserver.can_start_workers`
        or `code_loaded` follows.
        """
        home = self._generations.usable(generation)
        if home is None:
            return None
        if self._pause.is_running and self._generations.is_current(generation):
            return None  # not so for another generation, whose code may be better
        number = self._last_number + 1
        try:
            worker = WorkerProcess(self._reactor, number, home, self._observer, self, self._name)
        except Exception as error:  # such as too many open files: later there may be fewer
            if not isinstance(error, OSError | MemoryError):
                _log.failure("a bug in taskd: a worker cannot be started")
            reason = f"a worker cannot be started: {str(error) or type(error).__name__}"
            _log.error("{reason}", reason=reason)
            self._start_pause(reason)
            return None
        self._last_number = number
        self._workers[number] = worker
        home.fork(worker)
        return number

    def send(self, number: int, attempts: list[Attempt]) -> None:
        """Give a worker tasks, in this order."""
        self._workers[number].send(attempts)

    def read_on(self, number: int) -> None:
        """Read from a worker again; nothing happens if the worker is gone."""
        worker = self._workers.get(number)
        if worker is not None:
            worker.read_on()

    def drop_result(self, number: int) -> None:
        """Read from a worker, but drop the rest of its present message."""
        worker = self._workers.get(number)
        if worker is not None:
            worker.drop_result()

    def reclaim(self, number: int) -> None:
        """Have a worker return the tasks that it has not begun."""
        self._workers[number].poke(Reclaim())

    def interrupt(self, number: int, message: Interrupt) -> None:
        """Have a worker interrupt the function of a task."""
        self._workers[number].poke(message)

    def signal(self, number: int, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to a worker's process group; nothing happens if the worker is gone."""
        worker = self._workers.get(number)
        if worker is not None:
            worker.signal(signal_number)

    def retire(self, number: int) -> None:
        """Let a worker end in order, once it has ended the tasks that it was given."""
        self._workers[number].retire()

    def pid(self, number: int) -> int | None:
        """Return the process id of a worker; None if it has not been forked yet or is gone."""
        worker = self._workers.get(number)
        return worker.pid if worker is not None else None

    def memory_kib(self, number: int) -> int | None:
        """Return a worker's resident memory, in KiB; None if that cannot be read."""
        worker = self._workers.get(number)
        return worker.memory_kib() if worker is not None else None

    def begun(self, number: int) -> int:
        """Return the number of the task that a worker began last, 0 for none."""
        return self._workers[number].begun()

    def printed(self, number: int, task: int) -> str:
        """Return the tail of what a task of a worker has printed so far."""
        return self._workers[number].printed(task)

    def stacks(self, number: int) -> Deferred[str | None]:
        """Return what the threads of a worker do right now, as text; None if it does not print it in time."""
        printed: Deferred[str | None] = Deferred()
        worker = self._workers.get(number)
        if worker is None:
            return succeed(None)
        worker.dump_stacks(printed.callback)
        return printed

    # --- code ---

    def reload(self) -> int | None:
        """Import the app again, beside the code in use, and return the new generation's number.

        `PoolObserver.code_loaded` or `code_failed` follows. Returns None, and
        does nothing, before the first import has ended and once the pool is
        closing. Raises `StartError`, and changes nothing, if no fork server can be started.
        """
        return self._generations.reload()

    def code_status(self) -> CodeStatus:
        """Return the state of the code in use: ``waiting``, too, while no worker of it can be started."""
        status = self._generations.status()
        if status.state == "ready" and self._pause.is_running and self._why_paused:
            return CodeStatus("waiting", self._why_paused, self._pause.seconds_left)
        return status

    @property
    def can_start(self) -> bool:
        """Whether workers can be started: after one that could not be, or ended at once, there is a pause."""
        return not self._pause.is_running

    def abandon_next(self) -> None:
        """Give up the reload in progress, if there is one."""
        self._generations.abandon_next()

    def switch(self) -> None:
        """Use the new generation; the older one ends with its last worker."""
        self._generations.switch()
        self._pause.cancel()  # it was caused by the old code

    # --- the end ---

    def close(self) -> Deferred[None]:
        """Let every worker end in order, and the fork servers after them.

        A worker that has not ended after `EXIT_TIMEOUT` seconds is killed.
        Fires when no process is left. Call this once.
        """
        self._generations.stop_accepting()
        self._pause.cancel()
        for worker in list(self._workers.values()):
            worker.retire()
        self._check_emptied()
        return self._emptied.addCallback(lambda _: self._generations.close())

    def abort(self) -> None:
        """Kill every worker; for use during `close`, which then fires soon."""
        for worker in self._workers.values():
            worker.signal()

    def kill(self) -> None:
        """Kill every process at once, without the reactor, which may be blocked."""
        self._generations.kill()

    def _check_emptied(self) -> None:
        if self._generations.is_closing and not self._workers and not self._emptied.called:
            self._emptied.callback(None)

    # --- `taskd.pool.worker_process.WorkerOwner` ---

    def worker_ready(self, number: int) -> None:
        """Report that a worker can get its first task; starts succeed, so their delays are reset."""
        self._backoff.reset()
        self._generations.reset_backoff()
        self._observer.worker_ready(number)

    def worker_gone(self, worker: WorkerProcess, ending: WorkerExit) -> None:
        """Drop a worker. If it ended before it was ready, start no other one for a while."""
        del self._workers[worker.number]
        if not ending.was_ready and self._generations.is_current(worker.generation.number):
            self._start_pause()
        self._observer.worker_exited(worker.number, ending)
        self._check_emptied()

    def _start_pause(self, why: str = "") -> None:
        if not self._pause.is_running:
            self._why_paused = why
            self._pause.start(self._backoff.next_delay())
