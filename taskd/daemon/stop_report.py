"""The log lines of a stop: how many tasks it waits for, of which functions, and until when. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

__all__ = ["REPORT_SECONDS", "StopReport", "what_runs"]

REPORT_SECONDS = 10.0
"""Seconds until the stop is reported again; each time it is twice as long. An operator at the terminal
should not take a stop for a hang, and one of an hour should not fill the log."""

MAX_NAMED = 5
"""Functions that are named in one report; the others are counted."""


def what_runs(tasks: Counter[str]) -> str:
    """Describe tasks, counted by their functions: ``3 tasks (report: 2, mail: 1)``."""
    count = tasks.total()
    named = [f"{name}: {number}" for name, number in sorted(tasks.items(), key=_most_first)[:MAX_NAMED]]
    others = len(tasks) - len(named)
    if others > 0:
        named.append(f"{others} other functions" if others > 1 else "1 other function")
    return f"{count} task{'s' if count != 1 else ''} ({', '.join(named)})"


def _most_first(counted: tuple[str, int]) -> tuple[int, str]:
    return -counted[1], counted[0]


class StopReport:
    """The reports of one stop, which gives up after `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    def begin(self, tasks: Counter[str]) -> str:
        """Return the line for the beginning of the stop, with these tasks in flight."""
        return (
            f"stopping: waiting up to {self._timeout:g} s for {what_runs(tasks)}; "
            "a second Ctrl-C or SIGTERM ends them at once"
        )

    def times(self) -> Iterator[float]:
        """Yield the seconds after the beginning at which `go_on` is due."""
        due = REPORT_SECONDS
        while due < self._timeout:
            yield due
            due *= 2

    def go_on(self, tasks: Counter[str], elapsed: float) -> str:
        """Return the line for a stop that goes on, `elapsed` seconds after its beginning."""
        return f"stopping: still waiting for {what_runs(tasks)}, for {self._timeout - elapsed:g} s more"

    def give_up(self, tasks: Counter[str]) -> str:
        """Return the line for the end of the patience."""
        return f"tasks still run after {self._timeout:g} s: they are ended: {what_runs(tasks)}"
