"""What the last process has left in a store: put right before anything is claimed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from twisted.logger import Logger

from taskd.durable.settling import LOST_WITH_DAEMON
from taskd.store.base import Store

__all__ = ["Left", "recover"]

_log = Logger(namespace="taskd.store")


@dataclass(frozen=True, slots=True)
class Left:
    """What was found: how many tasks were running, which functions are paused, and if tasks have owners."""

    running: int
    paused: frozenset[str]
    has_owners: bool

    def log(self) -> None:
        """Report how many tasks were running."""
        if self.running:
            _log.info(
                "{count} tasks were running when the store was last used: they run again, "
                "or have failed if they are run once",
                count=self.running,
            )


def recover(store: Store, now: float, once: Collection[str]) -> Left:
    """Let the tasks that were running wait again; those of the functions in `once` have failed."""
    running = store.rescue(now, once, LOST_WITH_DAEMON)
    return Left(running, frozenset(store.paused()), store.has_owners())
