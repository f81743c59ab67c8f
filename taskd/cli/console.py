"""The output of the ``taskd`` command: consoles, tables, progress bars, durations and JSON."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from taskd import model

__all__ = ["BAR_REFRESH", "duration", "err", "json_text", "out", "progress_bar", "show_progress", "table"]

PIPE_WIDTH = 1000
"""Columns of a table in a pipe or a file: practically unlimited."""

BAR_REFRESH = 10
"""Updates of the progress bar each second."""

# In a pipe, rows are not wrapped, so that grep finds whole rows.
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)


def progress_bar() -> Progress:
    """Return a progress bar on stderr."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        refresh_per_second=BAR_REFRESH,
    )


def show_progress(bar: Progress, shown: TaskID, progress: model.Progress) -> None:
    """Show a task's report in its bar. Without a total the bar shows none, even if it had one before."""
    bar.update(shown, completed=progress.done, total=progress.total)
    if progress.total is None:  # which `update` takes for "unchanged"
        task = next(task for task in bar.tasks if task.id == shown)
        task.total = task.finished_time = None


def table(*columns: str, right: tuple[int, ...] = ()) -> Table:
    """Return a table with these columns; those at the positions in `right` are aligned right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number in right else "left")
    return made


def duration(seconds: float) -> str:
    """Format a duration, in the unit that suits its length."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def json_text(value: Any) -> str:
    """Format a value as JSON: objects and arrays on several lines, other values on one."""
    text = msgspec.json.encode(value)
    return (msgspec.json.format(text, indent=2) if isinstance(value, dict | list) else text).decode()
