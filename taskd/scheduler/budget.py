"""The byte budget: what the daemon holds for its connections, and how much of it each may have.

A connection's *account* has the bytes that are held for it, wherever they are:
unfinished messages, arguments, results that wait for others, unsent replies.
Accounts are grouped by *party*, the address that they belong to. The rules:

- a party may hold as much as is free, and a connection a quarter of what its
  party may still take, as buffers are shared in network switches. So what is
  free shrinks with each holder, but never to nothing: a newcomer finds room
  for a small message, whether one connection or a thousand hold all they can;
- a connection over its share is not read from. If its replies alone are over
  its share, its tasks are not started either. Arguments do not stop tasks,
  whose ends alone release them;
- every connection may hold `GUARANTEED` bytes, whatever the others hold;
- a message of the greatest length gets through in the end: connections that
  wait in the middle of one get *slots* in turn, with which they may exceed
  their share until that message is complete, out of a part that is not shared;
- of the long results that wait in workers, one goes on in any case, as long as the whole
  is not spent (`taskd.scheduler.arrivals`);
- whoever waits in vain is refused after a time, so that nothing waits for ever.

Knows no clock: `tick` must be called every `TICK` seconds while it `needs_ticks`.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import nlargest
from typing import Protocol

from taskd.model import MAX_MESSAGE
from taskd.scheduler.arrivals import DRAINED, Arrival, Arrivals

__all__ = ["MAX_BUFFERED", "MIN_MESSAGES", "TICK", "Account", "Budget", "Holder", "least_limit"]

MAX_BUFFERED = 256 * 1024 * 1024
"""Bytes held for all connections together: 25 of the longest messages, on a machine with little memory."""

MIN_MESSAGES = 10
"""Longest messages that the budget must hold: with fewer, a connection that has the daemon
for itself would be over its share before one message of this length is complete."""

MIN_BUFFERED = 16 * 1024 * 1024
"""Bytes of the smallest budget: a thousand connections with their `GUARANTEED` bytes."""

RESERVED = 8
"""One part in so many of the budget is not shared out: reads in progress exceed shares a little."""

FOR_SLOTS = 4
"""One part in so many of the rest is for slots, but at least one of the longest messages."""

SHARES = 4
"""A connection may hold one part in so many of what its party may still take."""

GUARANTEED = DRAINED
"""Bytes that a connection may hold whatever the others hold: more than most messages take."""

STUCK_SECONDS = 10.0
"""Seconds that a connection may have to wait in the middle of a message, without getting on, before
that is refused."""

STEPS = 16
"""A connection gets on if it has received one part in so many of the longest message."""

SLOT_SECONDS = 60.0
"""Seconds for which a connection has a slot while others wait for one: 10 MiB at 1.4 Mbit/s."""

TICK = 0.05
"""Seconds between two looks at those who wait: unnoticed by people, and costs a thousand waiting
connections 2 % of a processor."""

SHOWN = 10
"""Accounts that `Budget.biggest` returns: enough to find who fills the memory."""


def least_limit(longest: int) -> int:
    """Return the smallest budget for messages of up to `longest` bytes."""
    return max(MIN_MESSAGES * longest, MIN_BUFFERED)


class Holder(Protocol):
    """The owner of an account: a connection."""

    def budget_changed(self) -> None:
        """Look again at what the account may do: read, and have tasks started."""

    def refuse_unfinished(self) -> None:
        """Refuse the message that is being received, and whatever follows: there is no room for it."""


class PartyUse:
    """The bytes held for one party, and the number of its accounts."""

    __slots__ = ("accounts", "held", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.held = 0
        self.accounts = 0


class Account:
    """The bytes held for one connection. `Budget.account` makes it, `close` ends it.

    Of `held` bytes, `replies` go to the client, and `unfinished` are of a message
    that is not complete. `is_working` says that the connection's own tasks will
    release bytes. The bytes of long results that arrive are counted apart.
    """

    __slots__ = (
        "_budget",
        "_completes",
        "_holder",
        "arriving",
        "extra",
        "held",
        "is_working",
        "party",
        "replies",
        "stuck_at",
        "stuck_for",
        "unfinished",
    )

    def __init__(self, budget: Budget, party: PartyUse, holder: Holder | None) -> None:
        self._budget = budget
        self._holder = holder
        self.party = party
        self.held = self.replies = self.unfinished = self.arriving = 0
        self.extra = 0
        """What is held of messages that were received with a slot: it counts for no share."""
        self.is_working = False
        self._completes = False
        self.stuck_for = self.stuck_at = 0
        """For how many ticks the connection had to wait in its message without getting on, and where."""

    @property
    def share(self) -> int:
        """The bytes that this connection may hold now. It may be negative."""
        budget = self._budget
        return (budget.shared - budget.held + budget.extra - self.party.held) // SHARES

    @property
    def may_receive(self) -> bool:
        """Whether more may be read from the connection."""
        held = self.held + self.arriving - self.extra
        return held <= GUARANTEED or held < self.share or self._budget.has_slot(self)

    @property
    def may_reply(self) -> bool:
        """Whether the connection's tasks may be started: what it is owed is within its share."""
        replies = self.replies + self.arriving
        return replies <= GUARANTEED or replies < self.share

    def update(self, held: int, replies: int = 0, unfinished: int = 0, *, is_working: bool = False) -> None:
        """Set what is held for the connection."""
        if replies < self.replies:
            self._budget.arrivals.client_reads(self)
        change = held - self.held
        self._budget.moved(self, change)
        if change > 0 and self._budget.has_slot(self):
            self._set_extra(self.extra + change)
        elif self.extra > held:
            self._set_extra(held)
        self.held, self.replies, self.unfinished = held, replies, unfinished
        self.is_working = is_working
        if self._completes or not unfinished:
            self._completes = False
            self.stuck_for = self.stuck_at = 0
            self._budget.give_back_slot(self)

    def _set_extra(self, extra: int) -> None:
        self._budget.extra += extra - self.extra
        self.extra = extra

    def message_completed(self) -> None:
        """Give back the slot, which was for one message, with the next `update`, which counts the message."""
        self._completes = True

    def release(self, count: int) -> None:
        """Release bytes of an account without owner, and the account with the last of them."""
        left = max(self.held - count, 0)
        self.update(left)
        if not left:
            self.close()

    def expect(self, count: int) -> None:
        """Count bytes of a long result that arrives."""
        self.arriving += count
        self._budget.moved(self, count)

    def wait(self) -> None:
        """Have the owner's `budget_changed` called when the account may do more than now."""
        self._budget.wait(self)

    def arrival(
        self, go_on: Callable[[], None], drop: Callable[[], None], is_needed: Callable[[], bool]
    ) -> Arrival:
        """Begin to count a long result that arrives from a worker."""
        return Arrival(self._budget.arrivals, self, go_on, drop, is_needed)

    def look(self) -> None:
        """Have the owner look again."""
        if self._holder is not None:
            self._holder.budget_changed()

    def refuse(self) -> None:
        """Have the owner refuse the message that it cannot finish."""
        if self._holder is not None:
            self._holder.refuse_unfinished()

    def close(self) -> None:
        """Release everything."""
        self.update(0)
        self._holder = None
        self._budget.closed(self)


class Budget:
    """The bytes that may be held for all connections together: `limit`, and `held`.

    `longest` is the length of the longest message. `begin_to_tick` is called
    whenever `needs_ticks` becomes true, and maybe more often.
    """

    def __init__(self, limit: int = MAX_BUFFERED, longest: int = MAX_MESSAGE) -> None:
        self.limit = limit
        usable = limit - limit // RESERVED
        self._for_slots = max(usable // FOR_SLOTS, longest)
        self.shared = usable - self._for_slots
        """The bytes that are shared out."""
        self.held = 0
        self.is_spent = False
        """Whether the whole budget is spent, so that new work must be refused."""
        self.extra = 0
        """What is held of messages that were received with a slot."""
        self.begin_to_tick: Callable[[], None] = _do_nothing
        self.on_scarcity: list[Callable[[], None]] = []
        """Called whenever `is_scarce` has changed."""
        self.is_scarce = False
        """Whether most is spent, so that connections should be read from in small pieces."""
        self._longest = longest
        self.peak = 0
        """The most that was held since freed memory was given back."""
        self._much = limit // RESERVED
        self._little, self._plenty = limit // 2, limit // 2 - limit // 8
        self._slots: dict[Account, float | None] = {}  # since when, by the first tick after that
        self._parties: dict[str, PartyUse] = {}
        self._accounts: dict[Account, None] = {}
        self._waiting: dict[Account, tuple[bool, bool]] = {}  # each with its rights, in the order of waiting
        self.arrivals = Arrivals(lambda: self.held < self.limit, lambda: self.begin_to_tick())

    @property
    def is_waited_for(self) -> bool:
        """Whether anybody waits for room."""
        return bool(self._waiting or self.arrivals)

    @property
    def has_freed_much(self) -> bool:
        """Whether so much less is held than at the `peak` that the difference should be given back."""
        freed = self.peak - self.held
        return freed > self._much or (freed > self._much // 2 and self.held < self._much // 2)

    @property
    def needs_ticks(self) -> bool:
        """Whether `tick` must be called: somebody waits, or much is held or was."""
        return self.is_waited_for or self.peak > self._much

    @property
    def waiting(self) -> int:
        """How many connections and results wait for room."""
        return len(self._waiting) + len(self.arrivals)

    def account(self, party: str, holder: Holder | None) -> Account:
        """Open an account for a connection of this party; None for the holder means that it is gone."""
        use = self._parties.get(party)
        if use is None:
            use = self._parties[party] = PartyUse(party)
        use.accounts += 1
        account = Account(self, use, holder)
        self._accounts[account] = None
        return account

    def biggest(self, count: int = SHOWN) -> list[tuple[str, int, int]]:
        """Return the parties that hold most: their names, their bytes, and their accounts."""
        most = nlargest(count, self._parties.values(), key=lambda use: use.held)
        return [(use.name, use.held, use.accounts) for use in most if use.held]

    # --- called by accounts ---

    def moved(self, account: Account, change: int) -> None:
        """Count a change of what an account holds."""
        account.party.held += change
        self.count(change)

    def count(self, change: int) -> None:
        """Count a change of what is held, maybe outside of accounts."""
        self.held += change
        self.is_spent = self.held > self.limit
        if self.held > self.peak:
            self.peak = self.held
            if self.held > self._much:
                self.begin_to_tick()
        if self.is_scarce is not (self.held > (self._plenty if self.is_scarce else self._little)):
            self.is_scarce = not self.is_scarce
            for call in self.on_scarcity:
                call()

    def has_slot(self, account: Account) -> bool:
        """Return whether the account may exceed its share until its message is complete."""
        return account in self._slots and account.unfinished <= self._longest

    def give_back_slot(self, account: Account) -> None:
        """Free the slot of an account that has one."""
        if self._slots:
            self._slots.pop(account, None)

    def wait(self, account: Account) -> None:
        """Note that an account waits, with its present rights."""
        self.begin_to_tick()
        self._waiting[account] = (account.may_receive, account.may_reply)

    def forget(self, account: Account) -> None:
        """Note that an account waits no longer, since its owner is gone."""
        self._waiting.pop(account, None)
        self.give_back_slot(account)
        self.arrivals.release(account)

    def closed(self, account: Account) -> None:
        """Forget an account, which holds nothing."""
        self.forget(account)
        if account in self._accounts:
            del self._accounts[account]
            account.party.accounts -= 1
            if not account.party.accounts:
                del self._parties[account.party.name]

    # --- those who wait ---

    def tick(self, now: float) -> None:
        """Let those go on for whom there is room by now, and refuse those who have waited in vain."""
        self._share_slots(now)
        for account, allowed in list(self._waiting.items()):
            if account not in self._waiting:
                continue  # closed by what another one did
            if (account.may_receive, account.may_reply) != allowed:
                del self._waiting[account]
                account.look()
            elif account.unfinished and not account.is_working and not account.may_receive:
                self._check_stuck(account)
        self.arrivals.tick(now)

    def _check_stuck(self, account: Account) -> None:
        if account.unfinished - account.stuck_at >= self._longest // STEPS:
            account.stuck_at, account.stuck_for = account.unfinished, 0
        account.stuck_for += 1
        if account.stuck_for * TICK >= STUCK_SECONDS:
            self.forget(account)
            account.refuse()

    def _share_slots(self, now: float) -> None:
        """Give slots to those who have waited for longest in the middle of a message."""
        candidates = [account for account in self._waiting if account.unfinished and not account.may_receive]
        for account, since in list(self._slots.items()):
            if since is None:
                self._slots[account] = now
            elif candidates and now - since >= SLOT_SECONDS:
                del self._slots[account]
                account.look()
        taken = self.extra + sum(self._longest - account.unfinished for account in self._slots)
        for account in candidates:
            taken += self._longest - account.unfinished
            if taken > self._for_slots:
                return
            if account.unfinished < self._longest:
                self._slots[account] = None


def _do_nothing() -> None:
    """Do nothing, in place of a hook that nobody has set."""
