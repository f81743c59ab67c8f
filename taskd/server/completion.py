"""The end of a task: its subscribers get the outcome, it is counted, and a failure is logged."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Raw

from taskd.errors import Cancelled, TimedOut, WorkerLost
from taskd.functions.retries import Verdict
from taskd.model import Failure, Outcome, Progress, Raised, Result, StoredCall
from taskd.net.log_rate import RatedLog
from taskd.pool.exits import WorkerExit
from taskd.pool.task_label import label_of
from taskd.scheduler.arrivals import NO_ROOM
from taskd.scheduler.task import Nobody, Task
from taskd.server.counters import Counters
from taskd.server.failures import cancelled_waiting, stopped, worker_lost
from taskd.server.unanswered import Unanswered
from taskd.worker.messages import NULL, ErrorDetails, Failed, Stopped

__all__ = ["Completion", "flush"]

NO_REPORT = Raised(None)

NO_VERDICT = Verdict(may_retry=False)
"""On failures that nothing will change: of arguments, and of results."""


class Completion:
    """Gives each task its one outcome.

    The submitter of a task is not flushed here: `flush` does that, once for all
    tasks that end together.
    """

    def __init__(
        self, counters: Counters, unanswered: Unanswered, log: RatedLog, error_details: ErrorDetails
    ) -> None:
        self.in_flight: dict[int, Task] = {}
        """The tasks that have been accepted and have no outcome yet, by number, oldest first."""
        self._counters = counters
        self._unanswered = unanswered
        self._log = log
        self._is_brief = error_details == "type"

    def complete(self, task: Task, outcome: Outcome) -> None:
        """Pass a task's outcome to its subscribers."""
        del self.in_flight[task.number]
        if type(outcome) is Failure:
            self._count(task, outcome)
            if isinstance(task.subscriber, Nobody) and task.others is None:
                self._unanswered.caller_was_gone(task.call.function, outcome)
        task.subscriber.task_ended(task.key, outcome)
        if task.others is not None:
            for subscriber, key in task.others:
                subscriber.task_ended(key, outcome)
            for subscriber in {id(subscriber): subscriber for subscriber, _ in task.others}.values():
                subscriber.flush()
        if type(outcome) is Failure or task.deadline is not None:
            task.forget_arguments()

    @staticmethod
    def progressed(task: Task, progress: Progress) -> None:
        """Pass a task's progress to its subscribers."""
        task.subscriber.task_progressed(task.key, progress)
        if task.others is not None:
            for subscriber, key in task.others:
                subscriber.task_progressed(key, progress)
                subscriber.flush()

    @staticmethod
    def yielded(task: Task, value: Raw) -> None:
        """Pass on a value that the function of a stored task has yielded, unless it has its outcome."""
        if type(task.call) is StoredCall and task.is_in_flight:
            task.call.yielded(value)

    def succeeded(self, task: Task, value: Raw) -> None:
        """Complete a task whose function returned."""
        self._counters.done += 1
        self.complete(task, Result(value))

    def dropped(self, task: Task) -> None:
        """Complete a task whose function returned more than there was room for."""
        if isinstance(task.subscriber, Nobody):
            self.succeeded(task, NULL)
        else:
            self._counters.done += 1
            self.complete(task, NO_ROOM)

    def failed(self, task: Task, message: Failed) -> None:
        """Complete a task whose function raised, or could not be called."""
        self._counters.failed += 1
        self._log_failure(task, message.seconds, message.traceback)
        if type(task.call) is StoredCall:
            verdict = message.verdict or NO_VERDICT
            task.call.raised(
                Raised(message.traceback, verdict.may_retry, verdict.after, message.printed, message.peak_kib)
            )
        data = None if message.data == NULL else message.data
        self.complete(task, Failure(message.code, message.message, data))

    def stopped(self, task: Task, message: Stopped, now: float) -> None:
        """Complete a task whose function ended after it was interrupted."""
        self._log_failure(task, message.seconds, message.traceback)
        report = Raised(message.traceback, printed=message.printed, peak_kib=message.peak_kib)
        if type(task.call) is StoredCall and report != NO_REPORT:
            task.call.raised(report)
        self.complete(task, stopped(task, now, killed=False))

    def terminated(self, task: Task, now: float, printed: str) -> None:
        """Complete a task that did not end within its grace, and whose process is being killed."""
        if type(task.call) is StoredCall and printed:
            task.call.raised(Raised(None, printed=printed))
        self.complete(task, stopped(task, now, killed=True))

    def lost(self, task: Task, exit_: WorkerExit, now: float) -> None:
        """Complete a task whose worker ended, or whose workers all ended before they began it."""
        if type(task.call) is StoredCall and exit_.begun == task.number:
            task.call.raised(Raised(None, printed=exit_.printed, peak_kib=exit_.peak_kib or 0))
        if task.stop is None:
            self._log.warn(
                f"{task.stats.name} lost",
                "{function} #{task} lost its worker process: {how}",
                **label_of(task).fields(),
                how=exit_.describe(),
            )
            self.complete(task, worker_lost(task, exit_, now, brief=self._is_brief))
        elif exit_.begun == task.number:
            self.complete(task, stopped(task, now, killed=True))
        else:
            self.complete(task, cancelled_waiting(task))

    def _count(self, task: Task, outcome: Failure) -> None:
        if outcome.code == Cancelled.code:
            self._counters.cancelled += 1
            task.stats.cancelled += 1
        elif outcome.code == WorkerLost.code:
            self._counters.lost += 1
            task.stats.lost += 1
        elif outcome.code == TimedOut.code and task.stop is None:
            self._counters.expired += 1
            task.stats.expired += 1
        elif outcome.code == TimedOut.code:
            self._counters.timed_out += 1
            task.stats.timed_out += 1
            self._log.warn(
                f"{task.stats.name} timed out",
                "{function} #{task}: {why}",
                **label_of(task).fields(),
                why=outcome.message,
            )

    def _log_failure(self, task: Task, seconds: float, traceback: str | None) -> None:
        if traceback is not None:
            self._log.warn(
                f"{task.stats.name} failed",
                "{function} #{task} failed after {seconds:.3f} s\n{traceback}",
                **label_of(task).fields(),
                seconds=seconds,
                traceback=traceback.rstrip(),
            )


def flush(tasks: Iterable[Task]) -> None:
    """Flush the submitters of tasks that have ended, each once."""
    for subscriber in {id(task.subscriber): task.subscriber for task in tasks}.values():
        subscriber.flush()
