"""The main loop of a worker process: receives tasks, runs them one at a time, sends outcomes. Blocking."""

from __future__ import annotations

import os
import signal
import socket
import time
from _socket import SocketType, socketpair
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress

from msgspec import Raw

from taskd.functions.current import describe_current_task_by
from taskd.functions.progress import report_progress_to
from taskd.functions.registry import Registry
from taskd.worker.board import Board
from taskd.worker.clean_start import CleanStart
from taskd.worker.current import CurrentTasks
from taskd.worker.interrupts import Interrupter
from taskd.worker.invocation import Invoker
from taskd.worker.logs import adopt_logging
from taskd.worker.memory import MemoryWatch
from taskd.worker.messages import (
    IS_DESCRIBED,
    IS_SHORT,
    POKE,
    RECEIVE_SIZE,
    WANTS_PROGRESS,
    Attempt,
    DescribedAttempt,
    Done,
    Failed,
    Grown,
    Interrupt,
    Ready,
    Reclaim,
    Reported,
    Returned,
    Stopped,
    WholeLines,
    WorkerConfig,
    Yielded,
    decode_to_worker,
    encode,
)
from taskd.worker.process_title import setproctitle, title
from taskd.worker.progress import UNREPORTED, ProgressReporter, running_task
from taskd.worker.spans import Spans

__all__ = ["WorkerLoop", "rehearse"]

OUTCOME_DELAY = 0.001
"""Seconds that an outcome may wait for the outcomes of the worker's next tasks."""

MAX_UNSENT = 16
"""Outcomes that wait for others at most: half of the tasks that a worker may have at once, so that the daemon
gives it more while it runs the other half."""

OUTPUT = 1
"""The descriptor of the pipe that the daemon reads: stdout, which stderr shares."""

ERRORS = 2
"""The descriptor of stderr."""

_IDLE = "idle"

_IS_SPECIAL = WANTS_PROGRESS | IS_DESCRIBED

_READY = encode(Ready())

REHEARSALS = 20
"""Tasks run by `rehearse`: Python specialises a function's code at its eighth call."""


class WorkerLoop:
    """The loop that runs the tasks from a channel until the daemon closes it.

    The fork server makes one for all its workers, so it has nothing open until `run`.
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
        self._title_shows = ""
        self._interrupter = Interrupter(self._read_during_function)
        self._clean_start = CleanStart(OUTPUT, ERRORS, self._interrupter.on_signal)
        self._process = self._clean_start.process
        self._memory = MemoryWatch(config.max_memory) if config.max_memory is not None else None
        self._invoker = Invoker(registry, config, self._interrupter, self._clean_start, self._send)
        self._progress = ProgressReporter(self._send, self._invoker.hider_of_running)
        self._current = CurrentTasks(self._interrupter)
        self._spans = Spans()
        self._idle_title = title(config.name, _IDLE)

    def prepare(self) -> None:
        """Prepare, in the fork server, what is the same in each worker, so that they share its memory."""
        report_progress_to(self._report)
        describe_current_task_by(self._current.current)
        signal.signal(POKE, self._interrupter.on_signal)

    def run(self, channel: SocketType, board: Board, place: int) -> None:
        """Run tasks until the channel closes. Raises whatever a hook raises.

        The worker records the task that it begins, and outcomes that it has not
        sent, in its `place` on the board.
        """
        self._clean_start.event_loop.enter()
        self.serve(channel, board, place)

    def serve(self, channel: SocketType, board: Board, place: int) -> None:
        """Do as `run` does, in a process that need not be a worker: the event loop is left alone."""
        self._channel = channel
        self._board = board
        self._place = place
        self._process.enter()
        running_task.set(UNREPORTED)
        for hook in self._registry.start_hooks:
            self._call_hook(hook)
        if self._registry.start_hooks:
            adopt_logging()
        self._clean_start.keep()
        self._show_idle()
        try:
            channel.sendall(_READY)
            self._run_until_closed()
        except (BrokenPipeError, ConnectionResetError):
            pass  # The daemon is gone, so nobody waits for outcomes.
        signal.signal(POKE, signal.SIG_IGN)
        self._set_title("stopping")
        running_task.set(None)
        for hook in self._registry.stop_hooks:
            self._call_hook(hook)
        self._clean_start.close()

    def _call_hook(self, hook: Callable[[], object]) -> None:
        try:
            hook()
        except BaseException as error:
            self._process.leave_if_forked(error)
            raise
        self._process.leave_if_forked()

    def _run_until_closed(self) -> None:
        queue = self._queue
        while True:
            self._interrupter.handle_signal()
            if queue:
                self._run_attempt(queue.popleft())
                continue
            self._flush()
            if self._title_shows is not _IDLE:
                self._show_idle()
            data = self._channel.recv(RECEIVE_SIZE)
            if not data:
                return
            self._handle_messages(data)

    def _run_attempt(self, attempt: Attempt) -> None:
        is_short = attempt.flags & IS_SHORT
        if not is_short:
            self._set_title(f"{attempt.function} #{attempt.task}")
        if attempt.flags & _IS_SPECIAL:
            self._begin_special(attempt)
        self._board.begin(self._place, attempt.task)
        started = time.perf_counter()
        outcome = self._invoker.invoke(attempt, started)
        if attempt.flags & _IS_SPECIAL:
            self._end_special(attempt, outcome)
        line = encode(outcome)
        if not self._unsent:
            self._unsent_since = started
        excess = None
        if self._memory is not None and (excess := self._memory.excess()) is not None:
            self._unsent.append(encode(Grown(excess)))
        self._unsent.append(line)
        if not self._queue:
            return  # the loop sends the outcomes next
        if outcome.output or excess is not None:
            self._return_queue()  # the outputs of tasks must be kept apart; this worker has run enough
        elif (
            len(self._unsent) >= MAX_UNSENT
            or started + outcome.seconds - self._unsent_since > OUTCOME_DELAY
            or not self._board.keep(self._place, line)
        ):
            self._flush()

    def _begin_special(self, attempt: Attempt) -> None:
        if attempt.flags & WANTS_PROGRESS:
            running_task.set(attempt.task)
            self._progress.begin(attempt.task)
        if type(attempt) is DescribedAttempt:
            self._current.begin(attempt, time.perf_counter())
            self._spans.begin(attempt)

    def _end_special(self, attempt: Attempt, outcome: Done | Failed | Stopped) -> None:
        self._spans.end(outcome)
        if attempt.flags & WANTS_PROGRESS:
            self._progress.end()
            running_task.set(UNREPORTED)
        self._current.end()

    # --- messages from the daemon ---

    def _handle_messages(self, data: bytes) -> None:
        for message in decode_to_worker(self._lines.receive(data)):
            if type(message) is Attempt or type(message) is DescribedAttempt:
                self._queue.append(message)
            elif type(message) is Interrupt:
                self._interrupt(message)
            elif type(message) is Reclaim:
                self._return_queue()

    def _read_during_function(self) -> None:
        """Handle messages that arrive while a function runs. Called by the interrupter."""
        if not self._process.is_ours:
            return  # a child of the task has got the signal: the messages are not for it
        running = self._interrupter.running
        if running is not None and running.flags & IS_SHORT:
            self._set_title(f"{running.function} #{running.task}")  # it is not short after all
        with suppress(BlockingIOError, ConnectionResetError, BrokenPipeError):
            while data := self._channel.recv(RECEIVE_SIZE, socket.MSG_DONTWAIT):
                self._handle_messages(data)

    def _interrupt(self, message: Interrupt) -> None:
        if self._interrupter.interrupt(message):
            return
        for attempt in self._queue:
            if attempt.task == message.task and attempt.number == message.attempt:
                self._queue.remove(attempt)
                self._return([attempt])
                return
        # Otherwise the attempt has ended meanwhile, and its outcome is on the way.

    def _return_queue(self) -> None:
        attempts = list(self._queue)
        self._queue.clear()
        self._return(attempts)

    def _return(self, attempts: list[Attempt]) -> None:
        self._flush()
        if attempts:
            self._send(Returned([attempt.task for attempt in attempts]))

    # --- messages to the daemon ---

    def _send(self, message: Ready | Reported | Returned | Yielded) -> None:
        with self._sending:
            self._channel.sendall(encode(message))

    def _flush(self) -> None:
        if self._unsent:
            data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            self._process.leave_if_forked()  # a result or an exception whose formatting forked
            with self._sending:
                self._channel.sendall(data)
            self._board.sent(self._place)

    def _report(self, done: float, total: float | None, message: str | None) -> None:
        if not self._process.is_ours:
            return  # before any lock, which a thread of the worker may have held when this child was forked
        with self._interrupter.shield():
            self._progress.report(done, total, message)

    def _show_idle(self) -> None:
        self._title_shows = _IDLE
        setproctitle(self._idle_title)

    def _set_title(self, doing: str) -> None:
        self._title_shows = doing
        setproctitle(title(self._config.name, doing))


def rehearse(config: WorkerConfig) -> None:
    """Run the worker loop here, in the fork server, with a function that does nothing.

    Python stores what it learns from the first runs of a piece of code
    (specialised instructions, cached attributes). After this, that is in memory
    that all workers share, instead of in each worker's own copy.
    """
    own = Registry()
    own.add(_nothing)
    own.compile()
    worker = WorkerLoop(own, config)
    worker.prepare()
    # A socket of this type delivers each message separately.
    # The app may have replaced the one of `socket` (gevent, eventlet).
    ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        for end in (ours, theirs):
            end.settimeout(None)  # the app may have set a default
        for task in range(REHEARSALS):
            flags = IS_SHORT if task % 2 else 0
            ours.sendall(encode(Attempt(task, 1, _nothing.__name__, Raw(b"[null]"), flags)))
        ours.shutdown(socket.SHUT_WR)
        descriptor = Board.create(1)
        board = Board(descriptor)
        os.close(descriptor)
        worker.serve(theirs, board, 0)
        board.close()  # otherwise every worker would inherit it


def _nothing(value: object) -> object:
    return value
