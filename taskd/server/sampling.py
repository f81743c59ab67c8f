"""The work done of each function since the last look: from the counters that the scheduler keeps anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import sub

from taskd.scheduler import FunctionStats
from taskd.store.history import Figures

__all__ = ["Sampler"]


class Sampler:
    """Takes what was done since the last time, by function.

    `functions` returns the statistics by name, `taken_on` how many tasks of each function were
    taken on and have not ended.
    """

    def __init__(
        self,
        functions: Callable[[], Mapping[str, FunctionStats]],
        taken_on: Callable[[], Mapping[str, int]],
    ) -> None:
        self._functions = functions
        self._taken_on = taken_on
        self._last: dict[str, tuple[FunctionStats, Figures]] = {}

    def take(self) -> dict[str, Figures]:
        """Return what was done since the last time; functions of which nothing was are left out."""
        done = self.look()
        taken_on = self._taken_on()
        functions = self._functions()
        for name, (stats, _) in list(self._last.items()):
            stats.take_peaks()
            if functions.get(name) is not stats:
                del self._last[name]
        for name, stats in functions.items():
            stats.take_peaks()
            self._last[name] = (stats, _totals(stats, taken_on.get(name, 0)))
        return done

    def look(self) -> dict[str, Figures]:
        """Return the same, but let the next call have it too."""
        taken_on = self._taken_on()
        done: dict[str, Figures] = {}
        functions = self._functions()
        # Of a function that is gone, or was replaced, what was done before that counts.
        gone = [each for name, each in self._last.items() if functions.get(name) is not each[0]]
        for stats, before in gone:
            _note(done, stats, _totals(stats, before.submitted - _ended(before)), before)
        for name, stats in functions.items():
            known = self._last.get(name)
            before = known[1] if known is not None and known[0] is stats else Figures()
            _note(done, stats, _totals(stats, taken_on.get(name, 0)), before)
        return done


def _note(done: dict[str, Figures], stats: FunctionStats, totals: Figures, before: Figures) -> None:
    figures = _difference(totals, before)
    if figures.submitted or _ended(figures) or any(figures.waits):
        figures.longest_wait, figures.longest_run = stats.peak_wait, stats.peak
        done[stats.name] = done[stats.name] + figures if stats.name in done else figures


def _totals(stats: FunctionStats, taken_on: int) -> Figures:
    figures = Figures(
        succeeded=stats.done,
        failed=stats.failed + stats.invalid,
        lost=stats.lost,
        timed_out=stats.timed_out,
        cancelled=stats.cancelled,
        expired=stats.expired,
        waited=stats.waited,
        ran=stats.seconds,
        waits=stats.waits,
        runs=stats.runs,
    )
    figures.submitted = _ended(figures) + taken_on
    return figures


def _ended(figures: Figures) -> int:
    return (
        figures.succeeded
        + figures.failed
        + figures.lost
        + figures.timed_out
        + figures.cancelled
        + figures.expired
    )


def _difference(now: Figures, before: Figures) -> Figures:
    return Figures(
        max(now.submitted - before.submitted, 0),  # tasks that were refused later are in neither
        now.succeeded - before.succeeded,
        now.failed - before.failed,
        now.lost - before.lost,
        now.timed_out - before.timed_out,
        now.cancelled - before.cancelled,
        now.expired - before.expired,
        now.waited - before.waited,
        ran=now.ran - before.ran,
        waits=list(map(sub, now.waits, before.waits)) if before.waits else now.waits,
        runs=list(map(sub, now.runs, before.runs)) if before.runs else now.runs,
    )
