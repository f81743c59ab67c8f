"""What the ``taskd`` command writes to, and how it looks there."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

__all__ = ["duration", "err", "out", "progress_bar", "table"]

PIPE_WIDTH = 1000
"""Columns of a table that nobody sees at once."""

BAR_REFRESH = 10
"""Updates of the progress bar a second."""

# Into a pipe, rows stay whole: whoever greps them wants all of a row.
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)


def progress_bar(*, transient: bool = False) -> Progress:
    """A bar on stderr; a `transient` one is gone at its end."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=transient,
        refresh_per_second=BAR_REFRESH,
    )


def table(*columns: str, right: tuple[int, ...] = ()) -> Table:
    """A table with these columns; those numbered in `right` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number in right else "left")
    return made


def duration(seconds: float) -> str:
    """So many seconds, in the unit that suits them."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
