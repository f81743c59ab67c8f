"""The contents of a store: tasks, their events, and the table of their states."""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

import msgspec

from taskd.errors import StateError

__all__ = [
    "CANCELLABLE",
    "ENDED",
    "EVENTS_PER_ATTEMPT",
    "FINAL",
    "STEPS",
    "UNFINISHED",
    "Accepted",
    "Allowance",
    "Claim",
    "Event",
    "Full",
    "LastTick",
    "New",
    "Record",
    "Settle",
    "Shift",
    "Start",
    "State",
    "Tick",
    "check_step",
    "first_seq",
    "last_seq",
]


class State(IntEnum):
    """The state of a stored task. Stores keep the numbers, so none is ever used for another meaning."""

    SCHEDULED = 0
    """Not due yet: for its first attempt, or for the next after an error."""
    WAITING = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    EXPIRED = 6
    """Not started before its deadline."""
    SET_ASIDE = 7
    """Its process has died under it too often: kept until somebody puts it back."""


STEPS = {
    State.SCHEDULED: frozenset({State.WAITING, State.CANCELLED, State.EXPIRED}),
    State.WAITING: frozenset({State.RUNNING, State.CANCELLED, State.EXPIRED}),
    State.RUNNING: frozenset(
        {
            State.WAITING,  # returned unbegun, or lost with its process for the first time
            State.SCHEDULED,  # it failed, and is tried again later
            State.SUCCEEDED,
            State.FAILED,
            State.CANCELLED,
            State.SET_ASIDE,
        }
    ),
    State.SUCCEEDED: frozenset[State](),
    State.FAILED: frozenset({State.WAITING}),  # put back by hand, like one that was set aside
    State.CANCELLED: frozenset[State](),
    State.EXPIRED: frozenset[State](),
    State.SET_ASIDE: frozenset({State.WAITING, State.CANCELLED}),
}
"""Every step that a stored task can take."""

_BY_HAND = {
    State.SCHEDULED: frozenset({State.CANCELLED}),
    State.WAITING: frozenset({State.CANCELLED}),
    State.FAILED: frozenset({State.WAITING}),
    State.SET_ASIDE: frozenset({State.WAITING, State.CANCELLED}),
}
"""The steps that are taken because somebody asked, of tasks that do not run."""

ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED, State.SET_ASIDE})
"""The states of tasks that do nothing more by themselves."""

FINAL = frozenset(state for state, following in STEPS.items() if not following)
"""The states that no task ever leaves, whatever anybody does."""

UNFINISHED = frozenset(State) - ENDED

CANCELLABLE = frozenset({State.SCHEDULED, State.WAITING})
"""The unfinished states of tasks that do not run, which a cancel ends at once."""

EVENTS_PER_ATTEMPT = 1 << 32
"""Sequence numbers of an attempt: so its events come after those of earlier ones, whoever numbers them.
A thousand a second use them up in 49 days; the integers of JavaScript suffice for 2 million attempts."""


def check_step(old: State, new: State) -> State:
    """Return `new`. Raises `StateError` if a stored task cannot go from `old` to it."""
    if new not in STEPS[old]:
        raise StateError(f"a stored task cannot go from {old.name} to {new.name}")
    return new


def first_seq(attempt: int) -> int:
    """Return the first sequence number of an attempt's events; attempt 0 is what comes before the first."""
    return attempt * EVENTS_PER_ATTEMPT


def last_seq(attempt: int) -> int:
    """Return the last sequence number of an attempt's events, which only the note of its loss has."""
    return first_seq(attempt + 1) - 1


_SOURCES = {state: State.WAITING if state in STEPS[State.WAITING] else State.RUNNING for state in State}
"""The other state, besides running, from which a task may go to each in which an attempt ends."""


class New(msgspec.Struct, frozen=True):
    """A task to be stored. Times are seconds since 1970, by the clock of whoever stores it.

    `args` is JSON text, None for no arguments. `options` is JSON text, which
    stores pass on unread. The task waits from `due` on. Of the unfinished tasks
    of a function and an owner, only one has the same `key`; of all tasks of an owner, only one
    has the same `token`. `keep` is for how many seconds it is kept after its end. It is not
    started for the first time after its `deadline`. What `is_fixed` is due by the
    calendar; other times are distances, and are moved when the clock is set.
    `limit_key` is the value of its function's concurrency key, "" if it leaves that
    out, None if the function had no such key when the task was submitted. `owner` is whom it
    belongs to, "" for nobody in particular; keys and tokens are those of one owner.
    """

    id: str
    function: str
    args: bytes | None = None
    options: bytes = b"{}"
    priority: int = 5
    due: float = 0.0
    deadline: float | None = None
    key: str | None = None
    token: str | None = None
    batch: str | None = None
    keep: float = 0.0
    is_fixed: bool = False
    limit_key: str | None = None
    owner: str = ""

    def moved(self, seconds: float) -> New:
        """Return the task after the clock has been set by `seconds`."""
        if self.is_fixed:
            return self
        return msgspec.structs.replace(
            self,
            due=self.due + seconds if self.due else 0.0,
            deadline=None if self.deadline is None else self.deadline + seconds,
        )


class Accepted(msgspec.Struct, frozen=True):
    """The answer to one `New`: the task that there is now, and whether it was there before."""

    id: str
    joined: bool = False


class Allowance(msgspec.Struct, frozen=True):
    """How many tasks of one owner may wait or be scheduled, the new ones included; None for any number.

    Their arguments may take so many `bytes`.
    """

    waiting: int | None = None
    bytes: int | None = None

    def permits(self, waiting: int, size: int) -> bool:
        """Return whether so many tasks with so many bytes may wait."""
        return (self.waiting is None or waiting <= self.waiting) and (
            self.bytes is None or size <= self.bytes
        )


class Full(msgspec.Struct, frozen=True):
    """The answer to what an owner has no room for: how many of its tasks wait, and their bytes."""

    waiting: int
    bytes: int


class Record(msgspec.Struct, frozen=True):
    """A stored task, as it is now.

    `attempt` counts the starts, `errors` and `losses` the attempts that failed
    and those whose process died. `outcome` is JSON text, once there is one.
    `ended` is when it ended, None before.
    """

    new: New
    state: State
    created: float
    attempt: int = 0
    errors: int = 0
    losses: int = 0
    due: float = 0.0
    ended: float | None = None
    outcome: bytes | None = None
    last_seq: int = 0

    @property
    def is_unstarted(self) -> bool:
        """Whether it waits or is scheduled, and has never been started."""
        return self.attempt == 0 and self.state in (State.SCHEDULED, State.WAITING)

    def turn(self) -> tuple[int, float, str]:
        """Return the key by which waiting tasks are claimed: priority, then since when, then age."""
        return self.new.priority, self.due, self.new.id

    def turn_of_any(self) -> tuple[str, tuple[int, float, str]]:
        """Return the key by which they are claimed whatever their limit keys: those without one first."""
        return "" if self.new.limit_key is None else f" {self.new.limit_key}", self.turn()

    def takes_by_hand(self, state: State) -> bool:
        """Return whether a cancel, or putting it back, may bring the task to `state` now."""
        return state in _BY_HAND.get(self.state, ())

    def brief(self) -> Record:
        """Return the record without what may be large: its arguments, and its result."""
        outcome = None if self.state is State.SUCCEEDED else self.outcome
        new = msgspec.structs.replace(self.new, args=None)
        return msgspec.structs.replace(self, new=new, outcome=outcome)

    def new_key(self) -> New:
        """Return the task as it was new, without its token: so that only its key may be another's."""
        return msgspec.structs.replace(self.new, token=None)


class Tick(msgspec.Struct, frozen=True):
    """A time at which a schedule has the task `new` stored, None to note only that it has passed.

    `line` is the schedule as a text. There is nothing to do if the last tick
    of the same `name` and `line` was not before `at`.
    """

    name: str
    line: str
    at: float
    new: New | None = None

    def moved(self, seconds: float) -> Tick:
        """Return the tick after the clock has been set by `seconds`, if its schedule goes on as before."""
        return msgspec.structs.replace(self, at=self.at + seconds)


class LastTick(msgspec.Struct, frozen=True):
    """The last tick of a schedule, and the schedule as a text."""

    line: str
    at: float


class Shift(msgspec.Struct, frozen=True):
    """The clock has been set, by so many `seconds`; the names are those of schedules that go on as before."""

    seconds: float
    names: Collection[str] = ()


class Claim(msgspec.Struct, frozen=True):
    """A waiting task that whoever asked may start: `attempt` is the number of its next start."""

    record: Record
    attempt: int


class Start(msgspec.Struct, frozen=True):
    """The note that an attempt has begun."""

    id: str
    attempt: int


class Settle(msgspec.Struct, frozen=True):
    """The end of an attempt: the state that the task goes to, and what changes with that.

    It is about a task that runs `attempt`, or that was claimed after it and has
    not been started, if that can go to the state. `outcome` is kept with an
    ended task. `due` is for a task that is tried again. `event` and `data` are
    those of the log; `seq` is the least sequence number of that.
    """

    id: str
    attempt: int
    state: State
    event: str
    data: bytes = b"{}"
    outcome: bytes | None = None
    due: float = 0.0
    is_error: bool = False
    is_loss: bool = False
    seq: int = 0

    def moved(self, seconds: float) -> Settle:
        """Return the end of the attempt after the clock has been set by `seconds`."""
        return msgspec.structs.replace(self, due=self.due + seconds) if self.due else self

    @property
    def source(self) -> State:
        """The other state, besides running, from which the task may come."""
        return _SOURCES[self.state]


class Event(msgspec.Struct, frozen=True):
    """An event of a task's log: `data` is JSON text of an object, `at` in seconds since 1970.

    Progress takes the place of the progress before it, if nothing has come in between.
    """

    task: str
    seq: int
    event: str
    at: float
    data: bytes = b"{}"
