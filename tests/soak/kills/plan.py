"""The plan of the kill soak: every failpoint in turn, and random instants in between."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from random import Random

from tests.soak.kills.twistd import POINTS

__all__ = ["Plan", "Target"]

SHARE = 0.6
"""The share of the daemon's lives that end at a failpoint."""

TIMES = {
    "statement": 1000,
    "rescue": 1,
    "promote": 5,
    "prune": 2,
    "pause": 2,
    "batch add": 1,
    "batch unpack": 1,
    "batch cancel": 1,
    "batch cancel_rows": 1,
}
"""How often a failpoint is reached in a life, about; `OTHER_TIMES` if it is not here."""

OTHER_TIMES = 15


@dataclass(frozen=True, slots=True)
class Target:
    """A failpoint at which a daemon kills itself, and the number of times that it is reached until then."""

    point: str
    times: int

    def __str__(self) -> str:
        return f"{self.point}:{self.times}"

    @property
    def call(self) -> str:
        """The point without "after"."""
        return self.point.removeprefix("after ")


class Plan:
    """Chooses how each life ends. A failpoint that is not reached is tried again with an earlier time."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._left = deque(rng.sample(POINTS, len(POINTS)))
        self._most = {point: TIMES.get(point.removeprefix("after "), OTHER_TIMES) for point in POINTS}
        self.reached: Counter[str] = Counter(dict.fromkeys(POINTS, 0))
        self.missed = 0

    def next(self) -> Target | None:
        """Return where the next life ends, None for a random instant."""
        if self._rng.random() >= SHARE:
            return None
        return Target(self._left[0], self._rng.randint(1, self._most[self._left[0]]))

    def ended(self, target: Target, *, was_reached: bool) -> None:
        """Note whether a failpoint was reached."""
        if was_reached:
            self.reached[target.point] += 1
            self._left.rotate(-1)
        else:
            self.missed += 1
            self._most[target.point] = max(target.times // 2, 1)

    def report(self) -> str:
        """Return how often each failpoint was reached."""
        counts = ", ".join(f"{point} {count}" for point, count in self.reached.items())
        return f"{sum(self.reached.values())} kills at {len(POINTS)} failpoints: {counts}"
