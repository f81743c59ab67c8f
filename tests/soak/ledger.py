"""The ledger of requests and of the replies that each may have; without I/O."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from taskd.errors import Busy, Cancelled, InternalError, ShuttingDown, TaskFailed, TimedOut, WorkerLost

__all__ = ["ANYTHING", "NOTHING", "OWN_END", "Asked", "Ledger", "RequestId"]

RequestId = int | str

NOTHING: Any = object()
"""An expected result: there must be none, the request must fail."""

ANYTHING: Any = object()
"""An expected result: any value will do."""

RESULT = 0
"""An outcome: a result, in place of the code of an error."""

MAX_VIOLATIONS = 20
"""The number of violations printed in full: one bug may cause very many."""

SLACK = 0.02
"""Seconds of tolerance: times on the wire are rounded, and measured by different clocks."""

LOSS_SECONDS = 3.0
"""Seconds after a kill within which the lost tasks must be reported."""

NO_CODES: frozenset[int] = frozenset()

OWN_END: dict[str, tuple[str, object]] = {
    "vanish": ("status", 7),
    "kill_itself": ("signal", "SIGKILL"),
    "segfault": ("signal", "SIGSEGV"),
}
"""The functions that end their own process, and how the end is reported."""


class Mark(Enum):
    """Whether a task that leaves a trace when it runs must have left it."""

    NOTIFIED = "it should"
    OWED = "it is not answered yet"
    MUST = "it was answered with a result"
    MUST_NOT = "it was answered that it was not run"
    UNKNOWN = "it may have"


@dataclass(slots=True, eq=False)
class Asked:
    """One request, and its possible replies.

    `result`: the one value, or a function that checks a value.
    `codes`: errors that will do as well. `mark`: it leaves a trace under its
    number where it is run. `timed`: its time counts as a latency. `target`:
    what it is to cancel. `outcome` is what was answered, None before.
    `is_answered`: it is no notification. `position`: how many were sent on its
    connection up to it.
    """

    what: str
    number: int
    result: Any = ANYTHING
    codes: frozenset[int] = NO_CODES
    mark: bool = False
    timed: bool = False
    reports: bool = False
    on_disconnect: bool = False
    is_cancelled: bool = False
    target: Asked | None = None
    request_id: RequestId | None = None
    sent: float = 0.0
    outcome: int | None = None
    is_answered: bool = True
    dropped: bool = False
    position: int = 0


@dataclass(slots=True)
class Ledger:
    """All requests and replies, and everything wrong with them.

    `may_be_lost`: how many tasks the processes killed by the soak may have taken with them.
    `may_be_busy`: whether a caller that has its share of the queue may be refused: others want theirs.
    """

    clock: Callable[[], float]
    may_be_busy: bool = False
    sent: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    violated: int = 0
    answered: int = 0
    dropped: int = 0
    progress: int = 0
    may_be_lost: int = 0
    lost: int = 0
    is_stopping: bool = False
    _kills: deque[float] = field(default_factory=deque)
    tasks_cancelled: int = 0
    unexplained_cancels: int = 0
    latencies: array[float] = field(default_factory=lambda: array("f"))
    reloading_since: float | None = None
    reloads_until: float = 0.0
    worst_in_reload: float = 0.0
    marks: dict[int, Mark] = field(default_factory=dict)
    version: int = 0
    newest_version: int = 0

    def violate(self, text: str) -> None:
        """Record a violation."""
        self.violated += 1
        if self.violated <= MAX_VIOLATIONS:
            self.violations.append(text)

    def note_sent(self, asked: Asked) -> None:
        """Record a request that was sent; it must be answered exactly once, unless it is a notification."""
        self.sent[asked.what] += 1
        asked.sent = self.clock()
        if asked.mark:
            self.marks[asked.number] = Mark.OWED if asked.is_answered else Mark.NOTIFIED

    def drop(self, asked: Asked) -> None:
        """Record that the soak has closed a request's connection: no reply can come, and it may be run."""
        self.dropped += 1
        asked.dropped = True
        if asked.mark:
            self.marks[asked.number] = Mark.UNKNOWN

    # --- answers ---

    def succeeded(self, asked: Asked, value: Any) -> None:
        """Check a result."""
        self._end(asked, RESULT)
        wanted = asked.result
        if wanted is NOTHING:
            self.violate(f"{asked.what} {asked.number} must not succeed: {value!r:.200}")
        elif callable(wanted):
            if not wanted(value):
                self.violate(f"{asked.what} {asked.number} was answered {value!r:.200}")
        elif wanted is not ANYTHING and wanted != value:
            self.violate(f"{asked.what} {asked.number} was answered {value!r:.200}, not {wanted!r:.200}")
        if asked.timed:
            self._note_latency(asked)

    def completed(self, asked: Asked) -> None:
        """Check a bare reply on a websocket, which does not carry the result."""
        self._end(asked, RESULT)
        if asked.result is NOTHING:
            self.violate(f"{asked.what} {asked.number} must not succeed")

    def failed(self, asked: Asked, code: int, data: Any, message: str) -> None:
        """Check an error."""
        self._end(asked, code)
        described = f"{asked.what} {asked.number} was answered {code} {message!r:.300} {data!r:.300}"
        if code == InternalError.code:
            self.violate(described)
        elif code == WorkerLost.code:
            self._worker_lost(asked, data, described)
        elif code == Cancelled.code:
            self._cancelled(asked, data, described)
        elif code == ShuttingDown.code and self.is_stopping:
            pass
        elif code == Busy.code and self.may_be_busy:
            self._was_not_run(asked)
        elif code not in asked.codes:
            self.violate(described)
        elif code == TimedOut.code and data is not None:
            self._timed_out(asked, data, described)
        elif code == TaskFailed.code and not (isinstance(data, dict) and "type" in data):
            self.violate(described)

    def _timed_out(self, asked: Asked, data: Any, described: str) -> None:
        if data["limit"] == "deadline":
            self._was_not_run(asked)
        elif data["ran"] < data["seconds"] - SLACK:
            self.violate(described)

    def _worker_lost(self, asked: Asked, data: Any, described: str) -> None:
        end = OWN_END.get(asked.what)
        if data is None:  # a bare one on a websocket
            if end is None:
                self._lose(described)
        elif not isinstance(data, dict):
            self.violate(described)
        elif end is None or data.get(end[0]) != end[1]:
            self._lose(described)

    def kills(self, workers: int) -> None:
        """Record that so many workers are about to be killed: each may lose the task that it runs."""
        self.may_be_lost += workers
        self._kills.extend([self.clock()] * workers)

    def _lose(self, described: str) -> None:
        """Check that a task was lost with a worker that was killed just now."""
        self.lost += 1
        too_old = self.clock() - LOSS_SECONDS
        while self._kills and self._kills[0] < too_old:
            self._kills.popleft()
        if self._kills:
            self._kills.popleft()
        else:
            self.violate(f"nothing that was killed explains it: {described}")

    def _cancelled(self, asked: Asked, data: Any, described: str) -> None:
        if not asked.is_cancelled:
            self.unexplained_cancels += 1
        was = None if data is None else data.get("was")
        if was == "waiting":
            self._was_not_run(asked)
        elif data is not None and was != "running":
            self.violate(described)

    def _was_not_run(self, asked: Asked) -> None:
        if asked.mark:
            self.marks[asked.number] = Mark.MUST_NOT

    def _end(self, asked: Asked, outcome: int) -> None:
        if asked.outcome is not None:
            self.violate(f"{asked.what} {asked.number} was answered for the second time")
        asked.outcome = outcome
        if asked.mark:
            self.marks[asked.number] = Mark.MUST if outcome == RESULT else Mark.UNKNOWN
        self.answered += 1
        self.outcomes[outcome] += 1

    def cancel_answered(self, target: Asked, answer: Any) -> bool:
        """Return whether the answer of `taskd.cancel` agrees with the earlier reply to the request itself."""
        if target.dropped:
            return True
        was = answer.get("was")
        if was == "done":
            return target.outcome is not None
        return was in ("waiting", "running") and target.outcome == Cancelled.code

    # --- latency ---

    def reload_began(self) -> None:
        """Record the start of a reload: requests in flight from now on are in flight during it."""
        if self.reloading_since is None:
            self.reloading_since = self.clock()

    def reload_ended(self) -> None:
        """Record the end of a reload: new code is in use, or was given up."""
        self.reloading_since = None
        self.reloads_until = self.clock()

    def _note_latency(self, asked: Asked) -> None:
        seconds = self.clock() - asked.sent
        self.latencies.append(seconds)
        if (self.reloading_since is not None or asked.sent < self.reloads_until) and (
            seconds > self.worst_in_reload
        ):
            self.worst_in_reload = seconds

    # --- the end ---

    def check_bounds(self) -> None:
        """Check that cancels of unknown requests are all accounted for."""
        if self.unexplained_cancels > self.tasks_cancelled:
            self.violate(
                f"{self.unexplained_cancels} requests were cancelled by nobody; "
                f"{self.tasks_cancelled} were cancelled by the number of their task"
            )

    def check_marks(self, numbers: array[int]) -> None:
        """Check the traces: nothing was run twice, and everything that was answered with a result was run."""
        ran = Counter(numbers)
        for number, times in ran.items():
            if times > 1:
                self.violate(f"task {number} was run {times} times")
            if number not in self.marks:
                self.violate(f"task {number} was run, and nobody has asked for it")
        missing = 0
        for number, mark in self.marks.items():
            if number not in ran and mark is Mark.MUST:
                self.violate(f"task {number} was answered with a result, and was not run")
            elif number in ran and mark is Mark.MUST_NOT:
                self.violate(f"task {number} was run, and was answered that it was not")
            missing += number not in ran and mark is Mark.NOTIFIED
        if missing > self.may_be_lost + self.tasks_cancelled:
            self.violate(f"{missing} notifications were not run")
