"""The end of a gateway's websocket: its client's close, a stop, or a message that is refused.

Whoever sees a websocket fail for a message that cannot be read has still asked
for what came before. So the close frame follows the last reply; then the
connection is closed, without waiting for a close frame that cannot be read.
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure as TwistedFailure

from taskd.auth.caller import EXPIRED, REFUSED
from taskd.errors import Busy, InvalidRequest, NotAllowed, ParseError, ShuttingDown, TooLarge
from taskd.listeners.websocket_pings import PingedProtocol
from taskd.model import Failure
from taskd.net.time_limits import CLOSING_SECONDS
from taskd.net.websocket_fastpath import TOO_BIG

__all__ = ["MAX_REASON", "REFUSED_GRACE", "ClosingProtocol", "close_code"]

UNSUPPORTED_DATA, GOING_AWAY, BAD_DATA = 1003, 1001, 1007  # RFC 6455, 7.4.1

TRY_AGAIN_LATER = 1013  # IANA's registry of close codes

MAX_REASON = 123
"""Bytes of the reason in a close frame (RFC 6455, 5.5)."""

_REFUSED = {
    UNSUPPORTED_DATA: InvalidRequest("a binary message on a websocket"),
    BAD_DATA: ParseError("a message on a websocket is not UTF-8"),
    TOO_BIG: TooLarge("a message on a websocket is over the limit"),
}
"""The messages that are answered only by a close, by its code."""

REFUSED_GRACE = 30.0
"""Seconds that the tasks of a websocket have to end that is closed for a message which cannot be
read: as many as at a stop, by default."""

_GIVEN_UP = Failure.of(ShuttingDown("the websocket was closed before the task had ended"))


def close_code(error: NotAllowed) -> int:
    """Return the code with which a websocket is closed whose token is not accepted."""
    return EXPIRED if error.data.get("reason") == "expired" else REFUSED


class ClosingProtocol(PingedProtocol):
    """A websocket that ends in order: with the methods of `taskd.listeners.wire.Wire` for that."""

    _close_due: tuple[int | None, bytes | None] | None = None
    """The close frame that follows when everything that was asked is answered."""
    _giving_up: IDelayedCall | None = None
    _closing: IDelayedCall | None = None

    # --- what ends it ---

    def binary_received(self) -> None:
        """Refuse a binary message."""
        self.sendCloseFrame(UNSUPPORTED_DATA, b"messages are text")

    def finish(self) -> None:
        """Send the close frame that is due, since everything has been answered and sent.

        After a refusal nothing that the client sends can be read, not even its
        own close frame.
        """
        if self._close_due is None or self.state != self.STATE_OPEN:
            return
        code, reason = self._close_due
        super().sendCloseFrame(code, reason)
        if self.ignores_input:
            self.wasClean = True  # or Autobahn would log a warning
            self.dropConnection()

    def refuse_unfinished(self, error: Busy) -> None:
        """Close, since there is no room for the message that is being received."""
        self.sendCloseFrame(TRY_AGAIN_LATER, error.message.encode()[:MAX_REASON])

    ends_with_token = True
    """A page learns by the close that it should bring another token."""

    def refuse(self, error: NotAllowed) -> None:
        """Close, since the caller's token is not accepted, or not any more."""
        self.sendCloseFrame(close_code(error), error.message.encode()[:MAX_REASON])

    def close(self) -> None:
        """Close after what has been answered, since the gateway shuts down."""
        if self.client is not None and self._close_due is None:
            self._close_due = GOING_AWAY, b"shutting down"
            self.client.session.end_of_input()
            self.client.flush()

    def abort(self) -> None:
        """Reset the connection."""
        self.transport.abortConnection()

    def sendCloseFrame(  # noqa: N802  # Autobahn's names
        self,
        code: int | None = None,
        reasonUtf8: bytes | None = None,  # noqa: N803
        isReply: bool = False,  # noqa: FBT001, FBT002, N803
    ) -> None:
        """Answer a client's close frame; or refuse what cannot be read, after all that came before."""
        if isReply or self.client is None or self.state != self.STATE_OPEN:
            super().sendCloseFrame(code, reasonUtf8, isReply)
        elif self._close_due is None:
            self._close_due = code, reasonUtf8
            self.answer_pings_now()
            self.ignores_input = True
            refused = _REFUSED.get(code or 0)
            if refused is not None:
                self.factory.backend.unanswered.notification_ended("", Failure.of(refused))
            self._giving_up = self.factory.clock.callLater(REFUSED_GRACE, self._give_up)
            self.client.refuse_rest()

    def onCloseFrame(self, code: int, reasonRaw: bytes) -> bool | None:  # noqa: N803
        """Take a client's close frame, unless it is behind something that was refused."""
        if self.ignores_input:
            return None
        return super().onCloseFrame(code, reasonRaw)

    def _give_up(self) -> None:
        self._giving_up = None
        if self.client is not None:
            self.client.give_up(_GIVEN_UP)
        if self.state == self.STATE_OPEN:  # the client does not read its replies
            self.abort()

    def dropConnection(self, abort: bool = False) -> None:  # noqa: FBT001, FBT002, N802
        """Close the connection, or reset it; in any case it ends within `CLOSING_SECONDS`.

        After a close frame it is closed in order: what was sent before that still arrives.
        """
        resets = abort and self.state != self.STATE_CLOSING
        super().dropConnection(resets)
        if not resets and self._closing is None and self.transport is not None:
            self._closing = self.factory.clock.callLater(CLOSING_SECONDS, self._reset)

    def _reset(self) -> None:
        self._closing = None
        self.transport.abortConnection()

    def connectionLost(self, reason: TwistedFailure) -> None:  # type: ignore[override]
        """Stop waiting for the end, which has come, and break the reference cycles of what is left."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        super().connectionLost(reason)
        self.is_open = self.is_closed = None  # Deferreds whose result is this websocket
        reason.cleanFailure()  # one of TLS has frames, which refer to it and to the transport
