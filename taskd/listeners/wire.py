"""The two sides that a peer connects: its connection, the *wire*, and the *backend*, which does the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from taskd.errors import Busy, NotAllowed
from taskd.net.backpressure import MAX_UNSENT, STALL_GRACE
from taskd.protocol.requests import Request
from taskd.scheduler.budget import Account, Budget
from taskd.scheduler.parties import Parties
from taskd.server.methods import Requester
from taskd.server.unanswered import Unanswered

__all__ = ["NO_WIRE", "Backend", "UnsentLimits", "Wire", "Work"]

Work = TypeVar("Work")


class Backend(Protocol[Work]):
    """The receiver of requests, which does the work: a task server, or a link to others."""

    def submit(self, requests: list[Request[Work]], requester: Requester, /) -> None:
        """Begin with requests, and set each one's `work`.

        Each request is answered exactly once, by `Requester.task_ended`. If that
        happens before this returns, the requester is not flushed.
        """

    def cancel(self, work: Work, /) -> None:
        """Stop work, whose request is answered when the work has ended."""

    def detach(self, work: Work, account: Account | None = None, held: int = 0, /) -> None:
        """Let work go on without a reply; when it ends, release `held` bytes of an account."""

    def resume(self, requester: Requester, /) -> None:
        """Let the throttled work of a requester start: it was full and reads again, or is gone."""

    def read_again(self, requester: Requester, /) -> None:
        """Push events again to a requester that watches tasks, and was slow to read."""

    def gone(self, requester: Requester, /) -> None:
        """Push no more events to a requester that watched tasks: its connection is lost."""

    @property
    def parties(self) -> Parties:
        """The parties that connections to this backend belong to."""

    @property
    def unanswered(self) -> Unanswered:
        """Where failures without a reply are counted."""

    @property
    def copies(self) -> int:
        """How often the backend and the session together hold a request in flight."""

    @property
    def budget(self) -> Budget:
        """Where the bytes are counted that are held for connections."""


class Wire(Protocol):
    """The connection of a peer."""

    @property
    def may_name_callers(self) -> bool:
        """Whether the other end may name the callers whose requests it passes on."""

    def framed(self, messages: list[bytes], /) -> list[bytes]:
        """Return the bytes that carry these messages, in pieces that may be sent separately."""

    def pause_reading(self) -> None:
        """Read no more for a while."""

    def resume_reading(self) -> None:
        """Read on."""

    def finish(self) -> None:
        """Send everything, then close: every request has been answered, and no more can come."""

    def refuse_unfinished(self, error: Busy, /) -> None:
        """Drop the message that is being received, send `error` behind what is owed, and close."""

    def probe(self) -> None:
        """Send something that means nothing, if the framing has such a thing and it can be sent now."""

    @property
    def ends_with_token(self) -> bool:
        """Whether a token that is refused ends the connection: a page learns by the close what to do."""

    def refuse(self, error: NotAllowed, /) -> None:
        """Close after what is owed, since the caller's token is not accepted, or not any more."""

    def close(self) -> None:
        """Close in order, after everything that is owed."""

    def abort(self) -> None:
        """Close at once."""


@dataclass(frozen=True, slots=True)
class UnsentLimits:
    """The limits on unread replies: `max_unsent` bytes, and `stall_grace` seconds without progress."""

    max_unsent: int = MAX_UNSENT
    stall_grace: float = STALL_GRACE


class _NoWire:
    """The wire of a peer whose connection is gone."""

    may_name_callers = ends_with_token = False

    def framed(self, messages: list[bytes]) -> list[bytes]:
        """Drop the messages."""
        return []

    def pause_reading(self) -> None:
        """Do nothing."""

    resume_reading = finish = probe = close = abort = pause_reading

    def refuse_unfinished(self, error: Busy) -> None:
        """Do nothing."""

    def refuse(self, error: NotAllowed) -> None:
        """Do nothing."""


NO_WIRE: Wire = _NoWire()
"""The wire of a peer whose connection is gone, which breaks a reference cycle."""
