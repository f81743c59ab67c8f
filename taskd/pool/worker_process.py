"""One worker process, seen from the daemon: its channel, its output, its signals, its end."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from enum import Enum
from typing import Protocol, TypeAlias

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.errors import ImpossibleMessage, StateError
from taskd.net.backpressure import ReplySender
from taskd.net.reactor import Reactor
from taskd.pool.exits import WorkerExit
from taskd.pool.fork_server_process import EXIT_TIMEOUT
from taskd.pool.stack_dumps import StackDump
from taskd.pool.suspension import SUSPENDED_SECONDS, Suspension
from taskd.pool.timer import Timer
from taskd.pool.worker_output import OutputObserver, WorkerOutput
from taskd.pool.worker_socket import WorkerSocket
from taskd.worker.messages import (
    LOGGED_BYTES,
    POKE,
    STACKS,
    Attempt,
    Done,
    Dropped,
    Exited,
    Failed,
    FromWorker,
    Grown,
    Interrupt,
    Ready,
    Reclaim,
    Reported,
    Returned,
    Stopped,
    Yielded,
    decode_from_worker,
    encode,
    encode_all,
    encode_in_pieces,
)

__all__ = [
    "PROCESS_STEPS",
    "WorkerHome",
    "WorkerMessage",
    "WorkerObserver",
    "WorkerOwner",
    "WorkerProcess",
    "WorkerStage",
]

_log = Logger(namespace="taskd.pool")

_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024

WorkerMessage: TypeAlias = Done | Dropped | Failed | Stopped | Returned | Reported | Yielded | Grown

_OUTCOMES = (Done, Failed, Stopped, Dropped)
_WITH_OUTPUT = (Failed, Stopped)

LONG_ARGUMENTS = 128 * 1024
"""Bytes of arguments that are written to a worker piece by piece, without a copy of them all:
fewer go into the socket at once."""


class WorkerObserver(OutputObserver, Protocol):
    """The receiver of workers' reports. Workers are named by numbers, which are never used twice."""

    def worker_ready(self, number: int) -> None:
        """Note that a worker's start hooks have run, so that it can get its first task."""

    def worker_messages(self, number: int, messages: list[WorkerMessage]) -> None:
        """Process a worker's messages, in order; the list is never empty.

        Raises `ImpossibleMessage` at the first one that the worker cannot send by
        rights: the worker is then killed, and `worker_condemned` follows.
        """

    def result_grows(self, number: int, size: int) -> bool:
        """Note that `size` bytes of a worker's long message have come; return whether to read on now.

        If not, `WorkerProcess.read_on` or `drop_result` follows.
        """

    def result_arrived(self, number: int) -> None:
        """Note that the long message is complete; it follows."""

    def worker_condemned(self, number: int) -> None:
        """Note that a worker is being killed for what it sent: it must be given nothing more."""

    def task_count(self, number: int) -> int:
        """Return how many tasks the worker has, begun or not."""


class WorkerHome(Protocol):
    """A worker's generation, as the worker needs it: signals, and its place on the board."""

    number: int

    def begun(self, number: int) -> int:
        """Return the number of the task that a worker began last, 0 for none."""

    def kept(self, number: int) -> bytes:
        """Return the lines that a worker had not sent when it ended."""

    def signal(self, number: int, signal_number: int, *, group: bool) -> None:
        """Send a signal to a worker, or to its whole process group."""

    def forget(self, number: int) -> None:
        """Free the place of a worker that is gone."""


class WorkerOwner(Protocol):
    """The owner of a `WorkerProcess`: keeps it as long as it exists."""

    def worker_ready(self, number: int) -> None:
        """Note that the worker's start hooks have run."""

    def worker_gone(self, worker: WorkerProcess, ending: WorkerExit) -> None:
        """Drop the worker: nothing is left of it, and everything that it sent has been reported."""


class WorkerStage(Enum):
    """The stage of a worker's life. Two things end independently: the process and its channel."""

    FORKING = "forking"
    """The fork server has been asked for the worker, whose channel exists: tasks can be sent."""
    RUNNING = "running"
    LEAVING = "leaving"
    """The channel is closed; the process has not ended yet."""
    DRAINING = "draining"
    """The process has ended, or could not be forked; the channel is read to its end."""
    GONE = "gone"


PROCESS_STEPS = {
    WorkerStage.FORKING: {WorkerStage.RUNNING, WorkerStage.LEAVING, WorkerStage.DRAINING},
    WorkerStage.RUNNING: {WorkerStage.LEAVING, WorkerStage.DRAINING},
    WorkerStage.LEAVING: {WorkerStage.GONE},
    WorkerStage.DRAINING: {WorkerStage.GONE},
    WorkerStage.GONE: frozenset[WorkerStage](),
}
"""Every step that a worker can take."""


class WorkerProcess:
    """One worker process, from before its fork until nothing is left of it.

    The constructor opens the channel and the pipe for the output. It raises
    `OSError` if too many files are open or watched; whatever it raises, nothing
    is left of the worker then. `descriptors` are the worker's ends of
    the two, for the fork server; `forked` closes them. `name` is the pool's, for
    the log. `pid` is None until the process has been forked.
    """

    def __init__(
        self,
        reactor: Reactor,
        number: int,
        generation: WorkerHome,
        observer: WorkerObserver,
        owner: WorkerOwner,
        name: str,
    ) -> None:
        self.number = number
        self.generation = generation
        self.pid: int | None = None
        self._observer = observer
        self._owner = owner
        self._stage = WorkerStage.FORKING
        self._was_ready = False
        self._was_retired = False
        self._fault = ""
        self._exit = WorkerExit(None, reason="it has not ended")
        self._kill = Timer(reactor, self.signal)
        self._suspension = Suspension(reactor, self._suspended_for_long)
        self._why_killed = ""
        self._clock: IReactorTime = reactor
        self._sender: ReplySender | None = None
        self.descriptors: tuple[int, ...] = ()
        with ExitStack() as undo:
            daemon_end, worker_end = socket.socketpair()
            undo.callback(daemon_end.close)
            undo.callback(worker_end.close)
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, write_end)
            self._output = WorkerOutput(reactor, read_end, number, observer, self.begun, name)
            undo.callback(self._output.close)
            self._channel = WorkerSocket(
                reactor,
                daemon_end,
                self._received,
                self._channel_closed,
                self._result_grows,
                self._result_arrived,
            )
            undo.pop_all()
        self.descriptors = (worker_end.detach(), write_end)

    def __repr__(self) -> str:
        return f"<worker {self.number}, process {self.pid}, {self._stage.value}>"

    # --- what the pool asks of it ---

    def send(self, attempts: list[Attempt]) -> None:
        """Give the worker tasks, in this order."""
        data = encode_all(attempts)
        if len(data) < LONG_ARGUMENTS and self._sender is None:
            self._channel.send(data)
        else:
            del data
            self._send_in_pieces(attempts)

    def _send_in_pieces(self, attempts: list[Attempt]) -> None:
        """Send attempts with long arguments, which belong to their requests until the worker has them."""
        if self._sender is None:
            self._sender = ReplySender(
                self._clock, self._channel, self._channel.send, self._all_sent, _do_nothing, limit=sys.maxsize
            )
        for attempt in attempts:
            for piece in encode_in_pieces(attempt):
                self._sender.send(piece)

    def _all_sent(self) -> None:
        if self._was_retired and self._sender is not None and self._sender.empty:
            self._channel.end_sending()

    def poke(self, message: Reclaim | Interrupt) -> None:
        """Send a message that the worker reads even while a function runs."""
        send = self._channel.send if self._sender is None else self._sender.send
        send(encode(message))
        self.generation.signal(self.number, POKE, group=False)

    def signal(self, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to the worker's process group."""
        self.generation.signal(self.number, signal_number, group=True)

    def dump_stacks(self, done: Callable[[str | None], object]) -> None:
        """Have the worker print what its threads do; see `StackDump`. Before its fork it prints nothing."""
        if self._stage is WorkerStage.FORKING:
            done(None)
            return
        self._output.dump(StackDump(self._clock, done))
        self.generation.signal(self.number, STACKS, group=False)

    def retire(self) -> None:
        """Let the worker end after its tasks; kill it if that takes longer than `EXIT_TIMEOUT`."""
        self._was_retired = True
        if self._sender is None or self._sender.empty:
            self._channel.end_sending()
        self._kill.start(EXIT_TIMEOUT)

    def begun(self) -> int:
        """Return the number of the task that the worker began last, 0 for none."""
        return self.generation.begun(self.number)

    def printed(self, task: int) -> str:
        """Return the tail of what a task has printed, if the worker has begun no other since."""
        return self._output.tail(task)

    def memory_kib(self) -> int | None:
        """Return the worker's resident memory, in KiB; None if that cannot be read."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as statm:
                return int(statm.read().split()[1]) * _PAGE_KIB
        except (OSError, IndexError, ValueError):
            return None

    # --- what the fork server reports of it ---

    def forked(self, pid: int | None, reason: str) -> None:
        """Note the process id or, if `pid` is None, that the worker could not be forked."""
        self._close_descriptors()  # the fork server has copies of its own
        self.pid = self._output.pid = pid
        if pid is None:
            _log.error("a worker cannot be started: {reason}", reason=reason)
            self._process_ended(WorkerExit(None, reason=f"fork: {reason}"))
        elif self._stage is WorkerStage.FORKING:
            self._step(WorkerStage.RUNNING)

    def reaped(self, exited: Exited) -> None:
        """Note how the process ended. Its last messages may still be in the socket."""
        self._process_ended(
            WorkerExit(exited.code, peak_kib=exited.peak_kib, out_of_memory=exited.out_of_memory)
        )

    def suspended(self, *, is_suspended: bool) -> None:
        """Note that the process was stopped by a signal (SIGSTOP), or goes on (SIGCONT)."""
        if is_suspended:
            self._suspension.begin()
        else:
            self._suspension.end()

    def _suspended_for_long(self) -> None:
        """Kill the process, stopped for so long, unless that would cost a task and help no other one."""
        running = self._observer.task_label(self.number, self.begun())
        if running is not None and self._observer.task_count(self.number) == 1:
            self._suspension.tolerate(f"worker {self.number} (process {self.pid})", str(running))
            return
        self._why_killed = f"it was stopped by a signal for {SUSPENDED_SECONDS:g} s"
        self.signal()
        self._observer.worker_condemned(self.number)

    def fork_server_ended(self, how: str) -> None:
        """End the worker with its fork server, unless it has ended before."""
        if self._stage in (WorkerStage.DRAINING, WorkerStage.GONE):
            return
        if self.pid is not None:
            # The kernel ends the worker; processes that its tasks started must be killed here.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process_ended(WorkerExit(None, reason=f"the fork server ended ({how})"))

    # --- its end ---

    def _process_ended(self, ending: WorkerExit) -> None:
        self._exit = ending
        self._close_descriptors()
        if self._stage is WorkerStage.LEAVING:
            self._bury()
        else:
            self._step(WorkerStage.DRAINING)
            # A child of the task may keep the other end open, so that no end of file
            # comes. This makes one, behind everything that was sent.
            self._channel.end_receiving()

    def _channel_closed(self) -> None:
        if self._stage is WorkerStage.DRAINING:
            self._bury()
        else:
            self._step(WorkerStage.LEAVING)
            self._kill.start(EXIT_TIMEOUT)

    def _bury(self) -> None:
        """Report the worker's last outcomes and how it ended, and release the rest."""
        self._step(WorkerStage.GONE)
        self._output.close()
        self._kill.cancel()
        self._suspension.end()
        self._report_kept()
        ending = replace(
            self._exit,
            begun=self.begun(),
            stack=tuple(self._output.stack),
            was_ready=self._was_ready,
            printed=self.printed(self.begun()),
        )
        if reason := self._fault or self._why_killed:
            ending = replace(ending, reason=reason)
        self.generation.forget(self.number)
        if ending.code != 0 or ending.reason or not self._was_retired:
            _log.warn(
                "worker {worker} (process {pid}) ended: {how}",
                worker=self.number,
                pid=self.pid,
                how=ending.describe(),
            )
        self._owner.worker_gone(self, ending)

    def _close_descriptors(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()

    def _step(self, stage: WorkerStage) -> None:
        if stage not in PROCESS_STEPS[self._stage]:
            raise StateError(f"a worker cannot go from {self._stage.value} to {stage.value}")
        self._stage = stage

    # --- what it sends ---

    def read_on(self) -> None:
        """Read again, after `WorkerObserver.result_grows` has returned False."""
        self._channel.read_on()

    def drop_result(self) -> None:
        """Drop the rest of the message that is being read, and read on."""
        self._channel.drop_line()

    def _result_grows(self, size: int) -> bool:
        return bool(self._fault) or self._observer.result_grows(self.number, size)

    def _result_arrived(self) -> None:
        self._observer.result_arrived(self.number)

    def _received(self, lines: bytes) -> None:
        """Report the worker's messages; kill the worker at the first one that is impossible.

        Nothing that it sends after that counts.
        """
        if self._fault:
            return
        try:
            try:
                decoded = decode_from_worker(lines)
            except msgspec.DecodeError:
                for line in lines.split(b"\n"):  # those before the bad one are as good as any
                    self._report(_decoded(line))
            else:
                self._report(decoded)
        except ImpossibleMessage as fault:
            self._condemn(fault)

    def _report(self, decoded: list[FromWorker]) -> None:
        messages: list[WorkerMessage] = []
        fault = ""
        for message in decoded:
            if isinstance(message, _OUTCOMES):  # first, since most of them are
                self._output.finish_task(more=message.output)
                if type(message) is not Done and isinstance(message, _WITH_OUTPUT):
                    message = msgspec.structs.replace(message, printed=self.printed(message.task))
            elif isinstance(message, Ready):
                if self._was_ready:
                    fault = "that it is ready, for the second time"
                    break
                self._was_ready = True
                self._owner.worker_ready(self.number)
                continue
            elif isinstance(message, Returned) and self.begun() in message.tasks:
                fault = f"that it has not begun task {self.begun()}, which it has"
                break
            messages.append(message)
        if messages:
            self._observer.worker_messages(self.number, messages)
        if fault:
            raise ImpossibleMessage(fault)

    def _condemn(self, fault: ImpossibleMessage) -> None:
        # It may quote what was sent.
        self._fault = self._observer.hide(self.number, f"it sent what no worker sends: {fault}")
        self.signal()
        self._observer.worker_condemned(self.number)

    def _report_kept(self) -> None:
        """Report the outcomes that the worker had not sent when it ended, unless it has sent nonsense."""
        if self._fault:
            return
        try:
            unsent: list[WorkerMessage] = [
                message
                for message in _decoded(self.generation.kept(self.number))
                if isinstance(message, _OUTCOMES)
                and self._observer.task_label(self.number, message.task) is not None
            ]
            if unsent:
                self._observer.worker_messages(self.number, unsent)
        except ImpossibleMessage as fault:
            self._fault = self._observer.hide(self.number, f"it left what no worker leaves: {fault}")


def _decoded(lines: bytes) -> list[FromWorker]:
    """Decode a worker's lines. Raises `ImpossibleMessage` if they cannot be decoded."""
    try:
        return decode_from_worker(lines)
    except msgspec.DecodeError:
        raise ImpossibleMessage(f"lines that cannot be decoded, {lines[:LOGGED_BYTES]!r}") from None


def _do_nothing() -> None:
    """Do nothing: a worker that does not read is waited for, or killed by others."""
