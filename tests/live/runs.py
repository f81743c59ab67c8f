"""What the functions of `apps/recorded.py` have noted: each accepted task must have ended there, once."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations

from tests.postgres_server import OWNER, Database, SqlError

TABLE = f"""
CREATE TABLE IF NOT EXISTS run (
    run uuid PRIMARY KEY,
    id text,
    attempt int NOT NULL,
    node text,
    pid int NOT NULL,
    number int NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    alive timestamptz,
    ended timestamptz
);
ALTER TABLE run OWNER TO {OWNER};
"""

PATIENCE = 60.0
"""Seconds in which tasks must have ended."""


@dataclass(frozen=True)
class Run:
    """One run of a function: `at` and `ended` are seconds by the database's clock.

    `ended` is None while it runs, and for ever if its process was killed.
    """

    id: str
    attempt: int
    node: str
    pid: int
    number: int
    at: float
    ended: float | None
    alive: float | None = None
    """When it was seen last, of those that note it (`record_alive`)."""


class Runs:
    """The table of runs in a database; made if it is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.sql(TABLE)

    def all(self) -> list[Run]:
        """Return all runs, in the order of their starts."""
        rows = self._database.sql(
            "SELECT id, attempt, node, pid, number, extract(epoch FROM at), extract(epoch FROM ended),"
            " extract(epoch FROM alive) FROM run ORDER BY at"
        )
        return [
            Run(id_, int(attempt), node, int(pid), int(number), float(at), _time(ended), _time(alive))
            for id_, attempt, node, pid, number, at, ended, alive in rows
        ]

    def of(self, task: str) -> list[Run]:
        """Return the runs of one task."""
        return [run for run in self.all() if run.id == task]

    def lost(self, accepted: Collection[str]) -> set[str]:
        """Return those of the accepted tasks that no run has ended."""
        return set(accepted) - {run.id for run in self.all() if run.ended is not None}

    def doubled(self) -> set[str]:
        """Return the tasks that more than one run has ended."""
        ended = Counter(run.id for run in self.all() if run.ended is not None)
        return {task for task, count in ended.items() if count > 1}

    def overlapping(self) -> set[str]:
        """Return the tasks of which a run began before an earlier one, which has ended since, had ended."""
        runs = defaultdict(list)
        for run in self.all():
            runs[run.id].append(run)
        return {
            task
            for task, each in runs.items()
            for earlier, later in combinations(each, 2)
            if earlier.ended is not None and later.at < earlier.ended
        }

    def nodes(self) -> Counter[str]:
        """Return how many runs each node has begun."""
        return Counter(run.node for run in self.all())

    def wait_for(self, accepted: Collection[str], patience: float = PATIENCE) -> None:
        """Return when a run of each of these tasks has ended; fail after `patience` seconds.

        The database may be down meanwhile.
        """
        ending = time.monotonic() + patience
        missing = set(accepted)
        while missing:
            assert time.monotonic() < ending, f"{len(missing)} of {len(accepted)} have not ended: {missing}"
            try:
                # The server waits a little: many queries would take the processor from those who work.
                self._database.sql("SELECT pg_sleep(0.05)")
                missing = self.lost(accepted)
            except SqlError:
                continue


def _time(text: str) -> float | None:
    return float(text) if text else None
