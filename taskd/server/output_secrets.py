"""The secret arguments of tasks, kept out of what their workers print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec import Raw

from taskd.functions.hiding import Hide, hider
from taskd.functions.registry import FunctionInfo
from taskd.functions.secret_arguments import SecretArguments
from taskd.pool.output_lines import MAX_LOGGED_LINE
from taskd.printable import printable
from taskd.scheduler.task import Task

__all__ = ["OutputSecrets"]

MAX_REMEMBERED = 16
"""Tasks whose secrets are looked for in what a worker prints, besides those that it has: a thread, or an
exception that nobody has fetched, may print something after the task has ended."""

MAX_REMEMBERED_BYTES = 4096
"""Bytes of the secrets of a task that has ended: it must not hold memory that nobody counts."""

CUT_AT = MAX_LOGGED_LINE // 4
"""Characters from which on a line may be part of a longer one, whose bytes were cut: four are a character at
most."""


@dataclass(slots=True)
class _Secrets:
    """The secrets of one task: as they came in its arguments, and once they are needed, what masks them."""

    values: Sequence[Raw]
    hide: Hide | None = None

    def masked(self, text: str) -> str:
        if self.hide is None:
            self.hide = hider(self.values, printable, cut_at=CUT_AT)
        return self.hide(text)


class OutputSecrets:
    """The secrets of workers' tasks. As long as no function has any, this does nothing."""

    def __init__(self) -> None:
        self.is_used = False
        """Whether any function has secrets."""
        self._functions: dict[str, SecretArguments] = {}
        self._ended: dict[int, dict[int, _Secrets]] = {}
        self._running: dict[int, tuple[int, _Secrets]] = {}

    def use(self, functions: Iterable[FunctionInfo]) -> None:
        """Look for the secret arguments of these functions from now on, as well as for those of before."""
        found = {each.name: SecretArguments.of(each.parameters) for each in functions}
        self._functions |= {name: secrets for name, secrets in found.items() if secrets}
        self.is_used = bool(self._functions)

    def hide(self, worker: int, tasks: Iterable[Task], text: str) -> str:
        """Return a text with the secrets of a worker's tasks masked, and those of its last ones."""
        for task in tasks:
            secrets = self._secrets(worker, task)
            if secrets is not None:
                text = secrets.masked(text)
        for secrets in self._ended.get(worker, {}).values():
            text = secrets.masked(text)
        return text

    def _secrets(self, worker: int, task: Task) -> _Secrets | None:
        """Return the secrets of a task. Those of the last one are kept, since output has many lines."""
        found = self._functions.get(task.call.function)
        if found is None:
            return None
        kept = self._running.get(worker)
        if kept is None or kept[0] != task.number:
            kept = self._running[worker] = task.number, _Secrets([*found.values(task.call.args)])
        return kept[1]

    def ended(self, worker: int, task: Task) -> None:
        """Remember the secrets of a task that ends."""
        secrets = self._secrets(worker, task)
        if secrets is None or sum(memoryview(each).nbytes for each in secrets.values) > MAX_REMEMBERED_BYTES:
            return
        remembered = self._ended.setdefault(worker, {})
        remembered[task.number] = secrets
        if len(remembered) > MAX_REMEMBERED:
            del remembered[next(iter(remembered))]

    def forget(self, worker: int) -> None:
        """Forget the secrets of a worker that is gone."""
        self._ended.pop(worker, None)
        self._running.pop(worker, None)
