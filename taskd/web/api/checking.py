"""The check of a body's text, in turns with others if it is long."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from taskd.errors import InternalError, ParseError
from taskd.net.turns import Turns
from taskd.protocol.backlog import STEP
from taskd.protocol.long_text import LongText, check_text

__all__ = ["checked"]


def checked(text: bytes, turns: Turns, party: str) -> Deferred[None]:
    """Check that a text is UTF-8, and not nested too deeply. The Deferred fails with `ParseError`."""
    if len(text) <= STEP:
        check_text(text)
        return succeed(None)
    check = _Check(text, party)
    turns.ask(check)
    return check.done


class _Check:
    """The check of one long text. Implements `taskd.net.turns.TurnTaker`."""

    def __init__(self, text: bytes, party: str) -> None:
        self.party = party
        self.done: Deferred[None] = Deferred(self._cancelled)
        self._text = LongText(text)
        self._is_cancelled = False

    def _cancelled(self, _: Deferred[None]) -> None:
        self._is_cancelled = True

    def take_step(self) -> bool:
        """Check a slice; return whether there is more."""
        if self._is_cancelled:
            return False
        try:
            if not self._text.check(STEP):
                return True
        except ParseError as error:
            self.done.errback(error)
            return False
        self.done.callback(None)
        return False

    def hold(self) -> None:
        """Do nothing: there is no other work."""

    def abort(self) -> None:
        """Fail, since there is a bug."""
        if not self.done.called:
            self.done.errback(InternalError("a bug in taskd; see the gateway's log"))
