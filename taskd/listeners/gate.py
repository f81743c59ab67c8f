"""The gate: asks every connection for a token, and holds its requests to what the token covers.

It is there only where tokens are configured. `Gate` knows the tokens and whoever has shown one:
it closes the connections whose tokens have expired or were revoked. A `GatedBackend`
stands in front of the backend of a listener, and passes on what is allowed. Whose tasks a request
may concern, and which role a method needs, is checked once more where the tasks are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.auth.caller import Caller, Verifier
from taskd.auth.policy import check_function, check_role, check_urgent
from taskd.auth.whoami import Whoami
from taskd.errors import InternalError, NotAllowed, TaskdError, TooLarge
from taskd.functions.wire_names import RESERVED
from taskd.listeners.covered_functions import asked_by
from taskd.listeners.front import Front
from taskd.listeners.peer import Peer
from taskd.listeners.rates import Rates
from taskd.listeners.wire import Backend, Work
from taskd.model import PRIORITY, Failure, Grant, Options, Result, SubmitOptions
from taskd.net.log_rate import RatedLog
from taskd.net.timers import Alarm
from taskd.protocol.method_names import AUTH, FUNCTIONS, RETRY, SUBMIT, SUBMIT_BATCH, WHOAMI
from taskd.protocol.methods import bound
from taskd.protocol.requests import Request
from taskd.scheduler.parties import Lane, Parties
from taskd.server.audit import Audit
from taskd.server.fixed_arguments import FindFunctions, fix_arguments, submit_parameters
from taskd.server.methods import Requester

__all__ = [
    "ENDING_SECONDS",
    "MESSAGE_WITHOUT_TOKEN",
    "MOST_REFUSED",
    "TOKEN_SECONDS",
    "Gate",
    "GatedBackend",
    "too_large_without_token",
]

_log = Logger(namespace="taskd.gate")

TOKEN_SECONDS = 10.0
"""Seconds in which a connection must have shown a token: a page gets one from its server in that time."""

ENDING_SECONDS = 30.0
"""Seconds in which the requests of a connection may end whose token has expired: as many as at a stop."""

MESSAGE_WITHOUT_TOKEN = 65536
"""Bytes of a message, LF included, on a connection that has shown no token yet: eight times the
longest token, and as much as one read brings. So little is held for strangers, however many there are."""

MOST_REFUSED = 3
"""Tokens of one connection that may be refused before it is closed: a program may have an old one and
one that was mistyped. Whoever guesses needs a connection for every three, and these are limited."""

LOOK_SECONDS = 60.0
"""Seconds after which the time of day is looked at again at the latest, since it may be set."""

LEAST_SECONDS = 0.25
"""Seconds between two looks at all connections, which take a tenth of a microsecond each. Requests are
held to the very moment at which a token expires."""


def no_token() -> NotAllowed:
    """Return the error for a request without a token."""
    return NotAllowed(f"a token is needed here: send it by {AUTH} first", reason="no token")


def expired() -> NotAllowed:
    """Return the error for a token that is not valid any more."""
    return NotAllowed("the token has expired: bring a new one", reason="expired")


def too_large_without_token(limit: int) -> TooLarge:
    """Return the error for a message of more than `limit` bytes on a connection that has shown no token."""
    return TooLarge(
        f"without a token a message has at most {limit} bytes: send one by {AUTH} first",
        limit=limit,
    )


def _too_many_refused() -> NotAllowed:
    return NotAllowed(
        f"{MOST_REFUSED} tokens of this connection were refused: open another one", reason="refused"
    )


class Gate:
    """The callers of one daemon: whoever has shown a token, on which connection.

    `now` returns the seconds since 1970, by which tokens expire.
    """

    def __init__(
        self,
        clock: IReactorTime,
        verifier: Verifier,
        *,
        now: Callable[[], float] = time.time,
        shared_priorities: bool = False,
        audit: Audit | None = None,
    ) -> None:
        self._clock = clock
        self._verifier = verifier
        self._now = now
        self.audit = audit
        """Where it is noted that connections were closed."""
        self._log = RatedLog(clock, _log)
        self.shared_priorities = shared_priorities
        """Whether urgent calls overtake everybody's, so that they are for operators."""
        self.rates = Rates()
        self._awaited: dict[Peer[Any], float] = {}  # until when, the first one first
        self._ending: dict[Peer[Any], float] = {}
        self._refused: dict[Peer[Any], int] = {}  # how many tokens of these have been refused
        self._callers: dict[Peer[Any], Caller] = {}
        self._expires = inf
        """When the first of these expires, or earlier, in seconds since 1970."""
        self._alarm = Alarm(clock, self._look)

    # --- tokens ---

    def verify(self, token: str, party: str) -> Caller:
        """Return whoever has shown a token. Raises `NotAllowed`, and logs that with the party."""
        try:
            return self._verifier.verify(token, self._now())
        except NotAllowed as error:
            why = error.data.get("reason", "refused")
            self._log.warn("refused", "a token of {party} was refused: {why}", party=party, why=why)
            raise

    def verify_shown(self, token: str, peer: Peer[Any]) -> Caller:
        """Return whoever has shown a token on an open connection. Raises `NotAllowed`.

        The connection is closed if too many have been refused; after that no other one is looked at.
        """
        most = 1 if peer.ends_with_token else MOST_REFUSED
        if self._refused.get(peer, 0) >= most:
            raise _too_many_refused()
        try:
            return self.verify(token, peer.party)
        except NotAllowed as error:
            refused = self._refused[peer] = self._refused.get(peer, 0) + 1
            if refused >= most:
                self.refuse(peer, error if peer.ends_with_token else _too_many_refused())
            raise

    def accepts(self, caller: Caller) -> bool:
        """Return whether a caller of `verify` would still be accepted."""
        return self._verifier.is_valid(caller, self._now())

    def note_refusal(self, peer: Peer[Any], error: NotAllowed) -> None:
        """Log that somebody who has shown a token has asked for what that does not allow."""
        if peer.caller is not None and error.data.get("reason") != "unknown":  # wrong tokens are logged above
            line = "a request of {owner} from {party} was refused: {why}"
            self._log.warn("not allowed", line, owner=peer.caller.grant.owner, party=peer.party, why=error)

    @property
    def now(self) -> float:
        """The seconds since 1970."""
        return self._now()

    # --- connections ---

    def await_token(self, peer: Peer[Any]) -> None:
        """Close a connection that shows no token in time, unless it is trusted for where it comes from."""
        until = self._clock.seconds() + TOKEN_SECONDS
        self._awaited[peer] = until
        self._alarm.set(until)

    def let_in(self, peer: Peer[Any], caller: Caller, parties: Parties) -> None:
        """Note whose a connection is: its tasks wait in a lane of its owner from now on.

        Raises `NotAllowed` if it has been another owner's.
        """
        before = peer.caller
        if before is not None and before.grant.owner != caller.grant.owner:
            raise NotAllowed(
                "this connection has shown a token of another owner: open another one", reason="owner"
            )
        self._awaited.pop(peer, None)
        peer.caller = caller
        if before is None:
            peer.lane = Lane(parties.of_owner(caller.grant), peer.lane.name)
        else:
            parties.of_owner(caller.grant)  # whose limits may have changed
        self._callers[peer] = caller
        if _expires(caller) < self._expires:
            self._expires = _expires(caller)
            self._await_expiry()

    def forget(self, peer: Peer[Any]) -> None:
        """Forget a connection that is gone."""
        self._awaited.pop(peer, None)
        self._ending.pop(peer, None)
        self._refused.pop(peer, None)
        self._callers.pop(peer, None)

    def tokens_changed(self) -> None:
        """Close the connections of tokens that were revoked."""
        now = self._now()
        error = NotAllowed("the token was revoked", reason="unknown")
        revoked: dict[str, list[Caller]] = {}
        for peer, caller in list(self._callers.items()):
            if not self._verifier.is_valid(caller, now):
                self.refuse(peer, error, at_once=True)
                revoked.setdefault(caller.name, []).append(caller)
        for name, callers in revoked.items():
            count = len(callers)
            _log.info("the token {name} was revoked: {count} connections closed", name=name, count=count)
            if self.audit is not None:
                self.audit.note(callers[0].grant, "revoked", count=count, text=name)

    def refuse(self, peer: Peer[Any], error: NotAllowed, *, at_once: bool = False) -> None:
        """Close a connection; its requests in flight get `ENDING_SECONDS`, or fail at once."""
        self._awaited.pop(peer, None)
        self._callers.pop(peer, None)
        if at_once:
            peer.caller = NOBODY
        try:
            peer.refuse(error)
            if not peer.session.in_flight:
                return
            if at_once:
                peer.give_up(Failure.of(error))
            else:
                self._ending[peer] = self._clock.seconds() + ENDING_SECONDS
                self._alarm.set(self._ending[peer])
        except Exception:
            _log.failure("a bug in taskd: a connection could not be refused")
            peer.abort()

    def _look(self) -> None:
        """Close the connections that are due, and look again when the next one is."""
        seconds, now = self._clock.seconds(), self._now()
        for peer in _due(self._awaited, seconds):
            if not peer.may_name_callers:
                why = f"no token was shown within {TOKEN_SECONDS:g} s"
                self.refuse(peer, NotAllowed(why, reason="no token"), at_once=True)
        for peer in _due(self._ending, seconds):
            if peer.session.in_flight:
                peer.give_up(Failure.of(expired()))
        if self._expires <= now:
            for peer in [peer for peer, caller in self._callers.items() if _expires(caller) <= now]:
                self.refuse(peer, expired())
            self._expires = max(min(map(_expires, self._callers.values()), default=inf), now + LEAST_SECONDS)
        for dues in (self._awaited, self._ending):
            if dues:
                self._alarm.set(next(iter(dues.values())))
        self._await_expiry()

    def _await_expiry(self) -> None:
        if self._expires < inf:
            self._alarm.set(self._clock.seconds() + min(self._expires - self._now(), LOOK_SECONDS))


def _due(dues: dict[Peer[Any], float], seconds: float) -> Iterator[Peer[Any]]:
    """Remove and yield the connections whose time has come; those that come first are the first."""
    while dues:
        peer, until = next(iter(dues.items()))
        if until > seconds:
            return
        del dues[peer]
        yield peer


def _expires(caller: Caller) -> float:
    return inf if caller.expires is None else caller.expires


NOBODY = Caller("", Grant(role="watch", functions=()), expires=-inf)
"""The caller of a connection whose token was revoked: its token has expired, and covers nothing."""


class GatedBackend(Front[Work]):
    """The backend of the connections that need a token. Implements `taskd.listeners.wire.Backend`.

    `functions` returns the functions of the backend, if it is the task server of this process: it
    then holds calls to the arguments that tokens fix. For others the task servers do that.
    """

    def __init__(self, gate: Gate, backend: Backend[Work], functions: FindFunctions | None = None) -> None:
        super().__init__(backend)
        self._gate = gate
        self._functions = functions

    def submit(self, requests: list[Request[Work]], requester: Requester) -> None:
        """Pass on what is allowed, and answer the rest."""
        assert isinstance(requester, Peer)
        now = self._gate.now
        allowed = []
        for request in requests:
            try:
                if not self._is_allowed(request, requester, now):
                    continue
                if request.function == FUNCTIONS:
                    self._backend.submit([request], asked_by(requester, request))
                else:
                    allowed.append(request)
            except TaskdError as error:
                if isinstance(error, NotAllowed):
                    self._gate.note_refusal(requester, error)
                requester.task_ended(request, Failure.of(error))
            except Exception:
                _log.failure("a bug in taskd")
                requester.task_ended(request, Failure.of(InternalError("a bug in taskd; see its log")))
        if allowed:
            self._backend.submit(allowed, requester)

    def _is_allowed(self, request: Request[Work], peer: Peer[Work], now: float) -> bool:
        """Return whether to pass on a request; False if it is answered. Raises `NotAllowed` or `Busy`."""
        function = request.function
        if function == AUTH:
            self._let_in(request, peer)
            return False
        caller = peer.caller
        if caller is None:
            self._check_trusted(request, peer)
            return True
        if caller.expires is not None and caller.expires <= now:
            raise expired()
        if function == WHOAMI:
            peer.task_ended(request, Result(Raw(msgspec.json.encode(Whoami.of(caller)))))
            return False
        options = request.options
        if caller.grant.has("operate"):
            _check_passed_on(options)
            _check_passes_on(caller.grant, options)
        self._check_options(caller, options.priority, options.owner)
        if not function.startswith(RESERVED):
            check_function(caller.grant, function)
            self._take(caller, 1, now)
        else:
            check_role(caller.grant, function)
            if function in (SUBMIT, SUBMIT_BATCH):
                self._check_submit(request, caller, now)
            elif function == RETRY:
                self._take(caller, 1, now)
        if caller.grant.args and self._functions is not None:
            fix_arguments(request, caller.grant.args, self._functions)
        return True

    def _let_in(self, request: Request[Work], peer: Peer[Work]) -> None:
        """Take a token, and answer with what it is good for."""
        if request.options.caller is not None:
            raise NotAllowed(f"{AUTH}: a gateway shows its own token, and passes on none", reason="role")
        args, named = bound(request)
        (token,) = (*args, *named.values())
        caller = self._gate.verify_shown(token, peer)
        self._gate.let_in(peer, caller, self.parties)
        peer.task_ended(request, Result(Raw(msgspec.json.encode(Whoami.of(caller)))))

    @staticmethod
    def _check_trusted(request: Request[Work], peer: Peer[Work]) -> None:
        """Let a connection pass that is trusted for where it comes from; not for those who show no token."""
        if not peer.may_name_callers:
            raise no_token()
        _check_passed_on(request.options)

    def _check_options(self, caller: Caller, priority: int, owner: str | None) -> None:
        if caller.grant.has("operate"):
            return
        if owner is not None and owner != caller.grant.owner:
            raise NotAllowed(
                "options.owner: to speak for others needs a token with the role operate", reason="role"
            )
        if priority < PRIORITY and self._gate.shared_priorities:
            check_urgent(caller.grant)

    def _check_submit(self, request: Request[Work], caller: Caller, now: float) -> None:
        args, named = bound(request)
        parameters = submit_parameters(request.function, args, named)
        check_function(caller.grant, parameters["function"])
        then = parameters.get("then")
        if then is not None:
            check_function(caller.grant, then)
        options: SubmitOptions | None = parameters.get("options")
        if options is not None:
            self._check_options(caller, options.priority, options.owner)
        self._take(caller, len(parameters["args"]) if request.function == SUBMIT_BATCH else 1, now)

    def _take(self, caller: Caller, count: int, now: float) -> None:
        if caller.rate is not None:
            self._gate.rates.take(caller.grant.owner, caller.rate, count, now)


def _check_passed_on(options: Options) -> None:
    """Raise `NotAllowed` for a call that a gateway passes on which has asked its caller for no token."""
    if options.caller is not None and options.grant is None:
        raise NotAllowed(
            "a token is needed here, and the gateway that has passed this on asks for none: "
            "give it the same tokens",
            reason="no token",
        )


def _check_passes_on(grant: Grant, options: Options) -> None:
    """Raise `NotAllowed` if an operator who is held to some functions or arguments names another's rights.

    These would take the place of its own.
    """
    if options.grant is not None and grant.is_narrow:
        raise NotAllowed(
            "options.grant: to pass on what others may do needs a token that covers every function and fixes "
            "no arguments",
            reason="function",
        )
