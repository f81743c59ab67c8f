"""The part of a peer that counts what is held for its connection, in the byte budget."""

from __future__ import annotations

from typing import Generic

from taskd.errors import Busy
from taskd.listeners.no_room import MESSAGE_RETRY_AFTER, REST_OF_MESSAGE
from taskd.listeners.wire import Backend, Wire, Work
from taskd.net.backpressure import ReplySender
from taskd.protocol.requests import Request
from taskd.protocol.session import SHORT, Session
from taskd.scheduler.budget import Account
from taskd.scheduler.parties import Lane

__all__ = ["FEW", "LIGHT", "BudgetedPeer"]

FEW = 32
"""Requests in flight up to which a connection needs no account: all of their bytes are few."""

LIGHT = FEW * SHORT // 2
"""Bytes up to which a connection needs no account."""


class BudgetedPeer(Generic[Work]):
    """The base of `taskd.listeners.peer.Peer`. Implements `taskd.scheduler.budget.Holder`."""

    __slots__ = (
        "_account",
        "_backend",
        "_is_gone",
        "_may_receive",
        "_may_reply",
        "_wire",
        "is_full",
        "lane",
        "sender",
        "session",
        "unfinished",
    )

    # An account costs more than the few bytes that most connections ever hold.
    _account: Account | None
    _backend: Backend[Work]
    _is_gone: bool
    _may_receive: bool
    _may_reply: bool
    _wire: Wire
    is_full: bool
    lane: Lane
    sender: ReplySender
    session: Session[Work]
    unfinished: int

    def _send(self, messages: list[bytes]) -> None:
        raise NotImplementedError

    def _check_full(self) -> None:
        raise NotImplementedError

    def message_grows(self, unfinished: int, is_new: bool) -> None:  # noqa: FBT001
        """Note how many bytes of an incomplete message are held, and whether others are complete."""
        self.unfinished = unfinished
        if is_new:
            if self._account is not None:
                self._account.message_completed()
            return  # the messages follow, and are counted together with the rest
        if unfinished > LIGHT or self._account is not None:
            self.budget_changed()

    def _count(self) -> None:
        """Count what is held for this connection, and whether it may receive and reply."""
        session = self.session
        # What the transport keeps of a peer that is not congested is little, and its end is not reported.
        unsent = self.sender.unsent if self.sender.congested else 0
        account = self._account
        held = session.held + unsent + self.unfinished
        if account is None:
            if held <= LIGHT:
                return
            account = self._open_account()
        replies = session.owed + unsent
        if held <= LIGHT // 2 and not account.arriving:
            account.close()
            self._account = None
            self._may_receive = self._may_reply = True
        else:
            account.update(held, replies, self.unfinished, is_working=session.outstanding > 0)
            self._may_receive, self._may_reply = account.may_receive, account.may_reply
            if not (self._may_receive and self._may_reply):
                account.wait()
        if not self._may_reply or self.is_full:
            self._check_full()

    def budget_changed(self) -> None:
        """Look again at what this connection may do."""
        if not self._is_gone:
            if self._account is None:
                self._count()
            self._send([])

    def refuse_unfinished(self, why: str = REST_OF_MESSAGE) -> None:
        """Answer that there is no room for the message that is being received, and close after that."""
        self.unfinished = 0
        if not self.session.refuses_rest:
            self._wire.refuse_unfinished(Busy(why, retry_after=MESSAGE_RETRY_AFTER))

    def needs(self, key: Request[Work]) -> bool:
        """Return whether a task must be started although this peer is full: replies wait for its own."""
        return not self.sender.full and self.session.needs(key)

    def account(self) -> Account:
        """Return the account of this connection, opened if need be."""
        return self._account or self._open_account()

    def _open_account(self) -> Account:
        account = self._account = self._backend.budget.account(self.lane.party.key, self)
        return account

    def _heir(self) -> Account | None:
        """Return an account for the tasks that go on; None if they are few and have no long arguments."""
        session = self.session
        if not session.large and len(session.in_flight) <= FEW:
            return None
        heir = self._backend.budget.account(self.lane.party.key, None)
        heir.update(SHORT * len(session.in_flight) + session.large)
        return heir

    def wants_result(self, key: Request[Work], size: int) -> bool:
        """Return whether a result that has `size` bytes so far can still be sent."""
        return not self._is_gone and self.session.has_room(key, size)
