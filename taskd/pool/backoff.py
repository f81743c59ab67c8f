"""The growing delay before a fork server or a worker is started again after failures."""

from __future__ import annotations

__all__ = ["FIRST_DELAY", "MAX_DELAY", "Backoff"]

FIRST_DELAY = 0.1
"""Seconds to wait after the first failure, doubled with each further one: short,
since most failures happen once."""

MAX_DELAY = 30.0
"""Seconds of the longest delay: long enough to do no harm, short enough that
nobody restarts the server because it seems dead."""


class Backoff:
    """A delay that starts at `FIRST_DELAY`, doubles with each failure, and ends at `MAX_DELAY`.

    It keeps no time and starts no timer; its user does.
    """

    def __init__(self) -> None:
        self._delay = FIRST_DELAY

    def next_delay(self) -> float:
        """Count one more failure, and return the seconds to wait after it."""
        delay = self._delay
        self._delay = min(2 * delay, MAX_DELAY)
        return delay

    def reset(self) -> None:
        """Begin again with `FIRST_DELAY`, after a success."""
        self._delay = FIRST_DELAY
