"""The daemon's side of the pool: starts workers, talks to them, and tells what becomes of them.

`PoolConfig` says what is wanted; `PoolConfig.start` makes a `Pool`, which
tells its `PoolObserver` what happens. How many workers there are to be, the
observer decides. A fork server that exits is started again.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from taskd.errors import StartError
from taskd.functions.registry import FunctionInfo
from taskd.net.reactor import Reactor
from taskd.pool.exits import WorkerExit
from taskd.pool.fork_server_process import EXIT_TIMEOUT
from taskd.pool.generation import Generation
from taskd.pool.output import OutputReader
from taskd.pool.worker_socket import WorkerSocket
from taskd.worker.messages import (
    POKE,
    Attempt,
    Done,
    Exited,
    Failed,
    Interrupt,
    Ready,
    Reclaim,
    Reported,
    Returned,
    Stopped,
    WorkerConfig,
    decode_from_worker,
    encode,
    encode_all,
)

__all__ = ["Pool", "PoolConfig", "PoolObserver", "WorkerMessage"]

_log = Logger(namespace="taskd.pool")
_task_log = Logger(namespace="taskd.task")

FIRST_DELAY = 0.1
"""Seconds for which no worker is started after one died young; doubled each time."""

MAX_DELAY = 30.0
"""Seconds: the longest such delay. Long enough to do no harm, short enough
that nobody restarts the server because it seems dead."""

_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024

WorkerMessage: TypeAlias = Done | Failed | Stopped | Returned | Reported


class PoolObserver(Protocol):
    """Who hears what the workers do. Numbers name workers, and are never used twice."""

    def code_loaded(self, generation: int, functions: list[FunctionInfo]) -> None:
        """The app is imported: workers of this generation can be started."""

    def code_failed(self, generation: int, reason: str) -> None:
        """The app of the next generation cannot be used; the current one goes on."""

    def can_start_workers(self) -> None:
        """Workers can be started again, which they could not for a while."""

    def worker_ready(self, number: int) -> None:
        """A worker can be sent its first task."""

    def worker_messages(self, number: int, messages: list[WorkerMessage]) -> None:
        """What a worker sent, in order."""

    def worker_exited(self, number: int, lost: WorkerExit) -> None:
        """A worker has ended, and everything that it sent has been handed over."""

    def task_name(self, number: int, task: int) -> str:
        """A task that a worker has, for the log; "" for one that has ended."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """The pool that is wanted: at most `max_workers` processes at once which run the app's functions."""

    max_workers: int
    config: WorkerConfig

    def start(self, reactor: Reactor, observer: PoolObserver) -> Pool:
        """Begin. `Pool.loaded` fires once the app is imported."""
        return Pool(reactor, self, observer)


@dataclass(slots=True, eq=False)
class _Worker:
    """One worker process, from the request to fork it until its last trace is gone."""

    number: int
    generation: Generation
    channel: WorkerSocket
    output: OutputReader
    descriptors: tuple[int, ...]
    pid: int | None = None
    was_ready: bool = False
    was_ended: bool = False
    gone: Deferred[None] = field(default_factory=Deferred)
    exit: WorkerExit | None = None
    kill: IDelayedCall | None = None


class Pool:
    """A running pool. Made by `PoolConfig.start`; ended by `close`."""

    def __init__(self, reactor: Reactor, wanted: PoolConfig, observer: PoolObserver) -> None:
        self._reactor = reactor
        self._wanted = wanted
        self._observer = observer
        self._workers: dict[int, _Worker] = {}
        self._last_number = 0
        self._died_young = 0
        self._rest: IDelayedCall | None = None
        self._stopping = False
        self._failures = 0
        self._retry: IDelayedCall | None = None
        self._has_loaded = False
        self._generations: dict[int, Generation] = {}
        self._all_ended: Deferred[None] = Deferred()
        self.loaded: Deferred[None] = Deferred()
        self._last_generation = 0
        self._next: Generation | None = None
        self._current: Generation | None = self._new_generation()

    # --- workers: what the server asks for ---

    def start_worker(self, generation: int) -> int | None:
        """Start a worker of this generation; its number.

        None where that cannot be done now: `PoolObserver.can_start_workers` follows.
        """
        of = self._generations.get(generation)
        if of is None or not of.has_place or self._stopping:
            return None
        if self._rest is not None and of is self._current:  # new code may be what helps
            return None
        try:
            ours, theirs = socket.socketpair()
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
        except OSError as error:  # too many open files, say: there may be fewer in a while
            _log.error("a worker cannot be started: {error}", error=error)
            self._rest_a_while()
            return None
        self._last_number += 1
        number = self._last_number
        channel = WorkerSocket(
            self._reactor,
            ours,
            lambda lines: self._channel_said(number, lines),
            lambda: self._channel_closed(number),
        )
        output = OutputReader(self._reactor, read_end, lambda line: self._log_output(number, line))
        worker = _Worker(number, of, channel, output, (theirs.detach(), write_end))
        self._workers[number] = worker
        channel_end, output_end = worker.descriptors
        of.fork(number, channel_end, output_end)
        return number

    def send(self, number: int, runs: list[Attempt]) -> None:
        """Give a worker tasks, in this order."""
        self._workers[number].channel.send(encode_all(runs))

    def reclaim(self, number: int) -> None:
        """Have a worker return the tasks that it has not begun."""
        self._tell(number, Reclaim())

    def interrupt(self, number: int, message: Interrupt) -> None:
        """Have a worker interrupt the function of a task."""
        self._tell(number, message)

    def _tell(self, number: int, message: Reclaim | Interrupt) -> None:
        worker = self._workers[number]
        worker.channel.send(encode(message))
        worker.generation.signal(number, POKE, group=False)

    def signal(self, number: int, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to a worker's process group."""
        worker = self._workers.get(number)
        if worker is not None:
            worker.generation.signal(number, signal_number, group=True)

    def retire(self, number: int) -> None:
        """Let a worker end in order, once it has done what it has been given."""
        worker = self._workers[number]
        worker.was_ended = True
        worker.channel.end_sending()
        if worker.kill is None:
            self._kill_later(worker)

    def pid(self, number: int) -> int | None:
        """The process id of a worker, None where it has none (yet, or any more)."""
        worker = self._workers.get(number)
        return worker.pid if worker is not None else None

    def memory_kib(self, number: int) -> int | None:
        """The memory that a worker has resident, in KiB; None where that cannot be told."""
        pid = self.pid(number)
        if pid is None:
            return None
        try:
            with open(f"/proc/{pid}/statm", "rb") as statm:
                return int(statm.read().split()[1]) * _PAGE_KIB
        except (OSError, IndexError, ValueError):
            return None

    def begun(self, number: int) -> int:
        """The number of the task that a worker began last, 0 for none."""
        return self._workers[number].generation.begun(number)

    # --- generations ---

    def reload(self) -> int | None:
        """Import the app anew, beside what runs; the number of the generation that it will be.

        `PoolObserver.code_loaded` or `code_failed` follows. One that is under
        way is given up. None where there is nothing to be reloaded yet.
        """
        if not self._has_loaded or self._stopping:
            return None
        self.abandon_next()
        if self._retry is not None:  # this one is what starts instead
            self._retry.cancel()
            self._retry = None
        self._next = self._new_generation()
        return self._next.number

    def abandon_next(self) -> None:
        """Give up the generation that is not in use yet, if there is one."""
        if self._next is not None:
            abandoned, self._next = self._next, None
            abandoned.close()
            self._restart_later("there is no fork server any more")

    def switch(self) -> None:
        """Start workers of the next generation from now on; the older one ends with its last worker."""
        assert self._next is not None
        old, self._current, self._next = self._current, self._next, None
        if old is not None and old.is_empty:
            old.close()
        if self._rest is not None:  # it was the old code's
            self._rest.cancel()
            self._rest = None

    def _new_generation(self) -> Generation:
        self._last_generation += 1
        generation = Generation(
            self._reactor, self._last_generation, self._wanted.config, self._wanted.max_workers, self
        )
        self._generations[generation.number] = generation
        return generation

    def _restart_later(self, why: str) -> None:
        """Start another fork server in a while, where there is none, and none that is to take over."""
        if self._current is None and self._next is None and self._retry is None and not self._stopping:
            delay = _backoff(self._failures)
            self._failures += 1
            _log.error("{why}; another one starts in {delay} s", why=why, delay=delay)
            self._retry = self._reactor.callLater(delay, self._restart)

    def _restart(self) -> None:
        self._retry = None
        self._current = self._new_generation()

    def generation_loaded(self, generation: Generation, functions: list[FunctionInfo]) -> None:
        """Its workers can be forked."""
        self._has_loaded = True
        if self._stopping:
            return
        self._observer.code_loaded(generation.number, functions)
        if not self.loaded.called:
            self.loaded.callback(None)

    def generation_ended(self, generation: Generation, how: str) -> None:
        """Start another one, unless the first could not even load the app, or it was to end."""
        del self._generations[generation.number]
        for worker in list(self._workers.values()):
            if worker.generation is generation:
                self._lose_with_fork_server(worker, how)
        when = "" if generation.has_loaded else " while it imported the app"
        reason = generation.load_error or f"the fork server ended{when} ({how})"
        if self._stopping:
            if not self.loaded.called:
                self.loaded.errback(StartError("taskd: stopped while the app was being imported"))
            self._check_all_ended()
        elif not self._has_loaded:
            self.loaded.errback(StartError(f"taskd: {reason}"))
        elif generation is self._next:
            self._next = None
            self._observer.code_failed(generation.number, reason)
            self._restart_later("there is no fork server any more")
        elif generation is self._current:
            self._current = None
            if generation.load_error:
                _log.error("{reason}", reason=reason)
            # What is started instead loads the new code as well.
            given_up, self._next = self._next, None
            self._restart_later(f"the fork server ended ({how})")
            if given_up is not None:
                given_up.close()
                self._observer.code_failed(given_up.number, "the fork server in use ended meanwhile")

    def _lose_with_fork_server(self, worker: _Worker, how: str) -> None:
        if worker.pid is not None:
            # The kernel ends the workers; what their tasks have started, nobody but us.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, signal.SIGKILL)
        if worker.exit is None:
            self._note_exit(worker, WorkerExit(None, reason=f"the fork server ended ({how})"))

    # --- the end ---

    def close(self) -> Deferred[None]:
        """Let every worker end in order, and the fork servers after them.

        A worker that has not ended after `EXIT_TIMEOUT` seconds is killed.
        Fires when no process is left. To be called once.
        """
        self._stopping = True
        for timer in (self._rest, self._retry):
            if timer is not None:
                timer.cancel()
        self._rest = self._retry = None
        for worker in list(self._workers.values()):
            self.retire(worker.number)
        everyone = DeferredList([worker.gone for worker in self._workers.values()])
        return everyone.addCallback(lambda _: self._stop_fork_servers())

    def abort(self) -> None:
        """Kill every worker; for use during `close`, which then fires soon."""
        for number in self._workers:
            self.signal(number)

    def _stop_fork_servers(self) -> Deferred[None]:
        for generation in self._generations.values():
            generation.close()
        self._check_all_ended()
        return self._all_ended

    def _check_all_ended(self) -> None:
        if not self._generations and not self._workers and not self._all_ended.called:
            self._all_ended.callback(None)

    # --- what becomes of a worker ---

    def worker_forked(self, number: int, pid: int | None, reason: str) -> None:
        """The fork server has its copies of the descriptors: ours can go."""
        worker = self._workers[number]
        self._close_descriptors(worker)
        worker.pid = pid
        if pid is None:
            _log.error("a worker cannot be started: {reason}", reason=reason)
            self._note_exit(worker, WorkerExit(None, reason=f"fork: {reason}"))

    def worker_reaped(self, exited: Exited) -> None:
        """The process is gone; what it sent may still be in the socket."""
        lost = WorkerExit(exited.code, peak_kib=exited.peak_kib, out_of_memory=exited.out_of_memory)
        self._note_exit(self._workers[exited.number], lost)

    def _note_exit(self, worker: _Worker, ending: WorkerExit) -> None:
        worker.exit = ending
        self._close_descriptors(worker)
        if worker.channel.connected:
            # Should a child of the task hold the other end open, there would
            # be no end of file: this makes one, behind what was already sent.
            worker.channel.end_receiving()
        else:
            self._bury(worker)

    @staticmethod
    def _close_descriptors(worker: _Worker) -> None:
        for descriptor in worker.descriptors:
            os.close(descriptor)
        worker.descriptors = ()

    def _channel_said(self, number: int, lines: bytes) -> None:
        """Hand on what a worker sent; one that sends nonsense is killed."""
        worker = self._workers[number]
        try:
            said = decode_from_worker(lines)
        except msgspec.DecodeError:
            _log.critical(
                "worker {number} sent what no worker sends: {lines!r}", number=number, lines=lines[:200]
            )
            self.signal(number)
            return
        messages: list[WorkerMessage] = []
        for message in said:
            if type(message) is Ready:
                worker.was_ready = True
                self._died_young = self._failures = 0
                self._observer.worker_ready(number)
            else:
                if isinstance(message, Done | Failed | Stopped):
                    worker.output.finish_task(more=message.output)
                messages.append(message)
        if messages:
            self._observer.worker_messages(number, messages)

    def _channel_closed(self, number: int) -> None:
        """A worker's channel is closed: it has ended, or is about to."""
        worker = self._workers[number]
        if worker.exit is not None:
            self._bury(worker)
        elif worker.kill is None:
            self._kill_later(worker)

    def _kill_later(self, worker: _Worker) -> None:
        worker.kill = self._reactor.callLater(EXIT_TIMEOUT, self.signal, worker.number)

    def _bury(self, worker: _Worker) -> None:
        """Nothing more will come from this worker: tell so."""
        assert worker.exit is not None
        worker.output.close()
        if worker.kill is not None and worker.kill.active():
            worker.kill.cancel()
        generation = worker.generation
        self._hand_on_kept(worker)
        lost = replace(
            worker.exit,
            begun=generation.begun(worker.number),
            stack=tuple(worker.output.stack),
            was_ready=worker.was_ready,
        )
        del self._workers[worker.number]
        generation.forget(worker.number)
        if lost.code != 0 or not worker.was_ended:
            _log.warn(
                "worker {number} (process {pid}) ended: {how}",
                number=worker.number,
                pid=worker.pid,
                how=lost.describe(),
            )
        if not worker.was_ready and not self._stopping and generation is self._current:
            self._rest_a_while()
        if generation.is_empty and generation not in (self._current, self._next) and generation.can_fork:
            generation.close()
        self._observer.worker_exited(worker.number, lost)
        worker.gone.callback(None)

    def _hand_on_kept(self, worker: _Worker) -> None:
        """Tasks may be over whose outcomes it had not sent yet."""
        messages = decode_from_worker(worker.generation.kept(worker.number))
        unknown: list[WorkerMessage] = [
            message
            for message in messages
            if isinstance(message, Done | Failed | Stopped)
            and self._observer.task_name(worker.number, message.task)
        ]
        if unknown:
            self._observer.worker_messages(worker.number, unknown)

    def _rest_a_while(self) -> None:
        """Start no worker for a growing while: those of late died young, or could not be started."""
        if self._rest is None:
            self._rest = self._reactor.callLater(_backoff(self._died_young), self._rested)
            self._died_young += 1

    def _rested(self) -> None:
        self._rest = None
        self._observer.can_start_workers()

    def _log_output(self, number: int, line: str) -> None:
        worker = self._workers[number]
        _task_log.info(
            "{name}[{pid}] {task}: {line}",
            name=self._wanted.config.name,
            pid=worker.pid,
            task=self._observer.task_name(number, worker.generation.begun(number)) or "no task",
            line=line,
        )


def _backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(FIRST_DELAY * 2.0 ** min(failures, 16), MAX_DELAY)
