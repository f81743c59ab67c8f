"""The peer: requests, replies, cancels and disconnection, common to TCP connections and websockets.

`Peer` connects three others. The *wire* is the connection itself, which knows
framing. The *backend* does the work: the task server of this process, or a link
to others. The *session* (`taskd.protocol.session`) has the rules for replies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from taskd.auth.caller import Caller
from taskd.errors import Cancelled, NotAllowed, TaskdError
from taskd.listeners.budgeted_peer import FEW, LIGHT, BudgetedPeer
from taskd.listeners.no_room import TOO_FAR_AHEAD
from taskd.listeners.wire import NO_WIRE, Backend, UnsentLimits, Wire, Work
from taskd.model import ANONYMOUS, OPERATOR, Failure, Grant, Outcome, Progress
from taskd.net.backpressure import ReplySender
from taskd.net.buffered_socket import Handle, StreamTransport
from taskd.net.paused import EndWatch, PausedConnections
from taskd.net.turns import LIGHT_STEP, Turns
from taskd.protocol.methods import WAS_DONE, how_cancelled
from taskd.protocol.requests import Request
from taskd.protocol.session import SHORT, Session
from taskd.scheduler.budget import Account
from taskd.scheduler.parties import Lane

__all__ = ["Peer"]


class Peer(BudgetedPeer[Work]):
    """The requests and replies of one connection. Implements `taskd.server.methods.Requester`.

    `write` passes bytes to `transport`; `stalled` is called if the peer does
    not read its replies. With `whole_messages`, the pieces that `Wire.framed`
    returns are never cut. While the peer is not read, `paused` reports its end.

    What a client sends is worked off a step at a time (`Session.requests`). The
    first step is taken at once; the others in `turns`, and if these take long,
    the peer is not read meanwhile.
    """

    __slots__ = (
        "_awaits_turn",
        "_cancelling",
        "_end_watch",
        "_few",
        "_has_ended",
        "_has_given_up",
        "_is_stepping",
        "_is_throttled",
        "_on_drained",
        "_paused",
        "_transport",
        "_turns",
        "caller",
        "is_reading",
        "watches",
    )

    def __init__(
        self,
        wire: Wire,
        backend: Backend[Work],
        session: Session[Work],
        clock: IReactorTime,
        transport: StreamTransport,
        write: Callable[[bytes], None],
        stalled: Callable[[], None],
        limits: UnsentLimits,
        lane: Lane,
        turns: Turns,
        *,
        whole_messages: bool = False,
        paused: PausedConnections | None = None,
    ) -> None:
        self._wire = wire
        self._transport = transport
        self._paused = paused
        self._end_watch: EndWatch | None = None
        self._has_ended = self._has_given_up = False
        self.lane = lane
        self._backend = backend
        self.session = session
        self.sender = ReplySender(
            clock,
            transport,
            write,
            self._sender_changed,
            stalled,
            limit=limits.max_unsent,
            grace=limits.stall_grace,
            whole=whole_messages,
        )
        # An account costs more than the few bytes that most connections ever hold.
        self._account: Account | None = None
        self._may_receive = self._may_reply = True  # as far as the budget goes
        self._few = min(FEW, session.max_outstanding)
        self.unfinished = 0
        """The bytes received of a message that is not complete."""
        self._turns = turns
        self._awaits_turn = False
        self._is_stepping = self._is_throttled = False
        self._is_gone = False
        self._on_drained: Callable[[], None] | None = None
        self._cancelling: dict[Request[Work], list[Request[Work]]] | None = None
        self.is_reading = True
        self.caller: Caller | None = None
        """Whoever has shown a token on this connection."""
        self.watches = 0
        """How many stored tasks and batches the peer watches: kept by whoever pushes their events."""
        self.is_full = False
        """Whether the peer leaves too much unread, or is owed more than its share of the memory."""

    @property
    def idle_handle(self) -> Handle | None:
        """The socket, if everything that was asked is answered and every answer has been sent, else None."""
        is_idle = self.session.is_idle and self.sender.empty and not self.watches
        return self.sender.handle if is_idle else None

    # --- what comes in ---

    def receive(self, messages: list[bytes]) -> None:
        """Take in the messages of one read."""
        self.session.receive(messages)
        self.flush()

    def receive_part(self, data: bytes) -> None:
        """Take a look at bytes of a message that is not complete."""
        self.session.receive_part(data)
        if self.session.closing:
            self.flush()

    def refuse_rest(self, error: TaskdError | None = None) -> None:
        """Answer all earlier messages, reply with `error`, if any, and close: the rest cannot be read."""
        self.session.refuse_rest(error)
        self.flush()

    def end_of_input(self, unfinished: int = 0) -> None:
        """Note that the peer sends nothing more; it still gets what it is owed."""
        self.session.end_of_input(unfinished)
        self.is_reading = False
        self.peer_has_ended()
        if not self._is_gone and not self.session.finished:
            self.watch_end()

    def ask(self, request: Request[Work]) -> None:
        """Start a request that has been read already."""
        self.session.begin(request, request.size)
        self._is_stepping = True
        try:
            self._backend.submit([request], self)
        finally:
            self._is_stepping = False
        self._send(self.session.take())

    # --- `taskd.net.paused.Watched` ---

    def peer_has_ended(self) -> None:
        """Cancel the work that must not outlive the connection; what follows of it is not begun.

        The peer has ended sending, though maybe not all that it sent has been
        read. It may even be gone, which shows only when it is written to.
        """
        if not self._has_ended:
            self._has_ended = True
            for request in list(self.session.in_flight):
                if request.work is not None and request.options.on_disconnect == "cancel":
                    self._backend.cancel(request.work)
        self.flush()

    def peer_is_lost(self) -> None:
        """Drop the connection: it was reset, or timed out."""
        self._wire.abort()

    @property
    def depends_on_peer(self) -> bool:
        """Whether any work in flight is cancelled when the peer ends."""
        return any(request.options.on_disconnect == "cancel" for request in self.session.in_flight)

    @property
    def reads_no_more(self) -> bool:
        """Whether what the peer still sends is of no use."""
        return self.session.refuses_rest

    def probe(self) -> None:
        """Send something that means nothing, if the wire has such a thing."""
        self._wire.probe()

    def rest_is_refused(self) -> None:
        """Answer that more was sent ahead than has room, behind what is owed, and close after that."""
        self.refuse_unfinished(TOO_FAR_AHEAD)

    def watch_end(self) -> None:
        """Have the end of the peer reported, which is not being read."""
        if self._paused is not None and self._end_watch is None:
            self._end_watch = self._paused.watch(self._transport, self)

    def _forget_end(self) -> None:
        if self._end_watch is not None:
            self._end_watch.stop()
            self._end_watch = None

    def connection_lost(self) -> None:
        """Note that the connection is gone; its work goes on without it, or is cancelled."""
        self._is_gone = True
        if self._end_watch is not None:
            self._forget_end()
        self.sender.close()
        if self.watches:
            self._backend.gone(self)
        heir = self._heir()
        if self._account is not None:
            self._account.close()
            self._account = None
        self._may_reply = True
        self._check_full()
        for request in list(self.session.in_flight):
            work = request.work
            if work is not None:
                if request.options.on_disconnect == "cancel":
                    self._backend.cancel(work)
                request.work = None
                self._backend.detach(work, heir, SHORT + request.held)
            elif heir is not None:
                heir.release(SHORT + request.held)
        if unread := self.session.clear():
            self._backend.unanswered.messages_were_dropped(unread)
        self._cancelling = None
        self._check_drained()
        self._wire = NO_WIRE  # breaks a reference cycle, which only the garbage collector would free

    # --- `taskd.server.methods.Requester` ---

    @property
    def may_name_callers(self) -> bool:
        """Whether the options `caller` and `grant` are believed on this connection."""
        if self.caller is not None:
            return self.caller.grant.has("operate")
        return self._wire.may_name_callers

    @property
    def grant(self) -> Grant:
        """The rights of the connection, by its token, or without one by where it comes from."""
        if self.caller is not None:
            return self.caller.grant
        return OPERATOR if self._wire.may_name_callers else ANONYMOUS

    def task_ended(self, key: Request[Work], outcome: Outcome) -> None:
        """Answer a request, and those that asked to cancel it."""
        if self._is_gone or (self._has_given_up and key not in self.session.in_flight):
            return
        self.session.answer(key, outcome)
        if self._cancelling is not None:
            self._answer_cancels(key, how_cancelled(outcome))

    def task_progressed(self, key: Request[Work], progress: Progress) -> None:
        """Report a request's progress."""
        if not self._is_gone:
            self.session.report(key, progress, congested=self.sender.congested)

    @property
    def is_congested(self) -> bool:
        """Whether the peer is slow to read, or is owed too much: no events should be pushed to it now."""
        return self.sender.congested or self.is_full

    @property
    def ends_with_token(self) -> bool:
        """Whether a token that is refused ends the connection."""
        return self._wire.ends_with_token

    @property
    def takes_events(self) -> bool:
        """Whether the connection is there, and its token is accepted."""
        return not self._is_gone and not self.session.refuses_rest

    def notify(self, line: bytes) -> None:
        """Send a notification."""
        if not self._is_gone:
            self.session.notify(line)

    def cancel_request(self, asking: Request[Any], request_id: bytes) -> None:
        """Cancel this connection's request with this id; `asking` is answered when that has ended."""
        request = self.session.find(request_id)
        if request is None or request.work is None:
            self.session.answer(asking, WAS_DONE)
            return
        if self._cancelling is None:
            self._cancelling = {}
        self._cancelling.setdefault(request, []).append(asking)
        self._backend.cancel(request.work)

    def _answer_cancels(self, request: Request[Work], answer: Outcome) -> None:
        assert self._cancelling is not None
        for asking in self._cancelling.pop(request, ()):
            self.session.answer(asking, answer)
        if not self._cancelling:
            self._cancelling = None

    def flush(self) -> None:
        """Start the requests that may start, send what can be sent, and pause or resume reading."""
        if self._is_gone or self._is_stepping:
            return  # in a step: it ends with all of this itself
        session = self.session
        if session.backlog is not None and not self._awaits_turn:
            if not self._turns.is_spent:
                if session.backlog_size or len(session.backlog) > 1:
                    self._turns.measured(self._step)
                else:
                    self._turns.used += LIGHT_STEP
                    self._step()
            if session.has_more and not self.sender.full:
                self._awaits_turn = True
                self._turns.ask(self)
        self._send(session.take())

    def _step(self) -> None:
        """Start requests, as many as in one step, unless the client leaves too much unread."""
        if self.sender.full:
            return
        requests = self.session.requests()
        if requests:
            if self._has_ended:
                requests = self._wanted(requests)
            self._is_stepping = True
            try:
                self._backend.submit(requests, self)
            finally:
                self._is_stepping = False

    @property
    def party(self) -> str:
        """The party that the connection belongs to."""
        return self.lane.party.key

    def take_step(self) -> bool:
        """Take one step through what has been received; return whether more may be started now."""
        if self._is_gone:
            return False
        self._step()
        self._awaits_turn = self.session.has_more and not self.sender.full
        self._send(self.session.take())
        return self._awaits_turn

    def hold(self) -> None:
        """Read nothing until everything that was read has been taken in."""
        if self.is_reading and not self._is_gone:
            self._pause_reading()

    def _wanted(self, requests: list[Request[Work]]) -> list[Request[Work]]:
        """Return those of these requests that may outlive the connection, and answer the others."""
        wanted = []
        for request in requests:
            if request.options.on_disconnect == "cancel":
                text = f"{request.function} was cancelled before it was started"
                self.task_ended(request, Failure.of(Cancelled(text, was="waiting")))
            else:
                wanted.append(request)
        return wanted

    # --- what goes out ---

    def _send(self, messages: list[bytes]) -> None:
        sender = self.sender
        if messages:
            for data in self._wire.framed(messages):
                sender.send(data)
        session = self.session
        if (
            session.backlog is None
            and len(session.in_flight) < self._few
            and session.large + session.owed <= LIGHT
            and self.is_reading
            and self._account is None
            and self._on_drained is None
            and not (session.closing or sender.congested or self.is_full)
        ):
            return  # as it is nearly always: nothing waits, nothing has to be counted, and more may come
        self._settle()

    def _settle(self) -> None:
        """Count what is held, and read on, pause or close accordingly."""
        session, sender = self.session, self.sender
        if (
            session.large + session.owed > LIGHT
            or sender.congested
            or self._account is not None
            or len(session.in_flight) > FEW
        ):
            self._count()
        if sender.full or self.is_full:
            self._check_full()
        if session.finished and sender.empty:
            self._wire.finish()
        elif self.is_reading is not self._wants_to_read and (session.refuses_rest or not session.closing):
            if not self.is_reading:
                self.is_reading = True
                self._forget_end()
                self._wire.resume_reading()
            elif not self._awaits_turn:  # whose turn may come before the next read
                self._pause_reading()
        if self._on_drained is not None:
            self._check_drained()

    @property
    def _wants_to_read(self) -> bool:
        is_free = self._may_receive and not self.sender.full and not self._is_throttled
        return is_free and self.session.wants_data

    def throttle(self, *, is_throttled: bool) -> None:
        """Read nothing for a while, or read on: the peer has sent too many messages too fast."""
        if self._is_gone:
            return
        self._is_throttled = is_throttled
        if not is_throttled:
            self._settle()
        elif self.is_reading:
            self._pause_reading()

    def _pause_reading(self) -> None:
        self.is_reading = False
        self._wire.pause_reading()
        self.watch_end()

    def _sender_changed(self) -> None:
        if self._is_gone:
            return
        self._send(self.session.take(resumed=True))
        if self.session.has_more:
            self.flush()
        if self.watches and not self.is_congested:
            self._backend.read_again(self)

    def _check_full(self) -> None:
        was_full, self.is_full = self.is_full, self.sender.full or not self._may_reply
        if was_full and not self.sender.full:  # at least the oldest task may start: see `needs`
            self._backend.resume(self)
            if self.watches and not self.is_congested:
                self._backend.read_again(self)

    # --- the stop ---

    def drain(self, drained: Callable[[], None]) -> None:
        """Call `drained`, once, when no request of this connection is in flight."""
        self._on_drained = drained
        self._check_drained()

    def _check_drained(self) -> None:
        if self._on_drained is not None and not self.session.in_flight and not self._awaits_turn:
            drained, self._on_drained = self._on_drained, None
            drained()

    def give_up(self, failure: Failure) -> None:
        """Answer every request in flight with `failure`; the work goes on."""
        self._has_given_up = True
        heir = self._heir()
        for request in list(self.session.in_flight):
            work, request.work = request.work, None
            if heir is not None and work is None:
                heir.release(SHORT + request.held)
            if request not in self.session.in_flight:
                continue  # a `taskd.cancel`, answered along with the request that it named
            self.session.answer(request, failure)
            if self._cancelling is not None:
                self._answer_cancels(request, failure)
            if work is not None:
                self._backend.detach(work, heir, SHORT + request.held)
        self.flush()

    def refuse(self, error: NotAllowed) -> None:
        """Push nothing more, and close after what is owed: the caller's token is not accepted any more."""
        if self.watches:
            self._backend.gone(self)
        self._wire.refuse(error)

    def close(self) -> None:
        """Close the connection in order, after everything that is owed."""
        self._wire.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._wire.abort()
