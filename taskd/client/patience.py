"""The patience of those who wait for stored tasks with a server that is being restarted."""

from __future__ import annotations

from collections.abc import Callable

from taskd.errors import Busy, ShuttingDown, TaskdError, Unreachable

__all__ = ["PATIENCE", "WAIT_STEP", "Patience"]

PATIENCE = 60.0
"""Seconds for which a server that is gone is expected to come back."""

PAUSE = 0.5
"""Seconds between two attempts to reach it: a restart takes one or two."""

WAIT_STEP = 20.0
"""Seconds after which the end of a stored task is asked for again: a wait that nobody awaits any more
is not kept for longer."""

_RESTARTING = (Unreachable, Busy, ShuttingDown)
"""The errors of a server that is being restarted."""


class Patience:
    """Decides whether to try again. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lost_at: float | None = None

    def found(self) -> None:
        """Note that the server answers."""
        self._lost_at = None

    def pause_after(self, error: TaskdError) -> float:
        """Return the seconds until the next attempt; raise the error if that is no use."""
        if not isinstance(error, _RESTARTING):
            raise error
        now = self._clock()
        if self._lost_at is None:
            self._lost_at = now
        elif now - self._lost_at > PATIENCE:
            raise error
        return PAUSE
