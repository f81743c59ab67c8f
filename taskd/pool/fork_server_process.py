"""One fork server process, seen from the daemon: its start, the messages to and from it, its end."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

import msgspec
from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol, ServerFactory
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from taskd.functions.registry import FunctionInfo
from taskd.net.lines import LinearLineReceiver
from taskd.net.reactor import Reactor
from taskd.pool.output_lines import OutputLines
from taskd.pool.timer import Timer
from taskd.worker.messages import (
    BOARD,
    CONTROL,
    LOGGED_BYTES,
    MAX_LINE,
    Exited,
    Fork,
    Forked,
    Loaded,
    LoadFailed,
    Signal,
    WorkerConfig,
    decode_from_fork_server,
    encode,
)

__all__ = ["EXIT_TIMEOUT", "MAX_FORKS", "ForkServerObserver", "ForkServerProcess"]

_log = Logger(namespace="taskd.fork_server")

MAX_FORKS = 64
"""Workers forked together: meanwhile each has two descriptors open in the fork server,
whose limit is usually 1024."""

EXIT_TIMEOUT = 5.0
"""Seconds that a process may take to exit in order, before it is killed: more than a
worker's stop hooks usually need, less than a service manager waits."""


class ForkServerObserver(Protocol):
    """The receiver of a fork server's reports."""

    def app_loaded(self, functions: list[FunctionInfo]) -> None:
        """Note that the app is imported, with these functions, and that workers can be forked."""

    def app_failed(self, reason: str) -> None:
        """Note why the app cannot be imported; `fork_server_ended` follows."""

    def worker_forked(self, number: int, pid: int | None, reason: str) -> None:
        """Note a worker's process id or, if `pid` is None, the reason why it could not be forked."""

    def worker_reaped(self, exited: Exited) -> None:
        """Note that a worker has ended and has been waited for."""

    def fork_server_ended(self, how: str) -> None:
        """Note that the fork server is gone; all its workers will end soon."""


class ForkServerProcess(ProcessProtocol):
    """One fork server process, from its start to its end.

    The constructor starts the process and sends it its configuration. `board`
    is a descriptor of the memory that its workers share with the daemon, and may
    be closed afterwards. `observer` receives the reports. What the app prints
    while it is imported goes to the log.
    """

    def __init__(
        self, reactor: Reactor, config: WorkerConfig, board: int, observer: ForkServerObserver
    ) -> None:
        self._clock: interfaces.IReactorTime = reactor
        self._observer = observer
        self._kill = Timer(reactor, self._kill_process)
        self._to_fork: list[tuple[int, int, int, int]] = []
        self._control = _Control(self._report)
        self._output = OutputLines(self._clock.seconds, _log_line)
        self._errors = OutputLines(self._clock.seconds, _log_line)
        daemon_end, fork_server_end = socket.socketpair()
        daemon_end.setblocking(False)
        with daemon_end:  # the reactor duplicates the descriptor
            reactor.adoptStreamConnection(
                daemon_end.fileno(),
                socket.AF_UNIX,
                ServerFactory.forProtocol(lambda: self._control),  # type: ignore[arg-type]  # typed as Factory
            )
        self._control.transport.write(encode(config))
        with fork_server_end, open(os.devnull, "rb") as nothing:
            self._process: interfaces.IProcessTransport = reactor.spawnProcess(
                self,
                sys.executable,
                # -P: taskd's own imports must not find the app's files first.
                [sys.executable, "-P", "-m", "taskd.worker.fork_server"],
                env=None,
                path=config.directory,
                childFDs={
                    0: nothing.fileno(),
                    1: "r",
                    2: "r",
                    CONTROL: fork_server_end.fileno(),
                    BOARD: board,
                },
            )

    def fork(self, number: int, place: int, channel: int, output: int) -> None:
        """Fork worker `number`, with a place on the board and two descriptors.

        The descriptors must stay open until `worker_forked`. All workers asked
        for in one turn of the reactor are forked together, since workers do not
        share memory that the fork server writes to between two forks.
        """
        if not self._to_fork:
            self._clock.callLater(0, self._send_forks)
        self._to_fork.append((number, place, channel, output))

    def _send_forks(self) -> None:
        transport = cast(interfaces.IUNIXTransport, self._control.transport)
        while self._to_fork:
            wanted, self._to_fork = self._to_fork[:MAX_FORKS], self._to_fork[MAX_FORKS:]
            for _, _, channel, output in wanted:
                transport.sendFileDescriptor(channel)
                transport.sendFileDescriptor(output)
            # Each descriptor travels with one byte of the message, which has enough of them.
            transport.write(encode(Fork([(number, place) for number, place, _, _ in wanted])))

    def signal(self, number: int, signal_number: int, *, group: bool) -> None:
        """Send a signal to a worker, or to its whole process group; nothing happens if it has ended.

        The fork server sends the signal: as the worker's parent, it knows that
        the process id has not been reused.
        """
        self._send_forks()  # the worker may be among those still to be forked
        self._control.transport.write(encode(Signal(number, signal_number, group)))

    def close(self) -> None:
        """Let the fork server kill its workers and end in order. `fork_server_ended` follows."""
        self._control.transport.loseConnection()
        self._kill.start(EXIT_TIMEOUT)

    def abort(self) -> None:
        """Kill the fork server, which may still be importing the app. `fork_server_ended` follows."""
        self._control.transport.loseConnection()
        self._kill.start(0)

    def _kill_process(self) -> None:
        with suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")

    def _report(self, lines: list[bytes]) -> None:
        """Pass on what the fork server reports."""
        for line in lines:
            try:
                message = decode_from_fork_server(line)
            except msgspec.DecodeError:
                _log.critical(
                    "the fork server sent a line that cannot be decoded: {line!r}", line=line[:LOGGED_BYTES]
                )
                self._control.transport.abortConnection()
                return
            match message:
                case Loaded(functions):
                    self._observer.app_loaded(functions)
                case LoadFailed(reason):
                    self._observer.app_failed(reason)
                case Forked(number, pid, reason):
                    self._observer.worker_forked(number, pid, reason)
                case Exited():
                    self._observer.worker_reaped(message)

    def outReceived(self, data: bytes) -> None:
        """Log what the app prints while it is imported."""
        self._output.receive(data)

    def errReceived(self, data: bytes) -> None:
        """Log what the app prints on stderr, and its log records."""
        self._errors.receive(data)

    def processEnded(self, reason: Failure) -> None:
        """Report the end of the process, once everything that it sent has been read."""
        self._output.finish()
        self._errors.finish()
        self._to_fork = []  # their descriptors are about to be closed
        self._kill.cancel()
        self._control.closed.addCallback(lambda _: self._observer.fork_server_ended(_describe_end(reason)))


class _Control(LinearLineReceiver):
    """The control socket's protocol."""

    MAX_LENGTH = MAX_LINE

    def __init__(self, report: Callable[[list[bytes]], None]) -> None:
        self._report = report
        self.closed: Deferred[None] = Deferred()

    def lines_received(self, lines: list[bytes]) -> None:
        self._report(lines)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.closed.callback(None)


def _log_line(level: str, line: str) -> None:
    _log.emit(LogLevel.lookupByName(level), "{line}", line=line)


def _describe_end(reason: Failure) -> str:
    signal_number = getattr(reason.value, "signal", None)
    if signal_number is not None:
        return f"signal {signal_number}"
    return f"exit status {getattr(reason.value, 'exitCode', os.EX_OK)}"
