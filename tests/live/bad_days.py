"""What must hold after every bad day of nodes on one database, and the times by its clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from tests.live.nodes import Nodes
from tests.live.runs import PATIENCE, Run
from tests.postgres_server import SqlError

SUCCEEDED = 3

FOUND_DEAD = 20.0
"""Seconds after its death in which a node's tasks run elsewhere: 10 without a renewal, 2 between two, and
some for a machine that is busy with other tests."""


def until(nodes: Nodes, holds: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Return when something holds by the database, which may be down meanwhile."""
    ending = time.monotonic() + patience
    while True:
        try:
            if holds():
                return
            # The server waits a little: many queries would take the processor from those who work.
            nodes.database.sql("SELECT pg_sleep(0.05)")
        except SqlError:
            pass
        assert time.monotonic() < ending, f"after {patience} s: {what}"


def now(nodes: Nodes) -> float:
    """Return the seconds since 1970 by the database's clock."""
    return float(nodes.database.value("SELECT extract(epoch FROM clock_timestamp())"))


def states(nodes: Nodes, tasks: Collection[str]) -> dict[str, int]:
    """Return the states of those of these tasks that have ended, by the store."""
    if not tasks:
        return {}
    wanted = ",".join(f"'{task}'" for task in tasks)
    rows = nodes.database.sql(f"SELECT id, state FROM taskd.ended WHERE id IN ({wanted})")
    return {task: int(state) for task, state in rows}


def must_have_succeeded(nodes: Nodes, accepted: Collection[str], patience: float = PATIENCE) -> None:
    """Wait until the store has the ends of all these tasks; each must have succeeded, and run to its end."""
    until(nodes, lambda: len(states(nodes, accepted)) == len(accepted), "not all have ended", patience)
    ended = states(nodes, accepted)
    assert {task for task, state in ended.items() if state != SUCCEEDED} == set()
    assert nodes.runs.lost(accepted) == set()


def repeated(nodes: Nodes) -> dict[str, list[Run]]:
    """Return the runs of each task that was begun more than once, in their order."""
    runs: dict[str, list[Run]] = {}
    for run in nodes.runs.all():
        runs.setdefault(run.id, []).append(run)
    return {task: each for task, each in runs.items() if len(each) > 1}


def unsettled(nodes: Nodes, tasks: Collection[str]) -> set[str]:
    """Return those of these tasks of whose end the store does not know."""
    return set(tasks) - states(nodes, tasks).keys()
