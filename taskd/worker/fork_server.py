"""The fork server: imports the app once, and forks a worker whenever it is asked.

``python -P -m taskd.worker.fork_server``, started by the daemon with a unix
socket as descriptor 3 and the board as 4. It reads a `WorkerConfig`, imports the app, answers `Loaded`
or `LoadFailed`, and then serves `Fork` and `Signal` until the socket closes;
then it kills every worker that is left, with all the processes of its group.

It imports no Twisted, has one thread, and freezes what it has imported, so
that its workers share that memory for as long as they live.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import resource
import select
import signal
import socket
import sys
import traceback
from _socket import SocketType
from collections import deque
from contextlib import suppress
from faulthandler import register as register_stack
from gc import enable as gc_enable
from os import O_WRONLY, _exit, close, dup2, getppid, setpgid, write
from os import open as open_file
from typing import Any, NoReturn

from taskd.functions.registry import Registry, registry
from taskd.protocol.framing import LineSplitter
from taskd.worker.board import Board
from taskd.worker.loading import AppError, check_hard_memory, load_apps
from taskd.worker.loop import Worker, rehearse
from taskd.worker.messages import (
    BOARD,
    CONTROL,
    MAX_LINE,
    RECEIVE_SIZE,
    Exited,
    Fork,
    Forked,
    FromForkServer,
    Loaded,
    LoadFailed,
    Signal,
    WorkerConfig,
    decode_config,
    decode_to_fork_server,
    encode,
)
from taskd.worker.oom import OomWatch
from taskd.worker.process_title import setproctitle

__all__ = ["ForkServer", "main"]

MAX_DESCRIPTORS = 64
"""Descriptors taken in with one read: far more than one read's bytes carry."""

OOM_SCORE = b"500"
"""Of 1000: when memory runs out, the kernel takes a worker and not the daemon."""

_SIGKILL, _SIGTERM = int(signal.SIGKILL), int(signal.SIGTERM)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


# Looked up once: what a worker need not do itself is memory that it shares.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send `signal_number` when the parent ends (0: not any more). Linux only."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal_number)


class ForkServer:
    """Serves one daemon over `control`, a connected unix stream socket; `board` is shared with it."""

    def __init__(self, control: socket.socket, board: Board, registry: Registry) -> None:
        self._control = control
        self._board = board
        self._closed = False
        self._registry = registry
        self._pid = os.getpid()
        self._splitter = LineSplitter(MAX_LINE)
        self._descriptors: deque[int] = deque()
        self._pids: dict[int, int] = {}
        self._hard_memory: int | None = None
        self._numpy_random: Any = None
        self._poll = select.poll()
        # By the descriptor of its process (pidfd_open(2)), which can be polled
        # for its end: no signal handler, which every worker would have to undo.
        self._numbers: dict[int, int] = {}
        self._killed: set[int] = set()
        self._oom = OomWatch()

    def load(self) -> WorkerConfig | None:
        """Read the configuration and import the app; None where there is nothing to serve."""
        lines: list[bytes] = []
        while not lines:
            lines = self._receive()
            if not lines and self._closed:
                return None
        config = decode_config(lines[0])
        setproctitle(f"{config.name}: fork server")
        try:
            load_apps(config.apps, config.directory, self._registry)
            check_hard_memory(config.hard_memory)
        except AppError as error:
            self._send(LoadFailed(str(error)))
            return None
        if any(function.is_async for function in self._registry):
            import asyncio  # noqa: F401  # here once rather than in every worker
        return config

    def serve(self, config: WorkerConfig) -> None:
        """Fork and kill as told, until the daemon closes the socket."""
        self._hard_memory = config.hard_memory
        rehearse(config)
        setproctitle(f"{config.name}: fork server")
        # Made here, as is whatever else each worker would make alike: it shares it.
        worker = Worker(self._registry, config)
        worker.prepare()
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        self._numpy_random = sys.modules.get("numpy.random")
        # Its table of 16 KiB is made at the first use, and kept: let that be here.
        faulthandler.register(signal.SIGTERM)
        faulthandler.unregister(signal.SIGTERM)
        # No collection before it (gc's documentation says why): it would make
        # holes in what is shared, and the workers would fill them.
        gc.freeze()
        self._send(Loaded([function.describe() for function in self._registry]))
        control = self._control.fileno()
        self._poll.register(control, select.POLLIN)
        while not self._closed:
            for descriptor, _ in self._poll.poll():
                if descriptor == control:
                    self._obey([decode_to_fork_server(line) for line in self._receive()], worker)
                else:
                    self._reap(descriptor)

    def kill_all(self) -> None:
        """End every worker, with its process group."""
        for pid in self._pids.values():
            _signal_group(pid, signal.SIGKILL)

    def _obey(self, orders: list[Fork | Signal], worker: Worker) -> None:
        for order in orders:
            if isinstance(order, Fork):
                self._note_born(self._fork(order.workers, worker))
            elif order.number in self._pids:
                self._signal(order)

    def _note_born(self, workers: list[Forked]) -> None:
        for born in workers:
            if born.pid is not None:
                with suppress(OSError):
                    os.setpgid(born.pid, born.pid)
                descriptor = os.pidfd_open(born.pid)
                self._numbers[descriptor] = born.number
                self._pids[born.number] = born.pid
                self._poll.register(descriptor, select.POLLIN)
            self._send(born)

    def _signal(self, order: Signal) -> None:
        pid = self._pids[order.number]  # it cannot be another's: it was not waited for yet
        if order.signal == signal.SIGKILL:
            self._killed.add(order.number)
        if order.group:
            _signal_group(pid, order.signal)
        else:
            with suppress(ProcessLookupError):
                os.kill(pid, order.signal)

    def _fork(self, workers: list[tuple[int, int]], worker: Worker) -> list[Forked]:
        """Fork a worker for each number and place, one right after the other.

        What we write to between two forks the workers do not share.
        """
        given = [self._descriptors.popleft() for _ in range(2 * len(workers))]
        outcomes: list[int | OSError] = []
        for index in range(len(workers)):
            try:
                pid = os.fork()
            except OSError as error:
                outcomes.append(error)
            else:
                if pid == 0:
                    self._become_worker(worker, given, 2 * index, workers[index][1])
                outcomes.append(pid)
        for descriptor in given:
            os.close(descriptor)
        return [
            Forked(number, None, str(outcome)) if isinstance(outcome, OSError) else Forked(number, outcome)
            for (number, _), outcome in zip(workers, outcomes, strict=True)
        ]

    def _become_worker(self, worker: Worker, given: list[int], index: int, place: int) -> NoReturn:
        """Attempt a worker with the two of `given` that begin at `index`; the others are its siblings'."""
        status = 1
        try:
            self._leave_parent(given, index)
            # The daemon's SIGTERM: say where the function was, then end of it.
            register_stack(_SIGTERM, all_threads=False, chain=True)
            if self._hard_memory is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (self._hard_memory, self._hard_memory))
            worker.run(SocketType(fileno=given[index]), self._board, place)
            status = 0
        except BaseException:  # the process ends here, whatever it was
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            _exit(status)

    def _leave_parent(self, given: list[int], index: int) -> None:
        """Drop everything of the fork server that a worker must not have.

        Plain calls of plain functions, since each worker has to itself the
        pages of whatever is touched here, if only to count a reference.
        """
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        if getppid() != self._pid:
            _exit(1)  # it ended before the kernel was told
        setpgid(0, 0)
        output = given[index + 1]
        dup2(output, 1)
        dup2(output, 2)
        close(CONTROL)
        for descriptor in self._numbers:
            close(descriptor)
        for descriptor in self._descriptors:
            close(descriptor)
        channel = given[index]
        for descriptor in given:
            if descriptor != channel:
                close(descriptor)
        gc_enable()
        # Python reseeds its own generator at a fork; numpy's global one is left alike everywhere.
        if self._numpy_random is not None:
            self._numpy_random.seed()
        try:
            score = open_file("/proc/self/oom_score_adj", O_WRONLY)
            write(score, OOM_SCORE)
            close(score)
        except OSError:
            pass

    def _reap(self, descriptor: int) -> None:
        number = self._numbers.pop(descriptor)
        pid = self._pids.pop(number)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        # What the worker's tasks left running ends with it. Its own id is not
        # given to anybody else before it is waited for.
        _signal_group(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        out_of_memory = None
        if code == -signal.SIGKILL:
            out_of_memory = number not in self._killed and self._oom.has_struck()
        self._killed.discard(number)
        self._send(Exited(number, code, usage.ru_maxrss, out_of_memory))

    def _receive(self) -> list[bytes]:
        data, descriptors, _, _ = socket.recv_fds(self._control, RECEIVE_SIZE, MAX_DESCRIPTORS)
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


def main() -> int:
    """Attempt the fork server; the exit status is 1 where the app could not be loaded."""
    gc.disable()  # the workers enable it: until they are forked there is little garbage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal is the daemon's affair
    with suppress(PermissionError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # out of the terminal's reach by now
    parent = os.getppid()
    die_with_parent(signal.SIGKILL)  # while the app is imported nobody watches the socket
    if os.getppid() != parent:
        return 1
    control = socket.socket(fileno=CONTROL)
    control.set_inheritable(False)
    board = Board(BOARD)
    os.close(BOARD)
    # What a crash leaves behind goes to stderr, which in a worker the daemon reads.
    faulthandler.enable()
    server = ForkServer(control, board, registry)
    try:
        config = server.load()
        if config is None:
            return 1
        # From here the closed socket tells, so that whole groups can be killed.
        die_with_parent(0)
        server.serve(config)
    except (BrokenPipeError, ConnectionResetError):
        pass  # The daemon is gone.
    finally:
        server.kill_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
