"""The handlers of the methods for operators, which `taskd.protocol.operator_methods` declares."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Any, Protocol

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from taskd.errors import InvalidParams
from taskd.model import Outcome, Result
from taskd.protocol.operator_methods import MAX_ENTRIES, Period
from taskd.scheduler.histograms import quantile
from taskd.server.audit import Audit
from taskd.server.failures import refused
from taskd.server.methods import Asker, MethodServer, ServerMethods
from taskd.server.nodes import Drained, Nodes, OnlyNode
from taskd.server.stacks import WorkerStack
from taskd.store.audit import AuditEntry
from taskd.store.history import ALL, HOUR, MINUTE, HistoryRow

__all__ = ["AllMethods", "AuditPage", "HistoryView", "Operated", "QueueRow", "Records"]

_SECONDS: dict[Period, int] = {"minute": MINUTE, "hour": HOUR}

_BACK: dict[Period, float] = {"minute": 3600.0, "hour": 86400.0}
"""Seconds that a history goes back if nobody says since when."""

EACH = "*"
"""Stands for each function by itself, in ``taskd.history``."""


class QueueRow(msgspec.Struct, frozen=True):
    """The unfinished tasks of a function and an owner; both are None for what is not shown one by one.

    `oldest` is for how many seconds the oldest has waited, None if none waits.
    """

    function: str | None
    owner: str | None
    scheduled: int
    waiting: int
    running: int
    oldest: float | None


class AuditPage(msgspec.Struct, frozen=True):
    """A page of the audit log, newest first; `next` is the `after` of the next one."""

    entries: list[AuditEntry]
    next: int | None


class HistoryView(msgspec.Struct, frozen=True):
    """One row of the history; `function` is None for all together. Times are in seconds, None for none."""

    at: int
    function: str | None
    submitted: int
    succeeded: int
    failed: int
    lost: int
    timed_out: int
    cancelled: int
    expired: int
    wait_mean: float | None
    wait_max: float | None
    wait_p50: float | None
    wait_p95: float | None
    run_mean: float | None
    run_max: float | None
    run_p50: float | None
    run_p95: float | None

    @classmethod
    def of(cls, row: HistoryRow) -> HistoryView:
        """Return the view of a row."""
        figures = row.figures
        return cls(
            row.at,
            None if row.function == ALL else row.function,
            figures.submitted,
            figures.succeeded,
            figures.failed,
            figures.lost,
            figures.timed_out,
            figures.cancelled,
            figures.expired,
            *_times(figures.waits, figures.waited, figures.longest_wait),
            *_times(figures.runs, figures.ran, figures.longest_run),
        )


def _times(counts: list[int], total: float, longest: float) -> tuple[float | None, ...]:
    """Return the mean, the longest, the median and the 95th percentile of times."""
    count = sum(counts)
    if not count:
        return (None, None, None, None)
    mean = total / count
    most = max(longest, mean)
    times = (mean, most, quantile(counts, 0.5, most), quantile(counts, 0.95, most))
    return tuple(None if each is None else round(each, 6) for each in times)


class Records(Protocol):
    """The records of the work of the server, for those who operate it."""

    def history(self, seconds: int, function: str | None, since: float) -> Deferred[list[HistoryRow]]:
        """Return the history of a function, or of `ALL`; None stands for each function."""

    def queue(self) -> Deferred[list[QueueRow]]:
        """Return the unfinished tasks by function and owner."""

    def audit(
        self, after: int | None, limit: int, owner: str | None, action: str | None
    ) -> Deferred[list[AuditEntry]]:
        """Return entries of the audit log, newest first; those before the one with the number `after`."""

    def now(self) -> float:
        """Return the seconds since 1970."""


class Operated(Protocol):
    """The operation of the task server, as far as these handlers need it."""

    audit: Audit
    records: Records | None
    nodes: Nodes | None
    is_drained: bool
    reload_all: Callable[[], Deferred[str]]
    """Does what SIGHUP does; fires with the result in words."""

    def take_new(self, *, new: bool) -> None:
        """Take new tasks, or take none."""

    def stacks(self, worker: int | None) -> Deferred[list[WorkerStack]]:
        """Return what a worker does right now, or each of them."""


class AllMethods(ServerMethods):
    """Handles the methods for operators, too. Implements `taskd.protocol.methods.Methods`."""

    def __init__(self, server: MethodServer, operated: Operated, clock: IReactorTime) -> None:
        super().__init__(server, clock)
        self._operated = operated
        self._only_node = OnlyNode(server, operated)

    def reload(self, asker: Asker, /) -> Outcome | None:
        """Do what SIGHUP does, and answer when it is over."""
        self._operated.audit.note(asker.grant, "reload")
        _answer(asker, self._operated.reload_all(), lambda how: {"result": how})
        return None

    @property
    def _nodes(self) -> Nodes:
        return self._operated.nodes or self._only_node

    def nodes(self, asker: Asker, /) -> None:
        """Answer with the nodes that share the store."""
        _answer(asker, self._nodes.views(), list)

    def drain(self, asker: Asker, /, drained: bool = True, node: int | None = None) -> None:  # noqa: FBT001, FBT002
        """Have this server, or another node, take no new tasks, or take them again."""

        def done(answer: Drained) -> Drained:
            text = None if answer.node is None else f"node {answer.node}"
            self._operated.audit.note(asker.grant, "drain" if drained else "undrain", text=text)
            return answer

        _answer(asker, self._nodes.drain(node, drained=drained), done)

    def stacks(self, asker: Asker, /, worker: int | None = None) -> Outcome | None:
        """Answer with what a worker does right now, or each of them."""
        self._operated.audit.note(asker.grant, "stacks")
        _answer(asker, self._operated.stacks(worker), list)
        return None

    def queue(self, asker: Asker, /) -> Outcome | None:
        """Answer with the unfinished tasks by function and owner."""
        if self._operated.records is None:
            return _result([])
        _answer(asker, self._operated.records.queue(), list)
        return None

    def history(
        self,
        asker: Asker,
        /,
        period: Period = "minute",
        function: str | None = None,
        since: float | None = None,
    ) -> Outcome | None:
        """Answer with the history of a function, of each, or of all together."""
        records, seconds = self._operated.records, _SECONDS[period]
        if records is None:
            return _result([])
        if since is None:
            since = records.now() - _BACK[period]
        which = ALL if function is None else None if function == EACH else function
        rows = records.history(seconds, which, floor(since / seconds) * seconds)
        _answer(asker, rows, lambda found: [HistoryView.of(row) for row in found])
        return None

    def audit(
        self,
        asker: Asker,
        /,
        after: int | None = None,
        limit: int = 100,
        owner: str | None = None,
        action: str | None = None,
    ) -> Outcome | None:
        """Answer with a page of the audit log."""
        if not 0 < limit <= MAX_ENTRIES:
            raise InvalidParams(f"taskd.audit: limit is 1 to {MAX_ENTRIES}, not {limit}", argument="limit")
        if self._operated.records is None:
            return _result(AuditPage([], None))

        def page(found: list[AuditEntry]) -> AuditPage:
            entries = found[:limit]
            return AuditPage(entries, entries[-1].number if len(found) > limit else None)

        _answer(asker, self._operated.records.audit(after, limit + 1, owner, action), page)
        return None


def _answer(asker: Asker, waiting: Deferred[Any], view: Callable[[Any], Any]) -> None:
    """Answer with the view of what comes later."""
    waiting.addCallbacks(
        lambda found: asker.answer(_result(view(found))),
        lambda reason: asker.answer(refused(reason.value)),
    )


def _result(value: Any) -> Result:
    return Result(Raw(msgspec.json.encode(value)))
