"""The task server's port: connections with Text framing over TCP, unix sockets and TLS."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.errors import Busy, NotAllowed
from taskd.listeners.gate import MESSAGE_WITHOUT_TOKEN, Gate, GatedBackend, too_large_without_token
from taskd.listeners.message_rate import Throttle
from taskd.listeners.peer import Peer
from taskd.listeners.peers import Peers
from taskd.listeners.wire import Backend, UnsentLimits
from taskd.net.lines import LinearLineReceiver
from taskd.net.log_rate import RatedLog
from taskd.net.party_keys import is_proven, is_trusted, party_key
from taskd.net.paused import PausedConnections
from taskd.protocol.framing import MAX_MESSAGE
from taskd.protocol.replies import too_large
from taskd.protocol.session import MAX_OUTSTANDING, Session
from taskd.scheduler.parties import Lane
from taskd.server.methods import Work
from taskd.server.task_server import TaskServer

__all__ = ["TaskFactory", "TaskProtocol", "TcpLimits"]

_log = Logger(namespace="taskd.tcp")


@dataclass(frozen=True, slots=True)
class TcpLimits:
    """The limits of one connection.

    `max_message` is in bytes, LF included; `max_outstanding` is in requests, `message_rate` in
    messages a second, None for as many as come.
    """

    max_message: int = MAX_MESSAGE
    max_outstanding: int = MAX_OUTSTANDING
    unsent: UnsentLimits = field(default_factory=UnsentLimits)
    message_rate: float | None = None


@implementer(IHalfCloseableProtocol)
class TaskProtocol(LinearLineReceiver):
    """One connection: lines in, replies out. Implements `taskd.listeners.wire.Wire` for its peer.

    Tasks go on when their connection is lost, unless `Options.on_disconnect` says otherwise.
    """

    factory: TaskFactory
    _may_name_callers: bool | None = None
    _throttle: Throttle | None = None

    def connectionMade(self) -> None:
        """Begin to read."""
        factory = self.factory
        limits = factory.limits
        self.MAX_LENGTH = limits.max_message
        super().connectionMade()
        self.client: Peer[Work] = Peer(
            self,
            factory.backend,
            Session(
                limits.max_outstanding,
                unclaimed=factory.server.unanswered.notification_ended,
                max_batch_reply=limits.max_message,
                begins_as_json=True,
            ),
            factory.clock,
            self.transport,
            self.transport.write,
            self._stalled,
            limits.unsent,
            Lane(factory.server.parties.party(party_key(self.transport))),
            factory.peers.turns,
            paused=factory.peers.paused,
        )
        self.lines_received = self.client.receive  # type: ignore[method-assign,assignment]  # saves a call per read
        if limits.message_rate is not None:
            self._throttle = Throttle(factory.clock, self.client, limits.message_rate)
            self.lines_received = self._throttle.receive  # type: ignore[method-assign,assignment]
        self.line_grows = self.client.message_grows  # type: ignore[method-assign]
        factory.peers.add(self.client)
        factory.server.connections += 1
        if factory.gate is not None:
            factory.gate.await_token(self.client)
            self.lines_received = self._lines_at_gate  # type: ignore[method-assign]
            self.line_grows = self._line_grows_at_gate  # type: ignore[method-assign]

    # --- what comes in ---

    def part_received(self, data: bytes) -> None:
        """Refuse a client that begins with anything but a request, before its first line has ended."""
        self.client.receive_part(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse the rest of the stream."""
        self.client.unfinished = 0
        self.client.refuse_rest(too_large(self.MAX_LENGTH))

    def _lines_at_gate(self, lines: list[bytes]) -> None:
        """Take in lines of a client that may need a token, unless the first is too long without one.

        Others are not: they are whole in one read.
        """
        if len(lines[0]) >= MESSAGE_WITHOUT_TOKEN and self._lacks_token():
            self._refuse_without_token()
        else:
            (self._throttle or self.client).receive(lines)

    def _line_grows_at_gate(self, unfinished: int, is_new: bool) -> None:  # noqa: FBT001
        """Count an incomplete line of a client that may need a token, or refuse it."""
        if unfinished >= MESSAGE_WITHOUT_TOKEN and not is_new and self._lacks_token():
            self._refuse_without_token()
        else:
            self.client.message_grows(unfinished, is_new)

    def _lacks_token(self) -> bool:
        """Return whether a token is needed, and has not been shown by anything received so far.

        What waits for its turn may have one: then the line is looked at again when more of it has come.
        """
        client = self.client
        return client.caller is None and client.session.backlog is None and not self.may_name_callers

    def _refuse_without_token(self) -> None:
        self.drop_unfinished()
        self.client.unfinished = 0
        self.client.refuse_rest(too_large_without_token(MESSAGE_WITHOUT_TOKEN))

    def readConnectionLost(self) -> None:
        """Note that the client has shut down its sending side."""
        unfinished = self.unfinished
        self.drop_unfinished()
        self.client.unfinished = 0
        self.client.end_of_input(unfinished)

    def writeConnectionLost(self) -> None:
        """Do nothing: this side's sending ends only with the connection."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Forget the connection."""
        client = self.client
        del self.lines_received, self.line_grows  # parts of reference cycles
        client.connection_lost()
        if getattr(reason.value, "__traceback__", None) is not None:
            reason.cleanFailure()  # one of TLS has frames, which refer to it and to the transport
        self.factory.server.connections -= 1
        self.factory.peers.discard(client)
        if self.factory.gate is not None:
            self.factory.gate.forget(client)

    # --- `taskd.listeners.wire.Wire` ---

    @property
    def may_name_callers(self) -> bool:
        """Whether the client may be a gateway, judging by its address or certificate.

        That is known by the first message, since TLS has verified the certificate before it. Where
        tokens are asked for, an address proves nothing, except that of an end of this process.
        """
        if self._may_name_callers is None:
            if self.factory.gate is None:
                self._may_name_callers = is_trusted(self.transport)
            else:
                self._may_name_callers = is_proven(self.transport, self.factory.own_ends)
        return self._may_name_callers

    ends_with_token = False
    """A client may show another token."""

    def framed(self, messages: list[bytes]) -> list[bytes]:
        """Return the messages as lines, in one piece."""
        messages.append(b"")
        return [b"\n".join(messages)]

    def pause_reading(self) -> None:
        """Stop reading from the client."""
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read from the client again."""
        self.transport.resumeProducing()

    def finish(self) -> None:
        """Close, once everything is sent."""
        self.client.sender.finish()
        self.transport.loseConnection()

    def refuse_unfinished(self, error: Busy) -> None:
        """Answer that there is no room for the line that is being received, behind what is owed."""
        self.drop_unfinished()
        self.client.refuse_rest(error)

    def refuse(self, error: NotAllowed) -> None:
        """Answer everything that was read, send the error, and close."""
        self.client.refuse_rest(error)

    def probe(self) -> None:
        """Do nothing: every line means something to a client."""

    def close(self) -> None:
        """Close, once everything received is answered and sent."""
        self.client.session.end_of_input()
        self.client.flush()

    def abort(self) -> None:
        """Reset the connection."""
        self.transport.abortConnection()

    def _stalled(self) -> None:
        self.factory.log.warn(
            "stalled",
            "{peer} has not read its replies for {grace} s: disconnected",
            peer=self.transport.getPeer(),
            grace=self.factory.limits.unsent.stall_grace,
        )
        self.transport.abortConnection()


class TaskFactory(ServerFactory):
    """Makes a `TaskProtocol` for each connection to `server`.

    With a `gate`, connections need tokens, except those that are proven to come from this process
    (`own_ends` has their ends), from its user, or from whoever has a client certificate.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        server: TaskServer,
        limits: TcpLimits = TcpLimits(),
        paused: PausedConnections | None = None,
        gate: Gate | None = None,
        own_ends: Set[object] = frozenset(),
    ) -> None:
        self.clock = clock
        self.server = server
        self.gate = gate
        self.own_ends = own_ends
        self.backend: Backend[Work] = server
        if gate is not None:
            self.backend = GatedBackend(gate, server, server.known_functions)
        self.limits = limits
        self.log = RatedLog(clock, _log)
        self.peers = Peers(clock, server.budget, paused)

    def buildProtocol(self, addr: IAddress | None) -> TaskProtocol | None:  # type: ignore[override]
        """Make the protocol for one connection; None refuses it."""
        if self.peers.is_stopping:
            return None
        protocol = TaskProtocol()
        protocol.factory = self
        return protocol

    def stop_accepting(self) -> None:
        """Refuse new connections."""
        self.peers.stop_accepting()

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires when no request of any connection is in flight."""
        return self.peers.drain()

    def abort(self) -> None:
        """Drop every connection that is left."""
        self.peers.abort()

    def close(self) -> Deferred[None]:
        """Close every connection after what it is owed; fires when all are closed."""
        return self.peers.close()
