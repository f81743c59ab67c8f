"""The daemon's side of one fork server."""

from __future__ import annotations

import os
import socket
import sys
from typing import Protocol, cast

import msgspec
from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IUNIXTransport
from twisted.internet.protocol import ProcessProtocol, ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskd.functions.registry import FunctionInfo
from taskd.net.lines import LinearLineReceiver
from taskd.net.reactor import Reactor
from taskd.worker.messages import (
    BOARD,
    CONTROL,
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

__all__ = ["ForkServerObserver", "ForkServerProcess"]

_log = Logger(namespace="taskd.fork_server")

MAX_FORKS = 64
"""Workers forked in one go: each has two descriptors open in the fork server
meanwhile, which may have no more than the usual 1024."""

EXIT_TIMEOUT = 5.0
"""Seconds that a process has to exit in once it was told to."""


class ForkServerObserver(Protocol):
    """Who hears what a fork server does."""

    def app_loaded(self, functions: list[FunctionInfo]) -> None:
        """The app is imported; workers can be forked."""

    def app_failed(self, reason: str) -> None:
        """The app cannot be imported; the fork server ends."""

    def worker_forked(self, number: int, pid: int | None, reason: str) -> None:
        """Worker `number` has begun; or, where `pid` is None, could not."""

    def worker_reaped(self, exited: Exited) -> None:
        """A worker has ended, and been waited for."""

    def fork_server_ended(self, how: str) -> None:
        """The process is gone, and with it, soon, every worker that it forked."""


class ForkServerProcess(ProcessProtocol):
    """One fork server process, from its start to its end.

    Starting it makes the process and sends it its configuration; `board` is a
    descriptor of the memory that its workers share with the daemon; `observer`
    hears the rest. Its stderr and stdout, where an app prints at its import,
    go to the log.
    """

    def __init__(
        self, reactor: Reactor, config: WorkerConfig, board: int, observer: ForkServerObserver
    ) -> None:
        self._reactor = reactor
        self._observer = observer
        self._process: interfaces.IProcessTransport | None = None
        self._kill: interfaces.IDelayedCall | None = None
        self._to_fork: list[tuple[int, int, int, int]] = []
        self._control = _Control(self)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:  # the reactor makes itself a descriptor of its own
            reactor.adoptStreamConnection(
                ours.fileno(),
                socket.AF_UNIX,
                ServerFactory.forProtocol(lambda: self._control),  # type: ignore[arg-type]  # typed as Factory
            )
        self._control.transport.write(encode(config))
        with theirs, open(os.devnull, "rb") as nothing:
            self._process = reactor.spawnProcess(
                self,
                sys.executable,
                # -P: our own imports must not find the app's files first.
                [sys.executable, "-P", "-m", "taskd.worker.fork_server"],
                env=None,
                path=config.directory,
                childFDs={0: nothing.fileno(), 1: "r", 2: "r", CONTROL: theirs.fileno(), BOARD: board},
            )

    @property
    def pid(self) -> int | None:
        """The process's id, None once it has ended."""
        return self._process.pid if self._process is not None else None

    def fork(self, number: int, place: int, channel: int, output: int) -> None:
        """Fork worker `number`, for a place on the board, with these descriptors.

        They must stay open until it is `worker_forked`. What one turn of the
        reactor asks for is forked in one go: what the fork server writes to
        between two forks its workers do not share.
        """
        if not self._to_fork:
            self._reactor.callLater(0, self._send_forks)
        self._to_fork.append((number, place, channel, output))

    def _send_forks(self) -> None:
        transport = cast(IUNIXTransport, self._control.transport)
        while self._to_fork:
            wanted, self._to_fork = self._to_fork[:MAX_FORKS], self._to_fork[MAX_FORKS:]
            for _, _, channel, output in wanted:
                transport.sendFileDescriptor(channel)
                transport.sendFileDescriptor(output)
            # Each descriptor goes with a byte of what is written: of these there are enough.
            transport.write(encode(Fork([(number, place) for number, place, _, _ in wanted])))

    def signal(self, number: int, signal_number: int, *, group: bool) -> None:
        """Send a signal to a worker, or to its whole process group; nothing where it has ended.

        Through the fork server, since no id can come to belong to another
        process before a parent has waited for it.
        """
        self._send_forks()  # it may be one of these
        self._control.transport.write(encode(Signal(number, signal_number, group)))

    def close(self, *, at_once: bool = False) -> None:
        """Let it end: it kills the workers that are left. `fork_server_ended` follows.

        `at_once` ends one that is still importing the app, and hears nothing.
        """
        self._control.transport.loseConnection()
        delay = 0 if at_once else EXIT_TIMEOUT
        self._kill = self._reactor.callLater(delay, self._kill_process)

    def _kill_process(self) -> None:
        if self._process is not None:
            self._process.signalProcess("KILL")

    def obeyed(self, lines: list[bytes]) -> None:
        """Pass on what the fork server says."""
        for line in lines:
            try:
                message = decode_from_fork_server(line)
            except msgspec.DecodeError:
                _log.critical("the fork server said what it cannot say: {line!r}", line=line[:200])
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
        """What the app prints while it is imported."""
        for line in data.decode("utf-8", "backslashreplace").splitlines():
            _log.info("{line}", line=line)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        """It has ended, for whatever reason."""
        self._process = None
        self._to_fork = []  # their descriptors will be closed
        if self._kill is not None and self._kill.active():
            self._kill.cancel()
        # What it said last may still be in the socket: read it to the end first.
        self._control.closed.addCallback(lambda _: self._observer.fork_server_ended(_how(reason)))


class _Control(LinearLineReceiver):
    """The control socket's protocol."""

    MAX_LENGTH = MAX_LINE

    def __init__(self, link: ForkServerProcess) -> None:
        self._link = link
        self.closed: Deferred[None] = Deferred()

    def lines_received(self, lines: list[bytes]) -> None:
        self._link.obeyed(lines)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.closed.callback(None)


def _how(reason: Failure) -> str:
    signal_number = getattr(reason.value, "signal", None)
    if signal_number is not None:
        return f"signal {signal_number}"
    return f"exit status {getattr(reason.value, 'exitCode', os.EX_OK)}"
