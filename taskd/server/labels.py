"""The functions that this server cannot run, since they need labels that it was not started with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from msgspec.structs import replace
from twisted.logger import Logger

from taskd.errors import MethodNotFound, NotAllowed, TaskdError, quoted
from taskd.functions.labels import missing_labels
from taskd.functions.registry import FunctionInfo
from taskd.model import StoredCall
from taskd.scheduler.task import Task

__all__ = ["LackingFunctions", "check_labels", "named", "needs_labels", "options_for"]

_log = Logger(namespace="taskd.server")


def named(labels: Sequence[str]) -> str:
    """Return labels for a sentence: "the label gpu", "the labels gpu and big"."""
    if len(labels) == 1:
        return f"the label {labels[0]}"
    return f"the labels {', '.join(labels[:-1])} and {labels[-1]}"


def options_for(labels: Sequence[str]) -> str:
    """Return the options that give a server these labels."""
    return " ".join(f"--label {each}" for each in labels)


def needs_labels(function: str, missing: Sequence[str], *, is_shared: bool = False) -> NotAllowed:
    """Return the error for a function that needs labels which this server does not have.

    With a store that `is_shared`, others may have them, and run the function's stored tasks.
    """
    or_else = "; or submit it (taskd.submit), so that a node that has them runs it" if is_shared else ""
    return NotAllowed(
        f"{quoted(function)} needs {named(missing)}, which this server does not have: "
        f"call one that was started with {options_for(missing)}{or_else}",
        reason="labels",
        missing=list(missing),
    )


def check_labels(function: FunctionInfo, *, is_shared: bool) -> None:
    """Raise `NotAllowed` for a function whose stored tasks nobody could run: no other node has the store."""
    if function.missing and not is_shared:
        raise needs_labels(function.name, function.missing)


class LackingFunctions:
    """The functions in use that need labels which are not among the server's `labels`; None is all labels."""

    def __init__(self, labels: Collection[str] | None) -> None:
        self._labels = labels
        self.missing: dict[str, tuple[str, ...]] = {}
        """The labels that each of them lacks, by its name."""

    def use(self, functions: Iterable[FunctionInfo]) -> list[FunctionInfo]:
        """Note which of these functions cannot be run here, and return them as this server describes them."""
        described = [
            replace(each, missing=missing_labels(each.needs, self._labels)) if each.needs else each
            for each in functions
        ]
        self.missing = {each.name: each.missing for each in described if each.missing}
        if self.missing:
            names = (f"{name} (needs {', '.join(self.missing[name])})" for name in sorted(self.missing))
            _log.info("functions that are not run here: {names}", names=", ".join(names))
        return described

    def check(self, function: str, *, is_shared: bool) -> None:
        """Raise `NotAllowed` for a function that is not run here."""
        if missing := self.missing.get(function):
            raise needs_labels(function, missing, is_shared=is_shared)

    def refusal(self, task: Task, *, is_shared: bool) -> TaskdError:
        """Return why a task that waits cannot be run by the new code; a stored one waits on in the store."""
        function = task.stats.name
        if function in self.missing and type(task.call) is not StoredCall:
            return needs_labels(function, self.missing[function], is_shared=is_shared)
        return MethodNotFound(f"no such function: {function}")
