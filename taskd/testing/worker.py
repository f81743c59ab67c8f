"""A worker that is a thread of the test's own process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from threading import Condition, Thread
from typing import TypeAlias

from taskd.functions.current import NO_TASK, CurrentTask, describe_current_task_by
from taskd.functions.progress import report_progress_to
from taskd.functions.registry import Registry
from taskd.testing.interrupts import ThreadInterrupter
from taskd.worker.clean_start import CleanStart
from taskd.worker.current import CurrentTasks
from taskd.worker.event_loop import EventLoop
from taskd.worker.invocation import Invoker
from taskd.worker.messages import (
    WANTS_PROGRESS,
    Attempt,
    DescribedAttempt,
    Done,
    Failed,
    Interrupt,
    Ready,
    Reported,
    Returned,
    Stopped,
    WorkerConfig,
    Yielded,
)
from taskd.worker.own_process import OwnProcess
from taskd.worker.progress import UNREPORTED, ProgressReporter, running_task
from taskd.worker.spans import Spans

__all__ = ["Said", "ThreadWorker", "serve_this_process"]

Said: TypeAlias = Ready | Done | Failed | Stopped | Returned | Reported | Yielded
"""What a worker says."""


class _ThreadLoop(EventLoop):
    """The event loop of a worker that is a thread: other threads' loops, and the policy, stay as they are."""

    def settle(self, *, is_short: bool = False) -> None:
        """Cancel the asyncio tasks that are left."""
        self.has_run = False
        loop = self._loop
        if loop is None:
            return
        from asyncio import all_tasks

        if leftovers := all_tasks(loop):
            self._cancel(loop, leftovers)


class _ThreadStart(CleanStart):
    """What is put back after each task: in a thread that is its event loop alone."""

    def __init__(self) -> None:
        self.process = OwnProcess()
        self.event_loop = _ThreadLoop()
        self.has_output = lambda: False

    def settle(self) -> None:
        """Put back the event loop."""
        self.event_loop.settle()

    def close(self) -> None:
        """Close the event loop."""
        self.event_loop.close()


class ThreadWorker:
    """Runs attempts one at a time, in the order in which it gets them.

    `say` is called in the thread of the worker with what it says, and with None when
    it has ended. All other methods are for another thread.
    """

    def __init__(
        self,
        number: int,
        registry: Registry,
        config: WorkerConfig,
        say: Callable[[ThreadWorker, Said | None], object],
    ) -> None:
        self.number = number
        self.begun = 0
        """The number of the task that was begun last, 0 for none."""
        self.is_ready = False
        self._registry = registry
        self._config = config
        self._say = say
        self.is_alone = False
        """Whether the worker was left alone, so that nothing is known of its task any more."""
        self._changed = Condition()
        self._queue: deque[Attempt] = deque()
        self._running: Attempt | None = None
        self._is_leaving = False
        self._interrupter: ThreadInterrupter | None = None
        self._thread = Thread(target=self._run, name=f"taskd worker {number}", daemon=True)

    def start(self) -> None:
        """Begin to take attempts, in a thread of its own."""
        self._thread.start()

    def send(self, attempts: list[Attempt]) -> None:
        """Give the worker attempts."""
        with self._changed:
            self._queue.extend(attempts)
            self._changed.notify()

    def interrupt(self, message: Interrupt) -> None:
        """Interrupt an attempt, or return it if it has not begun."""
        with self._changed:
            for attempt in self._queue:
                if attempt.task == message.task and attempt.number == message.attempt:
                    self._queue.remove(attempt)
                    self._say(self, Returned([attempt.task]))
                    return
            running, interrupter = self._running, self._interrupter
        if interrupter is not None and running is not None and running.task == message.task:
            interrupter.interrupt(message)

    def reclaim(self) -> None:
        """Return what has not begun."""
        with self._changed:
            tasks = [attempt.task for attempt in self._queue]
            self._queue.clear()
        if tasks:
            self._say(self, Returned(tasks))

    def retire(self) -> None:
        """Leave after what the worker has been given."""
        with self._changed:
            self._is_leaving = True
            self._changed.notify()

    def leave_alone(self) -> None:
        """Begin nothing more, and interrupt what runs: nobody waits for it."""
        with self._changed:
            self._queue.clear()
            self._is_leaving = self.is_alone = True
            self._changed.notify()
            running = self._running
        if running is not None:
            self.interrupt(Interrupt(running.task, running.number, cancelled=True))

    # --- in the thread ---

    def _run(self) -> None:
        interrupter = ThreadInterrupter()
        clean_start = _ThreadStart()
        self._invoker = Invoker(self._registry, self._config, interrupter, clean_start, self._send)
        self._progress = ProgressReporter(self._send, self._invoker.hider_of_running)
        self._current = CurrentTasks(interrupter)
        self._spans = Spans()
        self._interrupter = interrupter
        _here.set(self)
        self._send(Ready())
        while (attempt := self._next()) is not None:
            outcome = self._outcome(attempt)
            self._running = None
            self._send(outcome)
        clean_start.close()
        self._say(self, None)

    def _send(self, message: Said) -> None:
        self._say(self, message)

    def _next(self) -> Attempt | None:
        with self._changed:
            while not self._queue:
                if self._is_leaving:
                    return None
                self._changed.wait()
            self._running = attempt = self._queue.popleft()
            self.begun = attempt.task
            return attempt

    def _outcome(self, attempt: Attempt) -> Done | Failed | Stopped:
        wants_progress = bool(attempt.flags & WANTS_PROGRESS)
        running_task.set(attempt.task if wants_progress else UNREPORTED)
        started = time.perf_counter()
        if wants_progress:
            self._progress.begin(attempt.task)
        if type(attempt) is DescribedAttempt:
            self._current.begin(attempt, started)
            self._spans.begin(attempt)
        try:
            outcome = self._invoker.invoke(attempt, started)
            self._spans.end(outcome)
            return outcome
        finally:
            if wants_progress:
                self._progress.end()
            if type(attempt) is DescribedAttempt:
                self._current.end()

    def report(self, done: float, total: float | None, message: str | None) -> None:
        """Report the progress of the running task, as `taskd.progress` does in a worker."""
        assert self._interrupter is not None
        with self._interrupter.shield():
            self._progress.report(done, total, message)

    def current(self) -> CurrentTask:
        """Return the running task, as `taskd.current_task` does in a worker."""
        return self._current.current()


_here: ContextVar[ThreadWorker | None] = ContextVar("taskd_testing_worker", default=None)
"""The worker in whose context code runs; None outside all of them."""


def _report(done: float, total: float | None, message: str | None) -> None:
    worker = _here.get()
    if worker is not None:
        worker.report(done, total, message)


def _current_task() -> CurrentTask:
    worker = _here.get()
    return NO_TASK if worker is None else worker.current()


def serve_this_process() -> None:
    """Have `taskd.progress` and `taskd.current_task` find the worker in whose context they are called."""
    report_progress_to(_report)
    describe_current_task_by(_current_task)
