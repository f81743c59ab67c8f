"""The handler of the pool's reports: passes outcomes, progress and exits to scheduler and subscribers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.errors import ImpossibleMessage, InvalidParams
from taskd.functions.registry import FunctionInfo
from taskd.model import Progress
from taskd.net.log_rate import RatedLog
from taskd.pool.exits import WorkerExit
from taskd.pool.pool import WorkerMessage
from taskd.pool.task_label import TaskLabel, label_of
from taskd.scheduler import Scheduler
from taskd.scheduler.task import Subscriber, Task
from taskd.server.completion import Completion, flush
from taskd.server.counters import Counters
from taskd.server.failures import cancelled_waiting
from taskd.server.long_results import LongResults, ResultSource
from taskd.server.output_secrets import OutputSecrets
from taskd.server.reload import Reloader
from taskd.server.worker_ends import CAUSES, Cause, cause_of
from taskd.worker.messages import Done, Dropped, Failed, Reported, Returned, Stopped, Yielded

__all__ = ["Feedback", "Turns"]

_log = Logger(namespace="taskd.server")

_OUTCOMES = (Done, Failed, Stopped, Dropped)


class Turns(Protocol):
    """The dispatcher, as far as reports of the pool need it."""

    reloader: Reloader
    is_stopping: bool

    @property
    def pool(self) -> ResultSource:
        """The pool, from which long results come."""

    def turn_soon(self) -> None:
        """Schedule the end-of-turn pass, which starts tasks."""

    def settle(self) -> None:
        """Schedule that pass only if there is anything to start; otherwise only set the timer."""


class Feedback:
    """Handles the pool's reports. Implements `taskd.pool.pool.PoolObserver`.

    `use` is called with the app's functions whenever they change.
    """

    def __init__(
        self,
        turns: Turns,
        clock: IReactorTime,
        scheduler: Scheduler,
        completion: Completion,
        counters: Counters,
        log: RatedLog,
        use: Callable[[list[FunctionInfo]], None],
    ) -> None:
        self._turns = turns
        self._clock = clock
        self._scheduler = scheduler
        self._completion = completion
        self._counters = counters
        self._log = log
        self._use = use
        self._long_results = LongResults()
        self.secrets = OutputSecrets()
        self.worker_ends: Counter[Cause] = Counter(dict.fromkeys(CAUSES, 0))
        """How many workers have ended, by cause."""

    def code_loaded(self, generation: int, functions: list[FunctionInfo]) -> None:
        """Use the imported app, at the start or after a crash, or continue a reload."""
        if self._turns.reloader.is_loading(generation):
            self._turns.reloader.loaded(functions, self._scheduler.fleet.active)
            return
        self._scheduler.fleet.generation = generation
        self._use(functions)
        self._turns.turn_soon()

    def code_failed(self, generation: int, reason: str) -> None:
        """Give up the reload whose app cannot be used."""
        if self._turns.reloader.is_loading(generation):
            self._turns.reloader.fail(reason)

    def can_start_workers(self) -> None:
        """Start the workers that could not be started for a while."""
        self._turns.turn_soon()

    def worker_ready(self, number: int) -> None:
        """Make a worker available for its first task."""
        self._scheduler.fleet.ready(number, self._clock.seconds())
        if self._turns.reloader.is_loading(self._scheduler.fleet.workers[number].generation):
            self._turns.reloader.worker_is_ready()
        self._turns.turn_soon()

    def worker_messages(self, number: int, messages: list[WorkerMessage]) -> None:
        """Pass on outcomes and progress, and have the worker given its next tasks.

        Raises `ImpossibleMessage` for a message that the worker cannot send by
        rights; those before it have been processed, and nothing of it has.
        """
        now = self._clock.seconds()
        if self.secrets.is_used:
            self._remember_secrets(number, messages)
        subscribers: dict[Subscriber, None] = {}
        try:
            for message in messages:
                if type(message) is Done or isinstance(message, _OUTCOMES):  # first, since most of them are
                    ended = self._task_ended(number, message, now)
                    if ended is not None:
                        subscribers[ended.subscriber] = None
                elif isinstance(message, Returned):
                    for task in self._scheduler.returned(number, message.tasks, now):
                        self._completion.complete(task, cancelled_waiting(task))
                        subscribers[task.subscriber] = None
                elif isinstance(message, Reported):
                    task = self._scheduler.fleet.view(number).get(message.task)
                    self._completion.progressed(task, Progress(message.done, message.total, message.message))
                    subscribers[task.subscriber] = None
                elif isinstance(message, Yielded):
                    self._completion.yielded(
                        self._scheduler.fleet.view(number).get(message.task), message.value
                    )
                else:
                    self._replace_grown(number, message.kib, now)
        finally:
            for subscriber in subscribers:
                subscriber.flush()
            self._turns.settle()

    def result_grows(self, number: int, size: int) -> bool:
        """Count a long result of which `size` bytes have come; return whether to read on."""
        task = self._scheduler.fleet.view(number).first
        if task is not None and not task.is_in_flight:
            task = None
        return self._long_results.grows(self._turns.pool, number, task, size)

    def result_arrived(self, number: int) -> None:
        """Note that a long result is complete, and follows as a message."""
        self._long_results.ended(number)

    def worker_condemned(self, number: int) -> None:
        """Give a worker that is being killed no more tasks."""
        if number in self._scheduler.fleet.workers:
            self._scheduler.fleet.retire(number, self._clock.seconds())
        self._turns.turn_soon()

    def _replace_grown(self, number: int, used: int, now: float) -> None:
        if self._scheduler.fleet.retire(number, now):
            _log.info("worker {worker} has {used} KiB resident: it is replaced", worker=number, used=used)

    def _task_ended(self, number: int, message: Done | Failed | Stopped | Dropped, now: float) -> Task | None:
        """Complete a task that a worker has ended; return None if it had its outcome before."""
        scheduler = self._scheduler
        seconds = message.seconds
        if not 0.0 <= seconds < inf:
            raise ImpossibleMessage(f"a task that took {seconds} s")
        if isinstance(message, Done):
            task = scheduler.finished(
                number, message.task, seconds, now, failed=False, printed=message.output
            )
            if task is not None:
                self._completion.succeeded(task, message.value)
        elif isinstance(message, Failed):
            ran = seconds if message.code != InvalidParams.code else None
            task = scheduler.finished(number, message.task, ran, now, failed=True, printed=message.output)
            if message.leaving:
                scheduler.fleet.retire(number, now)
            if task is not None:
                self._completion.failed(task, message)
        elif isinstance(message, Dropped):
            task = scheduler.finished(
                number, message.task, seconds, now, failed=False, printed=message.output
            )
            if task is not None:
                self._completion.dropped(task)
        else:
            task = scheduler.stopped(number, message.task, now)
            if task is not None:
                self._completion.stopped(task, message, now)
        return task

    def _remember_secrets(self, number: int, messages: list[WorkerMessage]) -> None:
        worker = self._scheduler.fleet.workers.get(number)
        for message in messages:
            if isinstance(message, _OUTCOMES) and worker is not None:
                task = worker.tasks.get(message.task)
                if task is not None:
                    self.secrets.ended(number, task)

    def worker_exited(self, number: int, ending: WorkerExit) -> None:
        """Complete the task that an ended worker had begun; those that it had not begun wait again."""
        now = self._clock.seconds()
        self._long_results.ended(number)
        worker = self._scheduler.fleet.workers[number]
        self.worker_ends[cause_of(ending, worker)] += 1
        tasks = self._scheduler.worker_exited(number, ending.begun, now)
        for task in tasks:
            self._completion.lost(task, ending, now)
        if ending.stack:
            self._log.warn(
                "stacks", "worker {worker} was at: {stack}", worker=number, stack=", ".join(ending.stack)
            )
        flush(tasks)
        self.secrets.forget(number)
        if not self._turns.is_stopping and not worker.dismissed:
            self._counters.workers_replaced += 1
        if self._turns.reloader.is_loading(worker.generation) and not ending.was_ready:
            self._turns.reloader.fail(
                f"a worker of the new code ended before it was ready: {ending.describe()}"
            )
        self._turns.turn_soon()

    def task_count(self, number: int) -> int:
        """Return how many tasks a worker has."""
        worker = self._scheduler.fleet.workers.get(number)
        return len(worker.tasks) if worker is not None else 0

    def hide(self, number: int, text: str) -> str:
        """Return a text of a worker with the secret arguments of its tasks masked."""
        if not self.secrets.is_used:
            return text
        worker = self._scheduler.fleet.workers.get(number)
        return self.secrets.hide(number, () if worker is None else worker.tasks.values(), text)

    def task_label(self, number: int, task: int) -> TaskLabel | None:
        """Return what the log says of a task that a worker has; None if the task has ended."""
        worker = self._scheduler.fleet.workers.get(number)
        found = worker.tasks.get(task) if worker is not None else None
        return label_of(found) if found is not None else None
