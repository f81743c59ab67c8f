"""One fork server process, seen from the daemon: its start, the messages to and from it, its end."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import termios
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from signal import SIGKILL
from typing import Protocol, TypeAlias, cast

import msgspec
from twisted.internet import interfaces
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from taskd.functions.registry import FunctionInfo
from taskd.net.lines import LinearLineReceiver
from taskd.net.reactor import Reactor
from taskd.pool.child_process import ChildProcess, parent_of
from taskd.pool.exits import signal_name
from taskd.pool.output import OutputReader
from taskd.pool.timer import Timer
from taskd.worker.guard import EXIT_STATUSES
from taskd.worker.messages import (
    LOGGED_BYTES,
    MAX_LINE,
    POKE,
    Exited,
    Fork,
    Forked,
    Loaded,
    LoadFailed,
    Probe,
    Signal,
    Suspended,
    WorkerConfig,
    decode_from_fork_server,
    encode,
)

__all__ = [
    "EXIT_TIMEOUT",
    "MAX_FORKS",
    "SLOW_IMPORT",
    "Child",
    "ForkServerObserver",
    "ForkServerProcess",
    "FoundFolders",
    "StartChild",
    "describe_end",
]

_log = Logger(namespace="taskd.fork_server")

FORK_SERVER = "taskd.worker.fork_server"
"""The module that the process runs."""

MAX_FORKS = 64
"""Workers forked together: meanwhile each has two descriptors open in the fork server,
whose limit is usually 1024."""

EXIT_TIMEOUT = 5.0
"""Seconds that a process may take to exit in order, before it is killed: more than a
worker's stop hooks usually need, less than a service manager waits."""

ANSWER_TIMEOUT = 10.0
"""Seconds for which a fork server may leave an order unread: more than it
needs to fork `MAX_FORKS` workers of a large app, during which it reads nothing."""

LOOK_INTERVAL = 0.25
"""Seconds between two looks at what it has not read: a busy one may have something unread at any of them,
but hardly ever more at each of forty.
"""

LOOKS = round(ANSWER_TIMEOUT / LOOK_INTERVAL)
"""Looks after which a fork server that reads nothing is killed. They are counted, instead of the time,
since a daemon that gets no processor, or is stopped itself with all its processes, makes none."""

PROBE_INTERVAL = 5.0
"""Seconds between two orders that are sent only to see whether they are read: a fork server that is
stopped cannot report that workers are stopped, too, and calls given to those wait. With `ANSWER_TIMEOUT`,
that is as long as most callers wait for anything."""

FAILED = 1
"""The exit status of Python after an exception, whose traceback is in the log."""

SLOW_IMPORT = 10.0
"""Seconds after which the log says where the import of the app is: nearly every app needs
less, and whoever waits for one that hangs does not wait much longer."""


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

    def worker_suspended(self, number: int, *, is_suspended: bool) -> None:
        """Note that a worker was stopped by a signal, or goes on again."""

    def fork_server_ended(self, how: str) -> None:
        """Note that the fork server is gone; all its workers will end soon."""


class Child(Protocol):
    """A child process, as far as a fork server needs it; see `taskd.pool.child_process.ChildProcess`."""

    pid: int

    def signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""

    def kill_group(self) -> None:
        """Kill the process and its process group, unless it has ended."""


StartChild: TypeAlias = Callable[
    [Reactor, Sequence[str], str, Sequence[int], int, Callable[[int], None]], Child
]
"""Starts a child process, with the arguments of `taskd.pool.child_process.ChildProcess`."""

FoundFolders: TypeAlias = Callable[[Sequence[str]], object]
"""Called with the folders of an app's code, once it was imported or could not be."""


class ForkServerProcess:
    """One fork server process, from its start to its end.

    The constructor starts the process and sends it its configuration. `board`
    is a descriptor of the memory that its workers share with the daemon, and may
    be closed afterwards. `observer` receives the reports, and `found_folders` those
    about folders. What the app prints while it is imported goes to the log. Raises
    `OSError` if the process cannot be started; whatever it raises, nothing of it is left then.
    """

    def __init__(
        self,
        reactor: Reactor,
        config: WorkerConfig,
        board: int,
        observer: ForkServerObserver,
        start_child: StartChild = ChildProcess,
        found_folders: FoundFolders | None = None,
    ) -> None:
        self._found_folders = found_folders
        self._clock: interfaces.IReactorTime = reactor
        self._observer = observer
        self._kill = Timer(reactor, self._kill_process)
        self._slow_import = Timer(reactor, self._report_slow_import)
        self._answer = Timer(reactor, self._check_answer)
        self._probe = Timer(reactor, self._send_probe)
        self._looks_left = LOOKS
        self._unread_before = 0
        """How much was unread at the last look: more, and nothing need have been read since."""
        self._to_fork: list[tuple[int, int, int, int]] = []
        self._control = _Control(self._report, self._control_closed)
        self._is_importing = True
        self._how = ""
        """How the process has ended, "" while it runs."""
        order = encode(config)
        with ExitStack() as undo:
            daemon_end, fork_server_end = socket.socketpair()
            daemon_end.setblocking(False)
            with daemon_end, fork_server_end:
                reactor.adoptStreamConnection(  # which duplicates the descriptor
                    daemon_end.fileno(),
                    socket.AF_UNIX,
                    ServerFactory.forProtocol(lambda: self._control),  # type: ignore[arg-type]  # typed as Factory
                )
                undo.callback(self._control.abort)
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                with open(write_end, "wb", 0):
                    self._output = OutputReader(reactor, read_end, _log_line)
                    undo.callback(self._output.close)
                    passed = (fork_server_end.fileno(), board)
                    # -P: taskd's own imports must not find the app's files first.
                    command = [sys.executable, "-P", "-m", FORK_SERVER, *map(str, passed)]
                    self._process = start_child(
                        reactor, command, config.directory, passed, write_end, self._process_ended
                    )
            undo.callback(self._process.kill_group)
            self._control.transport.write(order)
            self._slow_import.start(SLOW_IMPORT)
            undo.pop_all()

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
        if self._control.is_closed:
            self._to_fork = []  # the process is about to end: the end of these workers is reported with it
            return
        transport = cast(interfaces.IUNIXTransport, self._control.transport)
        if self._to_fork:
            self._expect_answer()
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
        if signal_number == SIGKILL:
            self._expect_answer()
        self._control.transport.write(encode(Signal(number, signal_number, group)))

    def close(self) -> None:
        """Let the fork server kill its workers and end in order. `fork_server_ended` follows."""
        self._control.close()
        self._kill.start(EXIT_TIMEOUT)

    def abort(self) -> None:
        """Kill the fork server, which may still be importing the app. `fork_server_ended` follows."""
        self._control.close()
        self._kill.start(0)

    def kill_child(self, pid: int) -> None:
        """Kill a worker's process group, if the process is still a child of the fork server."""
        with suppress(OSError):
            if parent_of(pid) == self._process.pid:
                os.killpg(pid, SIGKILL)

    def kill(self) -> None:
        """Kill the fork server with its process group; with it go the workers that are left."""
        self._process.kill_group()

    def _kill_process(self) -> None:
        self._process.signal(SIGKILL)

    def _expect_answer(self) -> None:
        """Give the fork server its time to read the next order, unless it still has an older one to read."""
        if not self._answer.is_running or not self._control.unread():
            self._begin_waiting()

    def _begin_waiting(self) -> None:
        self._answer.cancel()
        self._looks_left, self._unread_before = LOOKS, 0
        self._answer.start(LOOK_INTERVAL)

    def _send_probe(self) -> None:
        if self._control.is_closing or self._control.is_closed:
            return
        self._expect_answer()
        self._control.transport.write(encode(Probe()))
        self._probe.start(PROBE_INTERVAL)

    def _check_answer(self) -> None:
        """Kill the process if it does not read: it is stopped, or hangs in code of the app.

        Nobody else can end its workers, and a stop would wait for them for ever. A
        busy one may have something unread at every look: it reads if that gets less.
        """
        unread = self._control.unread()
        if self._control.is_closing or not unread:
            return
        if unread < self._unread_before:
            self._looks_left = LOOKS + 1
        self._unread_before = unread
        self._looks_left -= 1
        if self._looks_left:
            self._answer.start(LOOK_INTERVAL)
            return
        _log.error(
            "the fork server has read nothing for {seconds:.0f} s (stopped, or hanging), and is killed",
            seconds=ANSWER_TIMEOUT,
        )
        self._kill_process()

    def _report_slow_import(self) -> None:
        _log.warn("the app is still being imported after {seconds:.0f} s; it is at:", seconds=SLOW_IMPORT)
        self._process.signal(POKE)  # has it print its stack

    def _import_ended(self) -> None:
        self._is_importing = False
        self._slow_import.cancel()

    def _report(self, lines: list[bytes]) -> None:
        """Pass on what the fork server reports."""
        if self._answer.is_running:
            self._begin_waiting()
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
                case Loaded():
                    self._loaded(message)
                case LoadFailed(reason, folders):
                    self._import_ended()
                    self._note_folders(folders)
                    self._observer.app_failed(reason)
                case Forked(number, pid, reason):
                    self._observer.worker_forked(number, pid, reason)
                case Exited():
                    self._observer.worker_reaped(message)
                case Suspended(number, is_suspended):
                    self._observer.worker_suspended(number, is_suspended=is_suspended)

    def _loaded(self, loaded: Loaded) -> None:
        self._import_ended()
        for app, file in loaded.files.items():
            _log.info("the app {app} was loaded from {file}", app=app, file=file)
        for text in loaded.warnings:
            _log.warn("{text}", text=text)
        self._note_folders(loaded.folders)
        self._probe.start(PROBE_INTERVAL)
        self._observer.app_loaded(loaded.functions)

    def _note_folders(self, folders: list[str]) -> None:
        if self._found_folders is not None:
            self._found_folders(folders)

    def _control_closed(self) -> None:
        """Report the end if the process has ended; otherwise it is of no more use."""
        if self._how:
            self._observer.fork_server_ended(self._how)
        else:
            self._kill.start(EXIT_TIMEOUT)

    def _process_ended(self, status: int) -> None:
        """Report the end, once everything that the process itself has sent is read.

        That is in the socket and in the pipe by now. Other processes may have
        them open as well, and are not waited for.
        """
        self._to_fork = []  # their descriptors are about to be closed
        self._kill.cancel()
        self._slow_import.cancel()
        self._answer.cancel()
        self._probe.cancel()
        self._output.close()
        self._how = describe_end(status, while_importing=self._is_importing)
        self._control.end()


class _Control(LinearLineReceiver):
    """The control socket's protocol."""

    MAX_LENGTH = MAX_LINE

    def __init__(self, report: Callable[[list[bytes]], None], closed: Callable[[], None]) -> None:
        self._report = report
        self._closed = closed
        self.is_closing = False
        """Whether the daemon has closed the connection, or is about to."""
        self.is_closed = False
        """Whether the connection has ended; the end of the process may not have been seen yet."""

    def lines_received(self, lines: list[bytes]) -> None:
        self._report(lines)

    def unread(self) -> int:
        """Return how much the fork server has not read of what was sent, in units of the kernel's own."""
        unread = array("i", [0])
        if self.is_closed:
            return 0  # the transport has no socket any more
        with suppress(OSError):
            fcntl.ioctl(self.transport.getHandle(), termios.TIOCOUTQ, unread, True)
        return unread[0]

    def end(self) -> None:
        """End the connection behind what has arrived, even if another process has the other end open."""
        if self.is_closed:
            self._closed()
        elif self.is_closing:
            self.transport.abortConnection()  # nothing is read any more
        else:
            with suppress(OSError):
                self.transport.getHandle().shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the connection once everything written has been sent; read nothing more."""
        self.is_closing = True
        self.transport.loseConnection()

    def abort(self) -> None:
        """Close the connection without a report."""
        self._closed = _nothing
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.is_closed = True
        self._closed()


def _nothing() -> None:
    """Do nothing, for a process that was not started."""


def _log_line(level: str, line: str) -> None:
    _log.emit(LogLevel.lookupByName(level), "{line}", line=line)


def describe_end(status: int, *, while_importing: bool) -> str:
    """Return a phrase for the end of a fork server, given its exit status or minus its signal."""
    if status < 0:
        return f"killed by {signal_name(-status)}"
    meaning = EXIT_STATUSES.get(status, "")
    if not meaning and while_importing and status != FAILED:
        meaning = "the app called os._exit, or code that makes the process a daemon"
    return f"exit status {status}: {meaning}" if meaning else f"exit status {status}"
