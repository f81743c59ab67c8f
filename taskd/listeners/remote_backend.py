"""The backend of a gateway whose task servers are elsewhere: requests go there, and outcomes come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.auth.whoami import Whoami
from taskd.client.balanced import BalancedLink
from taskd.client.link import ENVELOPE, Link, PendingCall
from taskd.client.per_call import PerCallLink
from taskd.client.pooled import PooledLink
from taskd.client.slots import ConnectionSlots
from taskd.errors import InternalError, ShuttingDown, TaskdError, TooLarge, quoted
from taskd.listeners.readiness import RemoteReadiness
from taskd.listeners.remote_events import RemoteEvents
from taskd.listeners.reply_meter import ReplyMeter
from taskd.listeners.server_credentials import server_credentials
from taskd.model import NO_OPTIONS, Call, Failure, Options, Outcome, Progress, Result
from taskd.net.buffered_socket import READ_SIZE
from taskd.net.reactor import Reactor
from taskd.net.timers import TurnEnd
from taskd.net.tls_port import RenewableCertificates
from taskd.protocol.method_names import ATTACH, AUTH, CANCEL, DETACH, WHOAMI
from taskd.protocol.methods import bound, cancel_target
from taskd.protocol.requests import Request
from taskd.scheduler.arrivals import NO_ROOM
from taskd.scheduler.budget import Account, Budget
from taskd.scheduler.parties import Parties
from taskd.server.failures import no_memory
from taskd.server.methods import Requester, granted
from taskd.server.unanswered import Unanswered

if TYPE_CHECKING:
    from taskd.listeners.gateway import GatewayConfig

__all__ = ["RemoteBackend"]

_log = Logger(namespace="taskd.gateway")

ENVELOPE_ROOM = 256
"""The part of them for the rest of the envelope: the id that a link gives, and the names of the members."""

SHARED = "task servers"
"""The party of the shared connections to task servers, in the byte budget."""

CALLER_ROOM = 1024
"""Bytes that a call must leave to the longest message, so that its caller can be added: the rest
of the envelope and the other options need a part of them. A longer call is refused, since a task
server would take it for the gateway's own."""


class RemoteBackend:
    """The backend that sends requests to task servers. Implements `taskd.listeners.wire.Backend`.

    If its callers have shown tokens (`has_tokens`), it passes on what these grant.
    """

    copies = 2
    """A request is kept by its session, and as a line by the link."""

    def __init__(
        self,
        reactor: Reactor,
        config: GatewayConfig,
        unanswered: Unanswered,
        budget: Budget,
        *,
        has_tokens: bool = False,
    ) -> None:
        self._has_tokens = has_tokens
        self.unanswered = unanswered
        self.budget = budget
        self.parties = Parties()
        self._reactor = reactor
        self._config = config
        self._has_connection_each = config.link == "per-message"
        self._shared_account = budget.account(SHARED, _Unmoved())
        self.certificates: list[RenewableCertificates] = []
        """The certificates of the links to task servers by TLS."""
        self._credentials = (
            server_credentials(reactor, config.server_token, passes_on=has_tokens)
            if config.server_token is not None
            else None
        )
        self._slots = ConnectionSlots(config.max_connections)
        self._events = RemoteEvents(
            reactor,
            config.task_servers,
            config.max_message + ENVELOPE,
            config.own_ends,
            has_tokens=has_tokens,
            credentials=self._credentials,
        )
        self._status_links: dict[str, Link] = {}
        self._link = BalancedLink(reactor, config.task_servers, self._link_to)
        self.readiness = RemoteReadiness(reactor, self._status_links)
        """Whether a task server would take a task now."""
        self._turn_end = TurnEnd(reactor)
        self._to_flush: dict[Requester, None] = {}
        self._end_with_caller: set[PendingCall] = set()
        self._is_stopping = False

    def _link_to(self, server: str) -> Link:
        max_message = self._config.max_message
        max_reply = max_message + ENVELOPE
        own_ends = self._config.own_ends
        # Health checks have links of their own: they must not wait behind calls.
        credentials = self._credentials
        status = PerCallLink(self._reactor, server, max_reply, own_ends=own_ends, credentials=credentials)
        self._status_links[server] = status
        link: PerCallLink | PooledLink
        if self._has_connection_each:
            link = PerCallLink(
                self._reactor, server, max_reply, self._slots, own_ends, credentials=credentials
            )
        else:
            link = PooledLink(
                self._reactor,
                server,
                max_reply,
                self._slots,
                own_ends,
                alone=max_message // 10,
                meters=lambda: ReplyMeter(_Shared(self._shared_account)),
                credentials=credentials,
            )
        if server.lower().startswith("tls:"):
            events = [each for each in self._events.links if each.server == server]
            self.certificates.append(_Together(link, status, *events))
        return link

    def submit(self, requests: list[Request[PendingCall]], requester: Requester) -> None:
        """Send requests to a task server, except those that concern the connection itself."""
        for request in requests:
            try:
                self._begin(request, requester)
            except TaskdError as error:
                requester.task_ended(request, Failure.of(error))
            except Exception:
                self._broke(TwistedFailure(), request, requester)

    def _begin(self, request: Request[PendingCall], requester: Requester) -> None:
        if self._is_about_connection(request, requester):
            return
        if self._is_stopping:
            raise ShuttingDown("the gateway is shutting down")
        if self.budget.is_spent:
            raise no_memory(self.budget)
        if request.function in (ATTACH, DETACH):
            self._events.handle(request, requester)
            return
        on_progress = None
        if request.options.progress and not request.is_notification:

            def on_progress(progress: Progress) -> None:
                if request.work is not None:
                    requester.task_progressed(request, progress)
                    self._flush_soon(requester)

        call = Call(request.function, request.args, self._options(request, requester))
        meter = ReplyMeter(_Receiver(request, requester))
        pending = self._link.call(call, on_progress, request.dialect, meter)
        request.work = pending
        pending.outcome.addCallbacks(
            self._ended,
            self._broke,
            callbackArgs=(request, requester, pending),
            errbackArgs=(request, requester),
        )
        # The reply to a notification is awaited too: its failure is noted, and a websocket can have
        # no more notifications in flight than requests.
        if self._has_connection_each and request.options.on_disconnect == "cancel":
            self._end_with_caller.add(pending)

    def _is_about_connection(self, request: Request[PendingCall], requester: Requester) -> bool:
        """Handle a request that is about the websocket itself; return whether it is. Raises `TaskdError`."""
        if request.function == CANCEL:
            by_number = granted(requester, request.options).has("operate")
            target = cancel_target(request, by_number=by_number)
            if target.request_id is not None:
                requester.cancel_request(request, target.request_id)
                return True
        elif request.function in (AUTH, WHOAMI):  # without tokens; a task server must not take it for ours
            bound(request)
            answer = msgspec.json.encode(Whoami.without_token(requester.grant))
            requester.task_ended(request, Result(Raw(answer)))
            return True
        return False

    def _options(self, request: Request[PendingCall], requester: Requester) -> Options:
        """Return a request's options with the websocket as its caller, whomever the browser has named.

        With tokens, they have what its caller may do. Raises `TooLarge` if there is no room for that.
        """
        options, lane = request.options, requester.lane
        if options.caller is None or not requester.may_name_callers:
            caller = f"{lane.party.key} {lane.name}"
        else:
            caller = options.caller
        grant = granted(requester, options) if self._has_tokens else None
        if options is NO_OPTIONS and grant is None:
            options = Options(caller=caller)
        else:
            options = replace(options, caller=caller, grant=grant)
        longest = self._config.max_message
        if grant is not None or request.size > longest - CALLER_ROOM:
            longest -= ENVELOPE_ROOM
            if request.size > longest - len(msgspec.json.encode(options)):
                raise TooLarge(
                    f"{quoted(request.function)}: a message through a gateway leaves room for whose it is",
                    limit=longest,
                )
        return options

    def _ended(
        self, outcome: Outcome, request: Request[PendingCall], requester: Requester, pending: PendingCall
    ) -> None:
        self._end_with_caller.discard(pending)
        if request.work is pending:
            is_long = type(outcome) is Result and memoryview(outcome.value).nbytes > READ_SIZE
            if is_long and not requester.account().may_reply:
                outcome = NO_ROOM
            requester.task_ended(request, outcome)
            self._flush_soon(requester)
        elif not self._is_stopping:
            self.unanswered.caller_was_gone(request.function, outcome)

    def _broke(self, reason: TwistedFailure, request: Request[PendingCall], requester: Requester) -> None:
        _log.failure("a bug in taskd", reason)
        requester.task_ended(request, Failure.of(InternalError("a bug in taskd; see the gateway's log")))
        self._flush_soon(requester)

    def _flush_soon(self, requester: Requester) -> None:
        """Flush at the end of this turn, together with what else ends in it."""
        if not self._to_flush:
            self._turn_end.call(self._flush)
        self._to_flush[requester] = None

    def _flush(self) -> None:
        requesters, self._to_flush = self._to_flush, {}
        for requester in requesters:
            requester.flush()

    def cancel(self, work: PendingCall) -> None:
        """Have the task server cancel a call's task."""
        work.cancel()

    def detach(self, work: PendingCall, account: Account | None = None, held: int = 0) -> None:
        """Let a call's task go on without a reply. Its outcome still comes, and is noted.

        But a bare request with a connection of its own has no id to be cancelled
        by, only the end of that connection. When the outcome comes, `held` bytes of
        the account are released.
        """
        if account is not None and held:
            work.outcome.addBoth(_release, account, held)
        if work in self._end_with_caller:
            work.detach()

    def resume(self, requester: Requester) -> None:
        """Do nothing, since calls that have been sent cannot be throttled."""

    def read_again(self, requester: Requester) -> None:
        """Push events again to a websocket that was slow to read."""
        self._events.read_again(requester)

    def gone(self, requester: Requester) -> None:
        """Push no more events to a websocket that is gone."""
        self._events.gone(requester)

    def stop_accepting(self) -> None:
        """Refuse new requests."""
        self._is_stopping = True

    def close(self) -> None:
        """Drop the connections to task servers."""
        self._link.close()
        self._events.close()
        self.unanswered.close()


class _Receiver:
    """A request, as the receiver of a long reply."""

    def __init__(self, request: Request[PendingCall], requester: Requester) -> None:
        self._request = request
        self._requester = requester

    def account(self) -> Account:
        """Return the websocket's account."""
        return self._requester.account()

    def is_needed(self) -> bool:
        """Whether other replies of the websocket wait for this one."""
        return self._requester.needs(self._request)

    def wants(self, size: int) -> bool:
        """Whether the websocket is there, and has room in the reply to a batch."""
        return self._request.work is not None and self._requester.wants_result(self._request, size)


class _Shared:
    """The websockets together, as the receivers of long replies on a shared connection."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def account(self) -> Account:
        """Return the account of all shared connections."""
        return self._account

    def is_needed(self) -> bool:
        """Return True: all who share the connection wait for it."""
        return True

    def wants(self, size: int) -> bool:
        """Return True, since it is not known whom a reply is for before it is complete."""
        return True


class _Unmoved:
    """The owner of the account of shared connections, which only has arrivals."""

    def budget_changed(self) -> None:
        """Do nothing."""

    def refuse_unfinished(self) -> None:
        """Do nothing."""


def _release(result: Any, account: Account, held: int) -> Any:
    account.release(held)
    return result


class _Together:
    """The certificates of one task server, for all links to it."""

    def __init__(self, *links: RenewableCertificates) -> None:
        self._links = links

    def read_again(self) -> None:
        """Use for new connections what the files have now. Raises `ValueError`."""
        for link in self._links:
            link.read_again()
