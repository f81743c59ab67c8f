"""The file in which the functions of a drill note each run: its lines, and the runs that they show.

Many processes append to it, each line with one write, so that the order of the lines is the order in
which the runs began and ended, whatever their clocks show.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["BEGUN", "ENDED", "LIFE", "RUNS", "Run", "mark_line", "open_marks", "runs_of"]

RUNS = "DRILL_RUNS"
"""The environment variable with the path of the file."""

LIFE = "DRILL_LIFE"
"""The environment variable with the name of a node's life, such as 2.3: the third life of node 2."""

BEGUN, ENDED = "begun", "ended"

_FIELDS = 8


@dataclass(slots=True, eq=False)
class Run:
    """A run of a task by a worker, whose process is `pid`. Times are in seconds since 1970.

    `name` is the run's own. `order` counts the runs in the order in which they began. `ended` is when it
    ended by itself, with a result or an error; None if it was cut off.
    """

    number: int
    task: str
    attempt: int
    life: str
    pid: int
    name: str
    begun: float
    order: int = 0
    ended: float | None = None


def open_marks() -> int:
    """Open the file that the environment names, and return the descriptor; without one, the null device."""
    path = os.environ.get(RUNS, os.devnull)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def mark_line(what: str, run: Run, now: float) -> bytes:
    """Return the line that notes the beginning or the end of a run."""
    return (
        f"{what} {run.number} {run.task} {run.attempt} {run.life} {run.pid} {run.name} {now:.6f}\n".encode()
    )


def runs_of(lines: Iterable[str]) -> dict[str, list[Run]]:
    """Return the runs of each task, in the order in which they began.

    A line that a full disk has cut short is left out.
    """
    runs: dict[str, list[Run]] = {}
    by_name: dict[str, Run] = {}
    for line in lines:
        fields = line.split()
        if len(fields) != _FIELDS:
            continue
        what, number, task, attempt, life, pid, name, at = fields
        if what == BEGUN:
            run = Run(int(number), task, int(attempt), life, int(pid), name, float(at), len(by_name))
            by_name[name] = run
            runs.setdefault(task, []).append(run)
        elif name in by_name:
            by_name[name].ended = float(at)
    return runs
