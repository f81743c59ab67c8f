"""The daemon's side of the pool: as many workers as were asked for, always.

`PoolConfig` says what is wanted; `PoolConfig.start` makes a `Pool`, which
tells its `PoolObserver` what happens. A worker that exits is replaced,
whatever it was doing; a fork server that exits is started again.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from taskd.errors import StartError
from taskd.pool.channel import (
    Config,
    Done,
    Failed,
    Ready,
    Reported,
    Run,
    decode_from_worker,
    encode,
)
from taskd.pool.link import KILL_AFTER, ForkServerLink
from taskd.pool.output import OutputReader
from taskd.pool.socket import WorkerSocket
from taskd.task import FunctionInfo

__all__ = ["LostWorker", "Pool", "PoolConfig", "PoolObserver"]

_log = Logger(namespace="taskd.pool")
_task_log = Logger(namespace="taskd.task")

FIRST_DELAY = 0.1
"""Seconds before a worker that died young is replaced; doubled each time."""

MAX_DELAY = 30.0
"""Seconds: the longest such delay. Long enough to do no harm, short enough
that nobody restarts the server because it seems dead."""


@dataclass(frozen=True, slots=True)
class LostWorker:
    """What is known of a worker that has ended.

    `code` is its exit status, or minus the signal, or None where the fork
    server ended before it could say. `read_all` is False where the worker
    had not read everything that it was sent. `peak_kib` is the most memory
    that it had resident.
    """

    code: int | None
    peak_kib: int | None = None
    reason: str = ""
    read_all: bool = True

    def describe(self) -> str:
        """How it ended, in words."""
        if self.code is None:
            return self.reason
        if self.code < 0:
            return f"killed by {signal_name(-self.code)}"
        return f"exit status {self.code}"


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class PoolObserver(Protocol):
    """Who hears what the workers do. Numbers name workers, and are never used twice."""

    def functions_loaded(self, functions: list[FunctionInfo]) -> None:
        """The app is imported: these functions can be run."""

    def worker_started(self, number: int) -> None:
        """A worker is being started."""

    def worker_ready(self, number: int) -> None:
        """A worker can be sent its first job."""

    def worker_said(self, number: int, messages: list[Done | Failed | Reported]) -> None:
        """What a worker sent, in order."""

    def worker_lost(self, number: int, lost: LostWorker) -> None:
        """A worker has ended, and everything that it sent has been handed over."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """The pool that is wanted: `workers` processes which run the app's functions."""

    workers: int
    config: Config

    def start(self, reactor: Any, observer: PoolObserver) -> Pool:
        """Begin. `Pool.loaded` fires once the app is imported."""
        return Pool(reactor, self, observer)


@dataclass(slots=True, eq=False)
class _Slot:
    """The place of one worker: who has it, and how many died young in it lately."""

    worker: _Worker | None = None
    died_young: int = 0
    retry: IDelayedCall | None = None


@dataclass(slots=True, eq=False)
class _Worker:
    """One worker process, from the request to fork it until its last trace is gone."""

    number: int
    slot: _Slot
    channel: WorkerSocket
    output: OutputReader
    descriptors: tuple[int, int]
    pid: int | None = None
    was_ready: bool = False
    job: str = ""
    gone: Deferred[None] = field(default_factory=Deferred)
    exit: LostWorker | None = None
    kill: IDelayedCall | None = None


class Pool:
    """A running pool. Made by `PoolConfig.start`; ended by `stop`."""

    def __init__(self, reactor: Any, wanted: PoolConfig, observer: PoolObserver) -> None:
        self._reactor = reactor
        self._wanted = wanted
        self._observer = observer
        self._workers: dict[int, _Worker] = {}
        self._last_number = 0
        self._slots = [_Slot() for _ in range(wanted.workers)]
        self._stopping = False
        self._failures = 0
        self._retry: IDelayedCall | None = None
        self._load_error: str | None = None
        self._has_loaded = False
        self._can_fork = False
        self._fork_server_gone: Deferred[None] = Deferred()
        self.loaded: Deferred[None] = Deferred()
        self._fork_server: ForkServerLink | None = None
        self._start_fork_server()

    # --- what the server asks for ---

    def send(self, number: int, run: Run) -> None:
        """Give a worker a job."""
        worker = self._workers[number]
        worker.job = f"{run.function} #{run.job}"
        worker.channel.send(encode(run))

    def kill(self, number: int, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to a worker's process group, and end what it started with it."""
        if self._fork_server is not None and number in self._workers:
            self._fork_server.kill(number, signal_number)

    def pid(self, number: int) -> int | None:
        """The process id of a worker, None where it has none (yet, or any more)."""
        worker = self._workers.get(number)
        return worker.pid if worker is not None else None

    def stop(self) -> Deferred[None]:
        """Let every worker end in order, and the fork server after them.

        A worker that has not ended after `KILL_AFTER` seconds is killed.
        Fires when no process is left. To be called once.
        """
        self._stopping = True
        for slot in self._slots:
            if slot.retry is not None:
                slot.retry.cancel()
                slot.retry = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for worker in self._workers.values():
            worker.channel.end_sending()
            self._kill_later(worker)
        everyone = DeferredList([worker.gone for worker in self._workers.values()])
        return everyone.addCallback(lambda _: self._stop_fork_server())

    def end_now(self) -> None:
        """Kill every worker; for use during `stop`, which then fires soon."""
        for number in self._workers:
            self.kill(number)

    def _stop_fork_server(self) -> Deferred[None] | None:
        if self._fork_server is None:
            return None
        self._fork_server.close(at_once=not self._can_fork)
        return self._fork_server_gone

    # --- the fork server ---

    def _start_fork_server(self) -> None:
        self._retry = None
        self._load_error = None
        self._fork_server = ForkServerLink(self._reactor, self._wanted.config, self)

    def app_loaded(self, functions: list[FunctionInfo]) -> None:
        """The fork server is ready: fill every slot."""
        self._has_loaded = self._can_fork = True
        self._observer.functions_loaded(functions)
        if self._stopping:
            return
        for slot in self._slots:
            if slot.worker is None and slot.retry is None:
                self._start_worker(slot)
        if not self.loaded.called:
            self.loaded.callback(None)

    def app_failed(self, reason: str) -> None:
        """The app cannot be imported; `fork_server_ended` follows."""
        self._load_error = reason
        if self._has_loaded:  # else it ends the start, which says so
            _log.error("{reason}", reason=reason)

    def fork_server_ended(self, how: str) -> None:
        """Start another one, unless the first could not even load the app."""
        self._fork_server = None
        self._can_fork = False
        for worker in list(self._workers.values()):
            if worker.pid is not None:
                # The kernel ends the workers; what their tasks have started, nobody but us.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(worker.pid, signal.SIGKILL)
            if worker.exit is None:
                self._note_exit(worker, LostWorker(None, reason=f"the fork server ended ({how})"))
        if self._stopping:
            if not self.loaded.called:
                self.loaded.errback(StartError("taskd: stopped while the app was being imported"))
            self._fork_server_gone.callback(None)
            return
        if not self._has_loaded:
            reason = self._load_error or f"the fork server ended while it imported the app ({how})"
            self.loaded.errback(StartError(f"taskd: {reason}"))
            return
        delay = _backoff(self._failures)
        self._failures += 1
        _log.error("the fork server ended ({how}); another one starts in {delay} s", how=how, delay=delay)
        self._retry = self._reactor.callLater(delay, self._start_fork_server)

    # --- workers ---

    def _start_worker(self, slot: _Slot) -> None:
        slot.retry = None
        if self._fork_server is None or not self._can_fork or self._stopping:
            return  # `app_loaded` fills the slots that are empty
        try:
            ours, theirs = socket.socketpair()
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
        except OSError as error:  # too many open files, say: there may be fewer in a while
            _log.error("a worker cannot be started: {error}", error=error)
            self._replace(slot, young=True)
            return
        self._last_number += 1
        number = self._last_number
        channel = WorkerSocket(
            self._reactor,
            ours,
            lambda lines: self._channel_said(number, lines),
            lambda: self._channel_closed(number),
        )
        output = OutputReader(self._reactor, read_end, lambda line: self._log_output(number, line))
        worker = _Worker(number, slot, channel, output, (theirs.detach(), write_end))
        slot.worker = self._workers[number] = worker
        self._observer.worker_started(number)
        self._fork_server.fork(number, *worker.descriptors)

    def worker_forked(self, number: int, pid: int | None, reason: str) -> None:
        """The fork server has its copies of the descriptors: ours can go."""
        worker = self._workers[number]
        self._close_descriptors(worker)
        worker.pid = pid
        if pid is None:
            _log.error("a worker cannot be started: {reason}", reason=reason)
            self._note_exit(worker, LostWorker(None, reason=f"fork: {reason}"))

    def worker_exited(self, number: int, code: int, peak_kib: int) -> None:
        """The process is gone; what it sent may still be in the socket."""
        self._note_exit(self._workers[number], LostWorker(code, peak_kib))

    def _note_exit(self, worker: _Worker, ending: LostWorker) -> None:
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
        worker.descriptors = ()  # type: ignore[assignment]

    def _channel_said(self, number: int, lines: list[bytes]) -> None:
        """Hand on what a worker sent; one that sends nonsense is killed."""
        worker = self._workers[number]
        messages: list[Done | Failed | Reported] = []
        for line in lines:
            try:
                message = decode_from_worker(line)
            except msgspec.DecodeError:
                _log.critical(
                    "worker {number} sent what no worker sends: {line!r}", number=number, line=line[:200]
                )
                self.kill(number)
                break
            if isinstance(message, Ready):
                worker.was_ready = True
                worker.slot.died_young = self._failures = 0
                self._observer.worker_ready(number)
                continue
            if type(message) is not Reported:
                worker.output.finish_job(more=message.output)
                worker.job = ""
            messages.append(message)
        if messages:
            self._observer.worker_said(number, messages)

    def _channel_closed(self, number: int) -> None:
        """A worker's channel is closed: it has ended, or is about to."""
        worker = self._workers[number]
        if worker.exit is not None:
            self._bury(worker)
        elif worker.kill is None:
            self._kill_later(worker)

    def _kill_later(self, worker: _Worker) -> None:
        worker.kill = self._reactor.callLater(KILL_AFTER, self.kill, worker.number)

    def _bury(self, worker: _Worker) -> None:
        """Nothing more will come from this worker: tell, and replace it."""
        assert worker.exit is not None
        worker.output.close()
        if worker.kill is not None and worker.kill.active():
            worker.kill.cancel()
        lost = replace(worker.exit, read_all=worker.channel.read_all)
        del self._workers[worker.number]
        slot = worker.slot
        slot.worker = None
        self._observer.worker_lost(worker.number, lost)
        if not self._stopping:
            if lost.code != 0 or worker.job:
                _log.warn(
                    "worker {number} (process {pid}) ended: {how}",
                    number=worker.number,
                    pid=worker.pid,
                    how=lost.describe(),
                )
            self._replace(slot, young=not worker.was_ready)
        worker.gone.callback(None)

    def _replace(self, slot: _Slot, *, young: bool) -> None:
        if not young:
            self._start_worker(slot)
            return
        delay = _backoff(slot.died_young)
        slot.died_young += 1
        slot.retry = self._reactor.callLater(delay, self._start_worker, slot)

    def _log_output(self, number: int, line: str) -> None:
        worker = self._workers[number]
        _task_log.info(
            "{name}[{pid}] {job}: {line}",
            name=self._wanted.config.name,
            pid=worker.pid,
            job=worker.job or "no task",
            line=line,
        )


def _backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(FIRST_DELAY * 2.0 ** min(failures, 16), MAX_DELAY)
