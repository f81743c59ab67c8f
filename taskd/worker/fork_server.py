"""The fork server process: imports the app once, and forks a worker whenever the daemon asks for one.

``python -P -m taskd.worker.fork_server CONTROL BOARD``, started by the daemon
with the descriptors of a unix socket and of the board. It reads a `WorkerConfig`, imports
the app, answers `Loaded` or `LoadFailed`, and then carries out its orders
until the socket closes. Then it kills every worker that is left, with all
processes of the worker's group.

The fork server imports no Twisted, has one thread, and freezes what it has
imported, so that its workers share that memory for as long as they live.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections import deque
from contextlib import suppress
from socket import recv_fds  # the app may replace those of `socket` (gevent, eventlet)

from taskd import __version__
from taskd.functions.registry import Registry, registry
from taskd.protocol.framing import LineSplitter
from taskd.worker.board import Board
from taskd.worker.child_events import ChildEvents
from taskd.worker.forking import WorkerForker, die_with_parent
from taskd.worker.guard import (
    Guard,
    end_helpers,
    end_helpers_in_time,
    flush_streams,
    take_default_signals,
)
from taskd.worker.loading import AppError, check_hard_memory, check_version, load_apps
from taskd.worker.logs import adopt_logging, watch_logging
from taskd.worker.loop import WorkerLoop, rehearse
from taskd.worker.messages import (
    MAX_LINE,
    POKE,
    RECEIVE_SIZE,
    Exited,
    Fork,
    Forked,
    FromForkServer,
    Loaded,
    LoadFailed,
    Signal,
    Suspended,
    ToForkServer,
    WorkerConfig,
    decode_config,
    decode_to_fork_server,
    encode,
)
from taskd.worker.oom import OomWatch
from taskd.worker.process_title import setproctitle, title

__all__ = ["ForkServer", "main"]

MAX_DESCRIPTORS = 64
"""Descriptors received with one read: far more than the bytes of one read carry."""


class ForkServer:
    """The server for one daemon: `control` is a connected unix stream socket, `board` the shared memory."""

    def __init__(self, control: socket.socket, board: Board, registry: Registry) -> None:
        self._control = control
        self._board = board
        self._closed = False
        self._registry = registry
        self._splitter = LineSplitter(MAX_LINE)
        self._descriptors: deque[int] = deque()
        self._pids: dict[int, int] = {}
        self._poll = select.poll()
        # Workers by the descriptors of their processes (pidfd_open(2)), which can be polled for
        # their end. A handler for SIGCHLD would do too, but every worker would have to undo it.
        self._numbers_by_pidfd: dict[int, int] = {}
        self._killed: set[int] = set()
        self._files: dict[str, str] = {}
        self._warnings: list[str] = []
        self._oom = OomWatch()
        self._events: ChildEvents

    def load(self) -> WorkerConfig | None:
        """Read the configuration and import the app.

        Returns None if the socket closed before, or if the app cannot be used;
        the latter has been reported to the daemon.
        """
        lines: list[bytes] = []
        while not lines:
            lines = self._receive()
            if not lines and self._closed:
                return None
        config = decode_config(lines[0])
        setproctitle(title(config.name, "fork server"))
        guard = Guard([self._control.fileno()])
        if config.reports_folders:
            # Python takes a compiled file for that of a source file of the same size, saved in the
            # same second: of two quick changes the second would have no effect.
            sys.dont_write_bytecode = True
        try:
            check_version(config.version, __version__)
            watch_logging()
            self._files = load_apps(config.apps, config.directory, self._registry)
            adopt_logging()
            check_hard_memory(config.hard_memory)
        except AppError as error:
            guard.check_process()
            self._send(LoadFailed(str(error), _folders(config, error)))
            return None
        self._warnings = guard.put_back()
        return config

    def serve(self, config: WorkerConfig) -> None:
        """Fork workers and signal them as the daemon asks, until it closes the socket."""
        try:
            forker = self._prepare(config)
            self._events = ChildEvents()
        except Exception as error:  # whatever the import has changed that no guard puts back
            trace = traceback.format_exc()
            self._send(LoadFailed(f"the app is imported, but no worker can be made: {error}\n{trace}"))
            return
        # No collection before it (gc's documentation says why): it would leave
        # holes in the shared memory, which the workers would fill.
        gc.freeze()
        functions = [function.describe() for function in self._registry]
        self._send(Loaded(functions, self._files, self._warnings, _folders(config)))
        control = self._control.fileno()
        events = self._events.fileno()
        self._poll.register(control, select.POLLIN)
        self._poll.register(events, select.POLLIN)
        while not self._closed:
            for descriptor, _ in self._poll.poll():
                if descriptor == control:
                    self._carry_out([decode_to_fork_server(line) for line in self._receive()], forker)
                elif descriptor == events:
                    self._report_suspended()
                else:
                    self._reap(descriptor)

    def _prepare(self, config: WorkerConfig) -> WorkerForker:
        """Make here everything that would be the same in each worker, so that they share it."""
        if any(function.may_be_async for function in self._registry):
            import asyncio  # noqa: F401  # here once rather than in every worker
        rehearse(config)
        setproctitle(title(config.name, "fork server"))
        loop = WorkerLoop(self._registry, config)
        loop.prepare()
        return WorkerForker(loop, self._board, config.hard_memory)

    def kill_all(self) -> None:
        """Kill every worker, with its process group."""
        for pid in self._pids.values():
            _signal_group(pid, signal.SIGKILL)

    def _carry_out(self, orders: list[ToForkServer], forker: WorkerForker) -> None:
        for order in orders:
            if isinstance(order, Fork):
                self._watch_new(self._fork(order.workers, forker))
                self._report_suspended()  # whoever was stopped during the forks has caused no event
            elif isinstance(order, Signal) and order.number in self._pids:
                self._signal(order)

    def _watch_new(self, workers: list[Forked]) -> None:
        for forked in workers:
            reply = forked
            if forked.pid is not None:
                with suppress(OSError):
                    os.setpgid(forked.pid, forked.pid)
                try:
                    self._watch(forked.number, forked.pid)
                except Exception as error:  # such as too many open files: nobody would notice its end
                    os.kill(forked.pid, signal.SIGKILL)
                    os.waitpid(forked.pid, 0)
                    reply = Forked(forked.number, None, str(error) or type(error).__name__)
            self._send(reply)

    def _watch(self, number: int, pid: int) -> None:
        descriptor = os.pidfd_open(pid)
        try:
            self._poll.register(descriptor, select.POLLIN)
        except BaseException:
            os.close(descriptor)
            raise
        self._numbers_by_pidfd[descriptor] = number
        self._pids[number] = pid

    def _signal(self, order: Signal) -> None:
        pid = self._pids[order.number]  # still this worker's id: it has not been waited for
        if order.signal == signal.SIGKILL:
            self._killed.add(order.number)
        if order.group:
            _signal_group(pid, order.signal)
        else:
            with suppress(ProcessLookupError):
                os.kill(pid, order.signal)

    def _fork(self, workers: list[tuple[int, int]], forker: WorkerForker) -> list[Forked]:
        flush_streams()  # otherwise each worker would print it once more
        given = [self._descriptors.popleft() for _ in range(2 * len(workers))]
        inherited = [self._control.fileno(), self._events.fileno()]
        with self._events.unblocked():
            outcomes = forker.fork(
                [place for _, place in workers],
                given,
                [*inherited, *self._numbers_by_pidfd, *self._descriptors],
            )
        return [
            Forked(number, None, str(outcome)) if isinstance(outcome, OSError) else Forked(number, outcome)
            for (number, _), outcome in zip(workers, outcomes, strict=True)
        ]

    def _reap(self, descriptor: int) -> None:
        number = self._numbers_by_pidfd.pop(descriptor)
        pid = self._pids.pop(number)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        # Processes that the worker's tasks left running end with it. The kernel reuses
        # its id only after it has been waited for.
        _signal_group(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        out_of_memory = None
        if code == -signal.SIGKILL:
            out_of_memory = number not in self._killed and self._oom.has_struck()
        self._killed.discard(number)
        self._send(Exited(number, code, usage.ru_maxrss, out_of_memory))

    def _report_suspended(self) -> None:
        """Report the workers that were stopped, or go on."""
        for pid, is_suspended in self._events.read():
            for number, worker in self._pids.items():
                if worker == pid:
                    self._send(Suspended(number, is_suspended))

    def _receive(self) -> list[bytes]:
        data, descriptors, flags, _ = recv_fds(self._control, RECEIVE_SIZE, MAX_DESCRIPTORS)
        if flags & socket.MSG_CTRUNC:
            sys.exit("too many open files (ulimit -n): descriptors for workers were lost")
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors.extend(descriptors)
        self._closed = not data
        return self._splitter.receive(data)

    def _send(self, message: FromForkServer) -> None:
        self._control.sendall(encode(message))


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _folders(config: WorkerConfig, failure: BaseException | None = None) -> list[str]:
    """Return the folders of the app's code if the daemon wants to know them."""
    if not config.reports_folders:
        return []
    from taskd.worker.sources import source_folders  # needed during development alone

    return source_folders(config.apps, config.directory, sys.modules, failure)


def main() -> int:
    """Run the fork server; the exit status is 1 if the app could not be loaded."""
    gc.disable()  # the workers enable it; before they are forked there is little garbage
    # The daemon has started it in a session of its own, out of the reach of Ctrl-C at the terminal.
    take_default_signals()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = os.getppid()
    die_with_parent(signal.SIGKILL)  # while the app is imported, the socket is not watched
    if os.getppid() != parent:
        return 1
    descriptors = [int(argument) for argument in sys.argv[1:]]
    del sys.argv[1:]  # the app may look for options of its own
    control = socket.socket(fileno=descriptors[0])
    control.set_inheritable(False)
    board = Board(descriptors[1])
    os.close(descriptors[1])
    # The stack of a crash goes to stderr, which the daemon reads. So does that of an import
    # that takes long, at the daemon's signal.
    faulthandler.enable()
    faulthandler.register(POKE, all_threads=False)
    atexit.register(end_helpers)  # before the app, whose own handlers thus run earlier
    server = ForkServer(control, board, registry)
    try:
        config = server.load()
        if config is None:
            return 1
        # From here on the socket shows when the daemon ends, so that whole groups can be killed.
        die_with_parent(0)
        server.serve(config)
    except (BrokenPipeError, ConnectionResetError):
        pass  # The daemon is gone.
    finally:
        server.kill_all()
        control.close()
        gc.unfreeze()  # objects of the app that clean up when they are collected, such as temporary files
        end_helpers_in_time()
    return 0


if __name__ == "__main__":
    sys.exit(main())
