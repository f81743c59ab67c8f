"""The progress of one call, on stderr: one line that changes on a terminal, and many in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from taskd.cli import console
from taskd.model import Progress as Report

__all__ = ["Lines", "ProgressView", "UpdatedLine", "progress_text", "progress_view"]

LINE_SECONDS = 1.0
"""Seconds between two lines that differ in their numbers alone: a log is read by people."""

BAR_WIDTH = 20
"""Columns of the bar: the rest of the line is the message's."""


class ProgressView(Protocol):
    """Shows the progress of one call while it is entered."""

    def __enter__(self) -> ProgressView: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...

    def show(self, report: Report) -> None:
        """Show a report instead of the one before."""


def progress_view(title: str, *, each_message: bool = True) -> ProgressView:
    """Return the view that suits stderr. `each_message` is as for `Lines`."""
    if console.err.is_terminal:
        return UpdatedLine(title, console.err)
    return Lines(title, console.err, each_message=each_message)


def progress_text(report: Report) -> str:
    """Format a report as one line without control characters: ``3 of 12 (25 %): a message``."""
    text = _number(report.done)
    if report.total is not None:
        text += f" of {_number(report.total)}"
        if report.total > 0:
            text += f" ({int(100 * report.done / report.total)} %)"
    message = _harmless(report.message or "")
    return f"{text}: {message}" if message else text


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.4g}"


def _harmless(text: str) -> str:
    """Return a text on one line that no terminal takes for a command."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


class UpdatedLine:
    """One line on a terminal, which is updated, and gone at the end."""

    def __init__(self, title: str, terminal: Console) -> None:
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            TextColumn("{task.fields[text]}", markup=False, table_column=rest),
            TimeElapsedColumn(),
            console=terminal,
            transient=True,
            expand=True,
            refresh_per_second=console.BAR_REFRESH,
        )
        self._shown = self._bar.add_task(title, total=None, text="")

    def __enter__(self) -> UpdatedLine:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, report: Report) -> None:
        """Update the line. As `ProgressView.show`."""
        console.show_progress(self._bar, self._shown, report)
        self._bar.update(self._shown, text=progress_text(report))


class Lines:
    """A line for each report with a new message, and one a `LINE_SECONDS` for those with new numbers.

    Unless `each_message`, new messages are treated like new numbers.
    """

    def __init__(
        self,
        title: str,
        output: Console,
        clock: Callable[[], float] = time.monotonic,
        *,
        each_message: bool = True,
    ) -> None:
        self._each_message = each_message
        self._title = title
        self._output = output
        self._clock = clock
        self._message: str | None = None
        self._printed = ""
        self._printed_at = float("-inf")
        self._kept = ""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._print(self._kept)

    def show(self, report: Report) -> None:
        """Print the report, or keep it until it is time for the next line. As `ProgressView.show`."""
        self._kept = progress_text(report)
        is_new = self._each_message and report.message != self._message
        if is_new or self._clock() - self._printed_at >= LINE_SECONDS:
            self._message = report.message
            self._print(self._kept)

    def _print(self, text: str) -> None:
        if text and text != self._printed:
            self._printed = text
            self._printed_at = self._clock()
            with suppress(OSError):  # whatever read stderr has ended; the result still counts
                self._output.print(f"{self._title}: {text}", markup=False, soft_wrap=True)
