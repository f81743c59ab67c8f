"""What runs in a worker process: one task at a time, in a plain blocking loop."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import termios
import time
from _socket import SocketType
from _thread import allocate_lock
from array import array
from collections import deque
from contextlib import suppress

from msgspec import Raw

from taskd.functions.progress import report_progress_to
from taskd.functions.registry import Registry
from taskd.worker.board import Board
from taskd.worker.interrupts import Interrupter
from taskd.worker.invocation import FunctionCaller
from taskd.worker.messages import (
    IS_SHORT,
    POKE,
    RECEIVE_SIZE,
    WANTS_PROGRESS,
    Attempt,
    Interrupt,
    Ready,
    Reclaim,
    Reported,
    Returned,
    WholeLines,
    WorkerConfig,
    decode_to_worker,
    encode,
)
from taskd.worker.process_title import setproctitle
from taskd.worker.progress import ProgressReporter

__all__ = ["Worker", "rehearse"]

HOLD_SECONDS = 0.001
"""Seconds that an outcome may wait for those of the next tasks, where more than one was given."""

_OUTPUT = 1
"""The descriptor whose pipe the daemon reads: stdout, and stderr is the same."""

_WAITING = "idle"

_READY = encode(Ready())

REHEARSALS = 20
"""Python specialises a function's code at its eighth call."""


class Worker:
    """Runs what comes over a channel until the daemon closes it.

    Made once, by the fork server, which is why it begins with nothing open.
    """

    _channel: SocketType
    _board: Board
    _place: int

    def __init__(self, registry: Registry, config: WorkerConfig) -> None:
        self._registry = registry
        self._config = config
        self._sending = allocate_lock()
        self._lines = WholeLines()
        self._queue: deque[Attempt] = deque()
        self._unsent: list[bytes] = []
        self._unsent_since = 0.0
        self._shown = ""
        self._in_pipe = array("i", [0])
        self._interrupter = Interrupter(self._look)
        self._caller = FunctionCaller(registry, config, self._interrupter, self._wrote)
        self._progress = ProgressReporter(self._send)
        self._title_waiting = f"{config.name}: {_WAITING}"

    def prepare(self) -> None:
        """Do, in the fork server, what each worker would do alike: they share the memory that it takes."""
        report_progress_to(self._report)
        signal.signal(POKE, self._interrupter.poke)

    def run(self, channel: SocketType, board: Board, place: int) -> None:
        """Serve until there is no more to do. What a hook raises goes through.

        What the worker begins, and what it has not sent yet, is at `place` of the board.
        """
        self._channel = channel
        self._board = board
        self._place = place
        for hook in self._registry.start_hooks:
            hook()
        self._show_waiting()
        try:
            channel.sendall(_READY)
            self._serve_all()
        except (BrokenPipeError, ConnectionResetError):
            pass  # The daemon is gone, and nobody waits for us any more.
        signal.signal(POKE, signal.SIG_IGN)
        self._show("stopping")
        self._caller.close()
        for hook in self._registry.stop_hooks:
            hook()

    def _serve_all(self) -> None:
        queue = self._queue
        while True:
            self._interrupter.attend()
            if queue:
                self._serve(queue.popleft())
                continue
            self._flush()
            if self._shown is not _WAITING:
                self._show_waiting()
            data = self._channel.recv(RECEIVE_SIZE)
            if not data:
                return
            self._obey(data)

    def _serve(self, run: Attempt) -> None:
        is_short = run.flags & IS_SHORT
        if not is_short:
            self._show(f"{run.function} #{run.task}")
        if run.flags & WANTS_PROGRESS:
            self._progress.begin(run.task)
        self._board.begin(self._place, run.task)
        started = time.perf_counter()
        outcome = self._caller.call(run, started)
        if run.flags & WANTS_PROGRESS:
            self._progress.end()
        line = encode(outcome)
        if not self._unsent:
            self._unsent_since = started
        self._unsent.append(line)
        if not self._queue:
            return  # and so they are sent
        if outcome.output:
            self._return_queue()  # what each of them writes must be told apart
        elif started + outcome.seconds - self._unsent_since > HOLD_SECONDS or not self._board.keep(
            self._place, line
        ):
            self._flush()

    # --- what the daemon says ---

    def _obey(self, data: bytes) -> None:
        for message in decode_to_worker(self._lines.receive(data)):
            if type(message) is Attempt:
                self._queue.append(message)
            elif type(message) is Interrupt:
                self._interrupt(message)
            elif type(message) is Reclaim:
                self._return_queue()

    def _look(self) -> None:
        """Read what has come while a function runs. Called by the interrupter."""
        running = self._interrupter.running
        if running is not None and running.flags & IS_SHORT:
            self._show(f"{running.function} #{running.task}")  # so short it is not
        with suppress(BlockingIOError, ConnectionResetError, BrokenPipeError):
            while data := self._channel.recv(RECEIVE_SIZE, socket.MSG_DONTWAIT):
                self._obey(data)

    def _interrupt(self, message: Interrupt) -> None:
        if self._interrupter.interrupt(message):
            return
        for run in self._queue:
            if run.task == message.task and run.number == message.attempt:
                self._queue.remove(run)
                self._give_back([run])
                return
        # It has ended meanwhile, and the daemon will have read so by now.

    def _return_queue(self) -> None:
        runs = list(self._queue)
        self._queue.clear()
        self._give_back(runs)

    def _give_back(self, runs: list[Attempt]) -> None:
        self._flush()
        if runs:
            self._send(Returned([run.task for run in runs]))

    # --- what it says ---

    def _send(self, message: Ready | Reported | Returned) -> None:
        with self._sending:
            self._channel.sendall(encode(message))

    def _flush(self) -> None:
        if self._unsent:
            data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            with self._sending:
                self._channel.sendall(data)
            self._board.sent(self._place)

    def _report(self, done: float, total: float | None, message: str | None) -> None:
        with self._interrupter.shield():
            self._progress.report(done, total, message)

    def _wrote(self) -> bool:
        """Whether the daemon has output of this task still to read."""
        for stream in (sys.stdout, sys.stderr):
            try:  # noqa: SIM105  # suppress() touches more of what workers share
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass  # The task may have closed or replaced it, or the pipe is gone.
        try:
            fcntl.ioctl(_OUTPUT, termios.FIONREAD, self._in_pipe, True)
        except OSError:
            return False
        return self._in_pipe[0] > 0

    def _show_waiting(self) -> None:
        self._shown = _WAITING
        setproctitle(self._title_waiting)

    def _show(self, doing: str) -> None:
        self._shown = doing
        setproctitle(f"{self._config.name}: {doing}")


def rehearse(config: WorkerConfig) -> None:
    """Have a worker, here in the fork server, run a function that does nothing.

    What Python notes at the first runs of a piece of code (specialised
    instructions, found attributes) is then noted in memory that all workers
    share, and not by each of them in its own copy.
    """
    own = Registry()
    own.add(_nothing)
    own.compile()
    worker = Worker(own, config)
    worker.prepare()
    # Of this kind, since each is then received by itself.
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with ours, theirs:
        for task in range(REHEARSALS):
            flags = IS_SHORT if task % 2 else 0
            ours.sendall(encode(Attempt(task, 1, _nothing.__name__, Raw(b"[null]"), flags)))
        ours.shutdown(socket.SHUT_WR)
        descriptor = Board.create(1)
        board = Board(descriptor)
        os.close(descriptor)
        worker.run(theirs, board, 0)
        board.close()  # nobody else would, and every worker would inherit it


def _nothing(value: object) -> object:
    return value
