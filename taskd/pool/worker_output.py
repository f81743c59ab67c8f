"""The output of one worker: its lines in the log, and the tail of what the task in progress has printed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger, LogLevel

from taskd.net.reactor import Reactor
from taskd.pool.output import OutputReader
from taskd.pool.stack_dumps import StackDump
from taskd.pool.task_label import TaskLabel

__all__ = ["MAX_TAIL", "OutputObserver", "WorkerOutput"]

_log = Logger(namespace="taskd.task")

MAX_TAIL = 4096
"""Characters kept of what an attempt has printed: some fifty lines, fewer than its traceback may have."""


class OutputObserver(Protocol):
    """Whoever knows the tasks of workers."""

    def task_label(self, number: int, task: int) -> TaskLabel | None:
        """Return what the log says of a task that the worker has; None if the task has ended."""

    def hide(self, number: int, text: str) -> str:
        """Return a text of a worker with the secret arguments of its tasks masked."""


class WorkerOutput:
    """The output of worker `number`, which comes from `descriptor`; see `OutputReader`.

    `begun` returns the number of the task that the worker began last.
    """

    def __init__(
        self,
        reactor: Reactor,
        descriptor: int,
        number: int,
        observer: OutputObserver,
        begun: Callable[[], int],
        name: str,
    ) -> None:
        self.pid: int | None = None
        """The process of the worker, for the log."""
        self._number = number
        self._observer = observer
        self._begun = begun
        self._name = name
        self._task = 0
        self._tail: deque[str] = deque()
        self._size = 0
        self._reader = OutputReader(reactor, descriptor, self._deliver, self._keep)

    def dump(self, dump: StackDump) -> None:
        """Give the stacks that the worker was asked for to `dump`."""
        self._reader.dump(dump)

    @property
    def stack(self) -> list[str]:
        """The stack that a crash printed, innermost frame first; see `StackCatcher`."""
        return self._reader.stack

    def finish_task(self, *, more: bool) -> None:
        """Deliver the rest of an ended task's output; see `OutputReader.finish_task`."""
        self._reader.finish_task(more=more)

    def close(self) -> None:
        """Read what is left, then close the descriptor. Idempotent."""
        self._reader.close()

    def tail(self, task: int) -> str:
        """Return the last lines that a task has printed, if the worker has begun no other since."""
        if task != self._task or not self._tail:
            return ""
        # Masked before it is cut, perhaps inside a secret.
        return self._observer.hide(self._number, "\n".join(self._tail))[-MAX_TAIL:]

    def _keep(self, text: str) -> None:
        """Keep a line for the tail, even if there are too many for the log."""
        task = self._begun()
        if task != self._task:
            self._task, self._size = task, 0
            self._tail.clear()
        self._tail.append(text)
        self._size += len(text) + 1
        while self._size - len(self._tail[0]) > MAX_TAIL:
            self._size -= len(self._tail.popleft()) + 1

    def _deliver(self, level: str, line: str) -> None:
        label = self._observer.task_label(self._number, self._begun())
        _log.emit(
            LogLevel.lookupByName(level),
            "{name}[{pid}] {label}: {line}",
            name=self._name,
            pid=self.pid,
            label="no task" if label is None else label,
            line=self._observer.hide(self._number, line),
            worker=self._number,
            **({} if label is None else label.fields()),
        )
