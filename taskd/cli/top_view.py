"""The screen of ``taskd top``: rates from successive answers of ``taskd.status``, bars and tables."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from taskd.cli.console import duration, table
from taskd.cli.status_view import size, summary, workers_table
from taskd.printable import printable

__all__ = ["ORDERS", "History", "Screen", "screen"]

Answer = dict[str, Any]
"""An answer of ``taskd.status``."""

WINDOW = 5
"""The number of intervals over which a rate is taken: of one alone, the figures would jump."""

FAILURES = ("failed", "timed_out", "lost")
"""The counts of tasks, and of a function, that mean a failure."""

BAR_WIDTH = 24
"""Columns of a bar: with its label and its text it fits into 80 columns."""

LEAST_ROWS = 3
"""Rows that a table gets even in a low terminal."""

TABLE_LINES = 2
"""Lines of a table besides its rows: the blank one above it, and the header."""


class History:
    """The last answers of a server, and the rates between them."""

    def __init__(self) -> None:
        self._answers: deque[Answer] = deque(maxlen=WINDOW + 1)

    def add(self, answer: Answer) -> None:
        """Add an answer. One of a server that was restarted begins a new history."""
        if self._answers and answer["uptime"] < self._answers[-1]["uptime"]:
            self._answers.clear()
        self._answers.append(answer)

    @property
    def last(self) -> Answer | None:
        """The newest answer; None if there is none."""
        return self._answers[-1] if self._answers else None

    def rate(self, *counts: str) -> float:
        """Return how many tasks ended so, each second."""
        return self._rate(lambda answer: _sum(answer["counts"], counts))

    def function_rate(self, name: str, *counts: str) -> float:
        """Return how many tasks of a function ended so, each second."""

        def count(answer: Answer) -> int:
            return sum(_sum(each, counts) for each in answer["functions"] if each["name"] == name)

        return self._rate(count)

    def _rate(self, count: Callable[[Answer], int]) -> float:
        if not self._answers:
            return 0.0
        first, last = self._answers[0], self._answers[-1]
        seconds = last["uptime"] - first["uptime"]
        return (count(last) - count(first)) / seconds if seconds > 0 else 0.0


def _sum(counts: dict[str, int], names: tuple[str, ...]) -> int:
    return sum(counts.get(name, 0) for name in names)


@dataclass(frozen=True, slots=True)
class _Row:
    """A function, with its rates."""

    name: str
    done: float
    failed: float
    function: dict[str, Any]

    @property
    def failures(self) -> int:
        return _sum(self.function, FAILURES)


ORDERS: dict[str, Callable[[_Row], Any]] = {
    "rate": lambda row: (-row.done - row.failed, row.name),
    "mean": lambda row: (-row.function["mean"], row.name),
    "failures": lambda row: (-row.failures, row.name),
    "name": lambda row: row.name,
}
"""The orders of the functions, by what each puts first."""


@dataclass(frozen=True, slots=True)
class Screen:
    """The things shown besides the history: the order of the functions, the lines of the terminal, a problem.

    A `height` of None means that there is room for everything.
    """

    order: str
    height: int | None = None
    problem: str | None = None
    """Why the figures are old; None if they are not."""
    keys: bool = True
    """Whether the keys are explained."""


def screen(history: History, shown: Screen) -> RenderableType:
    """Return the screen for the last answer of a history."""
    answer = history.last
    if answer is None:
        return Text("asking the server …")
    parts: list[RenderableType] = []
    if shown.problem is not None:
        parts.append(_line(shown.problem, "bold red"))
    lines = [_line(line) for line in summary(answer)]
    bars = _bars(history, answer)
    parts += [lines[0], bars, *lines[1:]]
    footer = 1 if shown.keys else 0
    left = None if shown.height is None else shown.height - len(parts) + 1 - bars.row_count - footer
    functions, workers = _rows(history, answer, shown.order), _busy_first(answer["workers"])
    for_functions, for_workers = _shares(left, len(functions), len(workers))
    if functions:
        parts += ["", _functions_table(functions[:for_functions])]
    if workers:
        parts += ["", workers_table(workers[:for_workers])]
    if shown.keys:
        hidden = [*_hidden(functions, for_functions, "functions"), *_hidden(workers, for_workers, "workers")]
        more = f"   not shown: {', '.join(hidden)}" if hidden else ""
        parts.append(_line(f"q ends this, s sorts the functions (by {shown.order} now){more}", "dim"))
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    """Return a text that takes one line, however long it is."""
    return Text(printable(text).replace("\n", " "), style, no_wrap=True, overflow="ellipsis")


def _hidden(rows: list[Any], shown: int | None, name: str) -> Iterator[str]:
    if shown is not None and len(rows) > shown:
        yield f"{len(rows) - shown} {name}"


def _shares(left: int | None, functions: int, workers: int) -> tuple[int | None, int | None]:
    """Return how many rows each table gets of these lines: half of them, and those that the other leaves."""
    if left is None:
        return None, None
    rows = left - TABLE_LINES * ((functions > 0) + (workers > 0))
    for_functions = max(min(functions, max(rows // 2, rows - workers)), LEAST_ROWS)
    return for_functions, max(rows - min(for_functions, functions), LEAST_ROWS)


def _bars(history: History, answer: Answer) -> Table:
    """Return the bars: how much of the workers, the queue and the memory is in use, with the rates."""
    busy = sum(worker["tasks"] > 0 for worker in answer["workers"])
    done, failed = history.rate("done"), history.rate(*FAILURES)
    budget = answer["budget"]
    grid = Table.grid(padding=(0, 1))
    for label, used, limit, text in (
        ("workers", busy, answer["max_workers"], f"{busy} of {answer['max_workers']} busy"),
        ("queue", answer["waiting"], answer["max_queue"], f"{answer['waiting']} waiting"),
        ("memory", budget["held"], budget["limit"], f"{size(budget['held'])} held for clients"),
    ):
        grid.add_row(label, ProgressBar(max(limit, 1), min(used, limit), BAR_WIDTH), text)
    grid.add_row("rate", "", f"{_per_second(done)} done, {_per_second(failed)} failed each second")
    return grid


def _rows(history: History, answer: Answer, order: str) -> list[_Row]:
    """Return the functions in an order of `ORDERS`."""
    rows = [
        _Row(
            each["name"],
            history.function_rate(each["name"], "done"),
            history.function_rate(each["name"], *FAILURES),
            each,
        )
        for each in answer["functions"]
    ]
    return sorted(rows, key=ORDERS[order])


def _functions_table(rows: list[_Row]) -> Table:
    shown = table(
        "function", "done/s", "failed/s", "done", "failures", "mean", "longest", right=tuple(range(1, 7))
    )
    for row in rows:
        times = (duration(row.function[key]) for key in ("mean", "longest"))
        counts = (str(row.function["done"]), str(row.failures))
        shown.add_row(
            Text(printable(row.name)), _per_second(row.done), _per_second(row.failed), *counts, *times
        )
    return shown


def _busy_first(workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(workers, key=lambda worker: (worker["task"] is None, worker["number"]))


def _per_second(rate: float) -> str:
    """Return a rate with as many digits as say something."""
    return f"{rate:.0f}" if rate >= 100 or rate == 0 else f"{rate:.1f}"
