"""The tokens that one connection of a Twisted program shows."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.tokens import Credentials, ShownToken
from taskd.errors import NotAllowed
from taskd.model import Failure

__all__ = ["TokenKeeper"]

_log = Logger(namespace="taskd.client")


class TokenKeeper:
    """Brings the first token of a connection, and has another shown before one expires.

    `show` is called with that. Call `stop` when the connection ends.
    """

    def __init__(self, clock: IReactorTime, credentials: Credentials, show: Callable[[str], object]) -> None:
        self.shown = ShownToken(
            is_renewable=credentials.is_renewable, accepted=self._schedule, judge=credentials.judge
        )
        self._clock = clock
        self._credentials = credentials
        self._show = show
        self._asking: Deferred[str] | None = None
        self._renewal: IDelayedCall | None = None
        self._is_stopped = False

    def first(self, connect: Callable[[str], object], denied: Callable[[Failure], object]) -> None:
        """Call `connect` with the first token, or `denied` if there is none; neither after `stop`."""

        def failed(reason: TwistedFailure) -> None:
            if not self._is_stopped:
                denied(Failure.of(_why(reason)))

        self._ask().addCallbacks(connect, failed).addErrback(_bug)

    def _ask(self) -> Deferred[str]:
        asking = self._asking = Deferred.fromCoroutine(self._credentials.awaited())
        return asking

    def _schedule(self) -> None:
        assert self.shown.renews_in is not None
        if not self._is_stopped:
            self._renewal = self._clock.callLater(self.shown.renews_in, self._renew)

    def _renew(self) -> None:
        self._renewal = None
        self._ask().addCallbacks(self._show, self._not_renewed).addErrback(_bug)

    def _not_renewed(self, reason: TwistedFailure) -> None:
        """Log that there is no token: the server closes the connection when the old one expires."""
        if not self._is_stopped:
            _log.warn("no new token: {why}", why=_why(reason).message)

    def stop(self) -> None:
        """Stop: the connection has ended."""
        self._is_stopped = True
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None


def _why(reason: TwistedFailure) -> NotAllowed:
    reason.trap(NotAllowed, CancelledError)
    error = reason.value
    return error if isinstance(error, NotAllowed) else NotAllowed("the connection was given up")


def _bug(reason: TwistedFailure) -> None:
    _log.failure("a bug in taskd", reason)
