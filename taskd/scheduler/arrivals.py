"""Long results on their way from workers: which of them are read on while memory is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from taskd.errors import TooLarge
from taskd.model import Failure

if TYPE_CHECKING:
    from taskd.scheduler.budget import Account

__all__ = ["DRAINED", "NO_ROOM", "WAIT", "Arrival", "Arrivals"]

WAIT = 5.0
"""Seconds that a long result may wait in its worker, while its client reads nothing, before it is
dropped: longer than a client that reads ever pauses, and short, since others may want the worker."""

DRAINED = 16 * 1024
"""Bytes of replies that a connection may leave unread and still count as one whose client reads."""


NO_ROOM = Failure.of(
    TooLarge(
        "the task has ended, but its result was dropped: there was no room for it, since this connection "
        "leaves results unread, has results that wait for an earlier one, or asks for too many in one batch",
        dropped=True,
    )
)
"""The outcome of a task whose result was dropped."""


class Arrival:
    """A long result that a worker sends, for one account.

    `go_on` has it read on after `grow` has returned False; `drop` has the rest of
    it dropped, since nobody makes room for it. Call `end` in either case, once.
    `is_needed` returns whether other replies of the account wait for this one.
    """

    __slots__ = ("_arrivals", "account", "drop", "go_on", "is_needed", "size", "waits_since")

    def __init__(
        self,
        arrivals: Arrivals,
        account: Account,
        go_on: Callable[[], None],
        drop: Callable[[], None],
        is_needed: Callable[[], bool],
    ) -> None:
        self._arrivals = arrivals
        self.account = account
        self.go_on = go_on
        self.drop = drop
        self.is_needed = is_needed
        self.size = 0
        self.waits_since: float | None = None

    def grow(self, count: int) -> bool:
        """Count so many more bytes; return whether to read on."""
        self.size += count
        self.account.expect(count)
        if self.account.may_reply or self._arrivals.goes_on(self):
            return True
        self._arrivals.wait(self)
        return False

    def end(self) -> None:
        """Count no longer: the result is complete, and counted elsewhere, or is not wanted."""
        self.account.expect(-self.size)
        self.size = 0
        self._arrivals.ended(self)


class Arrivals:
    """The long results that wait in their workers because memory is short.

    While results wait, the *first* one goes on although it is over the share of its
    account, as long as `has_room` is true of the whole: the one that has waited
    for longest, of those whose clients read what they get or for which other
    replies wait. A result that has waited for `WAIT` seconds, while its client has
    read nothing, is dropped. `begin_to_tick` is called whenever one begins to wait.
    """

    def __init__(self, has_room: Callable[[], bool], begin_to_tick: Callable[[], None]) -> None:
        self._has_room = has_room
        self._begin_to_tick = begin_to_tick
        self._waiting: dict[Arrival, None] = {}  # in the order of their waiting
        self._first: Arrival | None = None
        self._first_since: float | None = None

    def __len__(self) -> int:
        """Return how many results wait."""
        return len(self._waiting)

    def goes_on(self, arrival: Arrival) -> bool:
        """Return whether this is the first result, and there is room for it."""
        if arrival is not self._first:
            return False
        if self._has_room():
            return True
        self._first = self._first_since = None
        return False

    def wait(self, arrival: Arrival) -> None:
        """Note that a result waits in its worker."""
        self._begin_to_tick()
        self._waiting[arrival] = None

    def ended(self, arrival: Arrival) -> None:
        """Forget a result that has ended; another one may be the first now."""
        self._waiting.pop(arrival, None)
        if arrival is self._first:
            self._first = self._first_since = None
            self._choose_first()

    def client_reads(self, account: Account) -> None:
        """Let the results for this account wait for longer, since its client reads."""
        for arrival in self._waiting:
            if arrival.account is account:
                arrival.waits_since = None

    def release(self, account: Account) -> None:
        """Have the results for an account read on, whose owner is gone."""
        for arrival in [arrival for arrival in self._waiting if arrival.account is account]:
            self._go_on(arrival)

    def tick(self, now: float) -> None:
        """Let results go on for which there is room by now, and drop those that have waited in vain."""
        if self._first is not None:
            if self._first_since is None:
                self._first_since = now
            elif now - self._first_since >= WAIT:
                self._first = self._first_since = None  # its worker does not get on
        for arrival in list(self._waiting):
            if arrival not in self._waiting:
                continue  # it has ended by what another one did
            if arrival.account.may_reply:
                self._go_on(arrival)
            elif arrival.waits_since is None:
                arrival.waits_since = now
            elif now - arrival.waits_since >= WAIT:
                del self._waiting[arrival]
                arrival.drop()
        if self._first is None:
            self._choose_first()

    def _choose_first(self) -> None:
        if not self._has_room():
            return
        for arrival in self._waiting:
            if arrival.account.replies <= DRAINED or arrival.is_needed():
                self._first = arrival
                self._go_on(arrival)
                return

    def _go_on(self, arrival: Arrival) -> None:
        del self._waiting[arrival]
        arrival.waits_since = None
        arrival.go_on()
