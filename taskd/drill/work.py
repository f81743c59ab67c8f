"""The work of a drill: what is asked for, in what mix, and what each client knows of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

__all__ = ["Asked", "AskedBatch", "Mix"]

NAP_SHARE, ONCE_SHARE = 0.3, 0.1
"""The shares of all workers that are busy with naps and with tasks that run once, if the rate allows it.
The rest is room to catch up in after a kill."""

MOST_NAPS, MOST_ONCE = 0.15, 0.15
"""The largest shares of tasks that are such ones."""

NAP_SECONDS = 0.2, 2.0
ONCE_SECONDS = 0.0, 0.2

FLAKY_SHARE, DELAYED_SHARE, BATCH_SHARE = 0.1, 0.06, 0.2
"""The shares of tasks that fail and are tried again, that are delayed, and that come in batches."""

DELAY_SECONDS = 0.5, 5.0

PER_BATCH = 20
"""Tasks of a batch."""

CANCEL_DELAYED, CANCEL_NAPS = 0.4, 0.1
"""The shares of delayed tasks and of naps that are cancelled."""

WAIT_SHARE = 0.1
"""The share of tasks whose client waits for the outcome, and remembers it."""


@dataclass(slots=True, eq=False)
class Asked:
    """A task that a client has asked for, and what it was answered. Times are in seconds since 1970.

    `function` is called with its number and `seconds`, if it takes these. `cancel_after` is how many
    seconds after it was accepted it is cancelled. `was` is what the cancel was answered, and `told` the
    outcome: its state, and its result. `tries` counts the submits, all with the same token.
    """

    number: int
    function: str
    seconds: float | None = None
    delay: float = 0.0
    cancel_after: float | None = None
    waits: bool = False
    batch: int | None = None
    task: str | None = None
    accepted: float | None = None
    tries: int = 0
    was: str | None = None
    cancelled: float | None = None
    told: tuple[str, Any] | None = None

    @property
    def args(self) -> list[Any]:
        """The arguments."""
        return [self.number] if self.seconds is None else [self.number, self.seconds]

    def __str__(self) -> str:
        return f"task {self.task or '?'} ({self.function} {self.number})"


@dataclass(slots=True, eq=False)
class AskedBatch:
    """A batch that a client has asked for; `id` is its own once it is accepted."""

    number: int
    rows: list[Asked] = field(default_factory=list)
    id: str | None = None
    tries: int = 0

    def __str__(self) -> str:
        return f"batch {self.id or '?'} ({self.number})"


class Mix:
    """Makes up the work: about `rate` tasks a second for so many workers. All of it follows from `rng`."""

    def __init__(self, rng: Random, rate: float, workers: int) -> None:
        self._rng = rng
        self.asked: list[Asked] = []
        self.batches: list[AskedBatch] = []
        self._naps = min(MOST_NAPS, NAP_SHARE * workers / (rate * sum(NAP_SECONDS) / 2))
        self._once = min(MOST_ONCE, ONCE_SHARE * workers / (rate * sum(ONCE_SECONDS) / 2))

    def next(self) -> Asked | AskedBatch:
        """Return what is asked for next; a batch counts as all its tasks."""
        if self._rng.random() < BATCH_SHARE / PER_BATCH:
            batch = AskedBatch(len(self.batches) + 1)
            self.batches.append(batch)
            batch.rows += [self._new("quick", batch=batch.number) for _ in range(PER_BATCH)]
            return batch
        return self._single()

    def _single(self) -> Asked:
        rng = self._rng
        waits = rng.random() < WAIT_SHARE
        shares = {"nap": self._naps, "once": self._once, "flaky": FLAKY_SHARE, "delayed": DELAYED_SHARE}
        rest = 1.0 - sum(shares.values())
        (function,) = rng.choices([*shares, "quick"], [*shares.values(), rest])
        if function == "nap":
            cancel = rng.uniform(0.0, 1.0) if rng.random() < CANCEL_NAPS else None
            return self._new(function, rng.uniform(*NAP_SECONDS), cancel_after=cancel, waits=waits)
        if function == "once":
            return self._new(function, rng.uniform(*ONCE_SECONDS), waits=waits)
        if function == "delayed":
            delay = rng.uniform(*DELAY_SECONDS)
            cancel = rng.uniform(0.0, delay) if rng.random() < CANCEL_DELAYED else None
            return self._new("quick", delay=delay, cancel_after=cancel, waits=waits)
        return self._new(function, waits=waits)

    def _new(self, function: str, seconds: float | None = None, **more: Any) -> Asked:
        rounded = None if seconds is None else round(seconds, 3)
        asked = Asked(len(self.asked) + 1, function, rounded, **more)
        self.asked.append(asked)
        return asked
