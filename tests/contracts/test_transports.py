"""One contract for stream transports: the server's, the client's and Twisted's own, over real sockets.

Twisted's transport is the reference: whatever a protocol may rely on with it
must hold with the other two.
"""

import socket
import struct
from contextlib import suppress

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IPushProducer, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from zope.interface import implementer
from zope.interface.verify import verifyObject

from taskd.net.buffered_socket import HIGH_WATER
from taskd.net.client_transport import connector
from taskd.net.endpoints import server_endpoint
from taskd.net.server_transport import ServerTransport

TIMEOUT = 30.0
"""Seconds after which something that takes milliseconds will not happen any more."""

MUCH = 20_000_000
"""Bytes that no socket's buffers take at once."""

FEW_TURNS = 5
"""Turns of the reactor that would be enough for an event that must not happen."""


class Recorder(Protocol):
    """A protocol that records what its transport reports, and calls `on_data` and `on_lost`."""

    def __init__(self):
        self.events = []
        self.received = b""
        self.on_data = self.on_lost = lambda: None

    def connectionMade(self):
        self.events.append("made")

    def plainly_made(self, transport):
        self.makeConnection(transport)

    def failed(self, reason):
        self.events.append(reason.type)

    def dataReceived(self, data):
        assert self.reason is None, "data after the end"
        self.received += data
        self.on_data()

    def connectionLost(self, reason):
        self.events.append(reason.type)
        self.on_lost()

    @property
    def reason(self):
        """The reason of a lost connection; None while it is open."""
        _, *reasons = self.events
        assert len(reasons) <= 1, "the end is reported once"
        return reasons[0] if reasons else None


@implementer(IHalfCloseableProtocol)
class HalfCloser(Recorder):
    """A recorder that goes on when the peer has ended sending."""

    def __init__(self):
        super().__init__()
        self.peer_ended = False

    def readConnectionLost(self):
        self.peer_ended = True

    def writeConnectionLost(self):
        pass


@implementer(IPushProducer)
class Producer:
    """A push producer that records its calls, and calls `on_resume`."""

    def __init__(self):
        self.events = []
        self.on_resume = lambda: None

    def pauseProducing(self):
        self.events.append("pause")

    def resumeProducing(self):
        self.events.append("resume")
        self.on_resume()

    def stopProducing(self):
        self.events.append("stop")


async def until(holds):
    """Wait, turn by turn, until something holds."""
    deadline = reactor.seconds() + TIMEOUT
    while not holds():
        assert reactor.seconds() < deadline
        await deferLater(reactor, 0)


async def turns(count=FEW_TURNS):
    """Let the reactor run for this many turns."""
    for _ in range(count):
        await deferLater(reactor, 0)


def read_all(peer):
    """Read from a peer until the end or a reset."""
    received = bytearray()
    try:
        while data := peer.recv(1 << 20):
            received += data
    except ConnectionResetError:
        pass
    return bytes(received)


def read(peer, size):
    """Read this many bytes from a peer."""
    received = bytearray()
    while len(received) < size:
        data = peer.recv(min(1 << 20, size - len(received)))
        assert data, "the end"
        received += data
    return bytes(received)


def reset(peer):
    """Close so that the other side sees a reset, over TCP."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


class Pairs:
    """A factory of pairs: a protocol with its transport, and the plain socket of its peer."""

    def __init__(self, kind, family, path):
        self.kind = kind
        self.family = family
        self.path = str(path / "socket")
        self._ports = []
        self._sockets = []

    async def connect(self, protocol=None):
        """Connect a protocol with a peer."""
        protocol = protocol or Recorder()
        peer = await (self._accept(protocol) if self.kind == "client" else self._serve(protocol))
        peer.settimeout(TIMEOUT)
        self._sockets.append(peer)
        await until(lambda: protocol.events)
        assert protocol.events == ["made"]
        return protocol, protocol.transport, peer

    async def _serve(self, protocol):
        address = f"unix:{self.path}" if self.family == "unix" else "tcp:0:interface=127.0.0.1"
        maker = ServerTransport if self.kind == "server" else None
        port = await server_endpoint(reactor, address, maker).listen(Factory.forProtocol(lambda: protocol))
        self._ports.append(port)
        if self.family == "unix":
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(self.path)
            return peer
        return socket.create_connection(("127.0.0.1", port.getHost().port), TIMEOUT)

    async def _accept(self, protocol):
        family = socket.AF_UNIX if self.family == "unix" else socket.AF_INET
        with socket.socket(family) as listening:
            listening.bind(self.path if self.family == "unix" else ("127.0.0.1", 0))
            listening.listen()
            port = None if self.family == "unix" else listening.getsockname()[1]
            server = f"unix:{self.path}" if self.family == "unix" else f"tcp:127.0.0.1:{port}"
            connector(reactor, server).connect(protocol)
            return listening.accept()[0]

    async def close(self):
        for port in self._ports:
            await port.stopListening()
        for peer in self._sockets:
            peer.close()
        await turns()


@pytest.fixture(params=["tcp", "unix"])
def family(request):
    return request.param


def pairs_of(kind, family, path):
    made = Pairs(kind, family, path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.fixture(params=["server", "client", "twisted"])
def pairs(request, family, tmp_path):
    yield from pairs_of(request.param, family, tmp_path)


@pytest.fixture(params=["server", "twisted"])
def server_pairs(request, family, tmp_path):
    yield from pairs_of(request.param, family, tmp_path)


@pytest.fixture(params=["server", "client"])
def own_pairs(request, family, tmp_path):
    yield from pairs_of(request.param, family, tmp_path)


@pytest.fixture
def client_pairs(family, tmp_path):
    yield from pairs_of("client", family, tmp_path)


# --- what a transport is ------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_transport_provides_the_interfaces_of_its_kind(pairs):
    _, transport, _ = await pairs.connect()
    for interface in (ITransport, IConsumer, IPushProducer):
        assert verifyObject(interface, transport)


@pytest_twisted.ensureDeferred
async def test_a_transport_knows_its_addresses_and_its_socket(pairs, family):
    _, transport, peer = await pairs.connect()
    handle = transport.getHandle()
    assert handle.fileno() == transport.fileno()
    if family == "tcp":
        assert transport.getPeer() == IPv4Address("TCP", *peer.getsockname())
        assert transport.getHost() == IPv4Address("TCP", *peer.getpeername())
        transport.setTcpNoDelay(True)
        assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.setTcpNoDelay(False)
        assert not handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    else:
        assert isinstance(transport.getPeer(), UNIXAddress)
        assert isinstance(transport.getHost(), UNIXAddress)


# --- sending and receiving ----------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_written_data_arrives_in_order(pairs):
    _, transport, peer = await pairs.connect()
    pieces = [bytes([number]) * size for number, size in enumerate([1, 70_000, 0, 3_000_000, 5, 100_000, 1])]
    receiving = deferToThread(read, peer, 2 * sum(map(len, pieces)))
    for piece in pieces:
        transport.write(piece)
    await deferLater(reactor, 0)
    transport.writeSequence(pieces)
    assert await receiving == 2 * b"".join(pieces)


@pytest_twisted.ensureDeferred
async def test_data_written_after_everything_before_was_sent_arrives_too(pairs):
    _, transport, peer = await pairs.connect()
    for _ in range(2):
        receiving = deferToThread(read, peer, MUCH)
        transport.write(b"x" * MUCH)
        assert len(await receiving) == MUCH
        await turns()
        transport.write(b"y")
        assert await deferToThread(read, peer, 1) == b"y"


@pytest_twisted.ensureDeferred
async def test_incoming_data_is_received_in_order(pairs):
    protocol, _, peer = await pairs.connect()
    data = bytes(range(250)) * 10_000
    sending = deferToThread(peer.sendall, data)
    await until(lambda: len(protocol.received) >= len(data))
    await sending
    assert protocol.received == data


@pytest_twisted.ensureDeferred
async def test_both_sides_can_send_much_at_once(pairs):
    protocol, transport, peer = await pairs.connect()
    receiving = deferToThread(read, peer, MUCH)
    sending = deferToThread(peer.sendall, b"y" * MUCH)
    transport.write(b"x" * MUCH)
    assert await receiving == b"x" * MUCH
    await sending
    await until(lambda: len(protocol.received) == MUCH)


@pytest_twisted.ensureDeferred
async def test_only_bytes_can_be_written(pairs):
    _, transport, _ = await pairs.connect()
    with pytest.raises(TypeError):
        transport.write("text")


# --- pausing ------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_nothing_is_received_while_reading_is_paused(pairs):
    protocol, transport, peer = await pairs.connect()
    transport.pauseProducing()
    peer.sendall(b"early")
    await turns()
    assert protocol.received == b""
    transport.resumeProducing()
    await until(lambda: protocol.received == b"early")


@pytest_twisted.ensureDeferred
async def test_a_producer_is_paused_while_much_is_unsent_and_then_resumed(pairs):
    _, transport, peer = await pairs.connect()
    producer = Producer()
    transport.registerProducer(producer, True)
    transport.write(b"x" * MUCH)
    await until(lambda: producer.events == ["pause"])
    assert len(await deferToThread(read, peer, MUCH)) == MUCH
    await until(lambda: producer.events == ["pause", "resume"])


@pytest_twisted.ensureDeferred
async def test_a_producer_may_write_a_lot_when_it_is_resumed(pairs):
    _, transport, peer = await pairs.connect()
    producer = Producer()
    left = [b"b" * MUCH, b"c"]
    producer.on_resume = lambda: left and transport.write(left.pop(0))
    transport.registerProducer(producer, True)
    receiving = deferToThread(read, peer, 2 * MUCH + 1)
    transport.write(b"a" * MUCH)
    await until(lambda: not left)
    assert await receiving == b"a" * MUCH + b"b" * MUCH + b"c"


@pytest_twisted.ensureDeferred
async def test_a_producer_is_not_paused_for_little(pairs):
    _, transport, peer = await pairs.connect()
    producer = Producer()
    transport.registerProducer(producer, True)
    for _ in range(10):
        transport.write(b"x" * (HIGH_WATER // 10))
    await deferToThread(read, peer, 10 * (HIGH_WATER // 10))
    await turns()
    assert producer.events == []


@pytest_twisted.ensureDeferred
async def test_an_unregistered_producer_is_neither_resumed_nor_stopped(pairs):
    protocol, transport, peer = await pairs.connect()
    producer = Producer()
    transport.registerProducer(producer, True)
    transport.write(b"x" * MUCH)
    await until(lambda: producer.events == ["pause"])
    transport.unregisterProducer()
    await deferToThread(read, peer, MUCH)
    transport.abortConnection()
    await until(lambda: protocol.reason)
    assert producer.events == ["pause"]


@pytest_twisted.ensureDeferred
async def test_a_producer_is_stopped_when_the_connection_is_lost(pairs):
    protocol, transport, peer = await pairs.connect()
    producer = Producer()
    transport.registerProducer(producer, True)
    peer.close()
    await until(lambda: protocol.reason)
    assert producer.events == ["stop"]
    late = Producer()
    transport.registerProducer(late, True)
    assert late.events == ["stop"]


@pytest_twisted.ensureDeferred
async def test_only_one_producer_can_be_registered_at_a_time(pairs):
    _, transport, _ = await pairs.connect()
    transport.registerProducer(Producer(), True)
    with pytest.raises(RuntimeError):
        transport.registerProducer(Producer(), True)
    transport.unregisterProducer()
    transport.registerProducer(Producer(), True)


# --- half a close -------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_the_sending_side_is_shut_down_after_unsent_data_is_flushed(pairs):
    protocol, transport, peer = await pairs.connect()
    receiving = deferToThread(read_all, peer)
    transport.write(b"x" * MUCH)
    transport.loseWriteConnection()
    assert len(await receiving) == MUCH
    peer.sendall(b"and yet it receives")
    await until(lambda: protocol.received == b"and yet it receives")
    assert protocol.reason is None


@pytest_twisted.ensureDeferred
async def test_the_sending_side_is_shut_down_at_once_if_nothing_is_unsent(pairs):
    protocol, transport, peer = await pairs.connect()
    transport.loseWriteConnection()
    assert await deferToThread(read_all, peer) == b""
    peer.sendall(b"and yet it receives")
    await until(lambda: protocol.received == b"and yet it receives")


@pytest_twisted.ensureDeferred
async def test_a_peer_that_has_shut_down_its_sending_side_still_gets_its_answer(server_pairs):
    protocol, transport, peer = await server_pairs.connect(HalfCloser())
    peer.sendall(b"question")
    peer.shutdown(socket.SHUT_WR)
    await until(lambda: protocol.peer_ended)
    assert protocol.received == b"question"
    receiving = deferToThread(read_all, peer)
    transport.write(b"x" * MUCH)
    transport.loseConnection()
    assert len(await receiving) == MUCH
    await until(lambda: protocol.reason)


@pytest_twisted.ensureDeferred
async def test_a_protocol_without_half_close_loses_its_connection_when_the_peer_ends_sending(pairs):
    protocol, _, peer = await pairs.connect()
    peer.sendall(b"question")
    peer.shutdown(socket.SHUT_WR)
    await until(lambda: protocol.reason)
    assert (protocol.received, protocol.reason) == (b"question", ConnectionDone)
    assert await deferToThread(read_all, peer) == b""


# --- the end ------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_connection_is_closed_after_unsent_data_is_flushed(pairs):
    protocol, transport, peer = await pairs.connect()
    transport.write(b"x" * (MUCH - 1))
    transport.write(b"y")
    transport.loseConnection()
    transport.loseConnection()
    await turns()
    assert protocol.reason is None
    assert await deferToThread(read_all, peer) == b"x" * (MUCH - 1) + b"y"
    await until(lambda: protocol.reason)
    assert protocol.reason is ConnectionDone


@pytest_twisted.ensureDeferred
async def test_a_connection_is_closed_soon_if_nothing_is_unsent(pairs):
    protocol, transport, peer = await pairs.connect()
    transport.write(b"bye")
    transport.loseConnection()
    assert await deferToThread(read_all, peer) == b"bye"
    await until(lambda: protocol.reason)
    assert protocol.reason is ConnectionDone


@pytest_twisted.ensureDeferred
async def test_a_protocol_may_close_the_connection_while_it_receives(pairs):
    protocol, transport, peer = await pairs.connect()

    def answer_and_close():
        transport.write(b"answer")
        transport.loseConnection()

    protocol.on_data = answer_and_close
    peer.sendall(b"question")
    assert await deferToThread(read_all, peer) == b"answer"
    await until(lambda: protocol.reason)
    assert (protocol.received, protocol.reason) == (b"question", ConnectionDone)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("unsent", [0, MUCH])
async def test_data_written_after_the_close_is_not_sent(own_pairs, unsent):
    """Twisted's transport may send it if other data is unsent: a protocol cannot rely on either."""
    _, transport, peer = await own_pairs.connect()
    transport.write(b"x" * unsent)
    transport.loseConnection()
    transport.write(b"too late")
    assert len(await deferToThread(read_all, peer)) == unsent


@pytest_twisted.ensureDeferred
async def test_a_protocol_may_abort_the_connection_while_it_receives(pairs):
    protocol, transport, peer = await pairs.connect()
    protocol.on_data = transport.abortConnection
    peer.sendall(b"question")
    await until(lambda: protocol.reason)
    assert protocol.reason is ConnectionAborted
    assert await deferToThread(read_all, peer) == b""


@pytest_twisted.ensureDeferred
async def test_an_abort_resets_the_connection_even_with_unsent_data(pairs, family):
    protocol, transport, peer = await pairs.connect()
    transport.write(b"x" * MUCH)
    transport.abortConnection()
    transport.abortConnection()
    await until(lambda: protocol.reason)
    assert protocol.reason is ConnectionAborted
    if family == "tcp":
        with pytest.raises(ConnectionResetError):
            await deferToThread(read, peer, MUCH)
    else:
        assert len(await deferToThread(read_all, peer)) < MUCH


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_closing_can_still_be_aborted(pairs):
    protocol, transport, peer = await pairs.connect()
    transport.write(b"x" * MUCH)
    transport.loseConnection()
    await turns()
    assert protocol.reason is None
    transport.abortConnection()
    await until(lambda: protocol.reason)
    assert len(await deferToThread(read_all, peer)) < MUCH


@pytest_twisted.ensureDeferred
async def test_the_close_of_a_peer_is_reported_after_the_data_it_sent(pairs):
    protocol, _, peer = await pairs.connect()
    peer.sendall(b"x" * 100_000)
    peer.close()
    await until(lambda: protocol.reason)
    assert (len(protocol.received), protocol.reason) == (100_000, ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_resets_is_reported(pairs):
    protocol, transport, peer = await pairs.connect()
    transport.write(b"unread")  # over a unix socket this makes it a reset
    reset(peer)
    await until(lambda: protocol.reason)
    assert issubclass(protocol.reason, ConnectionLost | ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_resets_while_much_is_unsent_is_reported(pairs):
    protocol, transport, peer = await pairs.connect()
    transport.write(b"x" * MUCH)
    reset(peer)
    await until(lambda: protocol.reason)
    assert issubclass(protocol.reason, ConnectionLost | ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_resets_while_the_connection_is_closing_is_reported(pairs):
    protocol, transport, peer = await pairs.connect()
    transport.write(b"x" * MUCH)
    transport.loseConnection()
    reset(peer)
    await until(lambda: protocol.reason)
    assert issubclass(protocol.reason, ConnectionLost | ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_writing_to_a_peer_that_has_reset_does_no_harm(pairs):
    protocol, transport, peer = await pairs.connect()
    reset(peer)
    transport.write(b"is anybody there?")
    transport.write(b"hello?")
    await until(lambda: protocol.reason)
    assert issubclass(protocol.reason, ConnectionLost | ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_data_sent_by_a_peer_before_it_vanished_is_received_although_writing_fails(client_pairs):
    """A client reads the server's last reply, even if the server no longer reads."""
    protocol, transport, peer = await client_pairs.connect()
    peer.sendall(b"x" * 100_000)
    peer.shutdown(socket.SHUT_RDWR)
    transport.write(b"y" * 10)
    await until(lambda: protocol.reason)
    assert len(protocol.received) == 100_000


@pytest_twisted.ensureDeferred
async def test_calls_after_the_end_of_the_connection_have_no_effect(pairs):
    protocol, transport, peer = await pairs.connect()
    transport.abortConnection()
    await until(lambda: protocol.reason)
    with suppress(OSError):
        peer.sendall(b"late")
    for call in (
        lambda: transport.write(b"late"),
        lambda: transport.writeSequence([b"late"]),
        transport.loseConnection,
        transport.abortConnection,
        transport.pauseProducing,
        transport.resumeProducing,
        transport.stopProducing,
        transport.unregisterProducer,
    ):
        call()
    await turns()
    assert protocol.received == b""
    assert protocol.events == ["made", ConnectionAborted]


@pytest_twisted.ensureDeferred
async def test_any_method_may_be_called_while_the_end_is_reported(pairs):
    protocol, transport, peer = await pairs.connect()

    def call_everything():
        transport.write(b"late")
        transport.loseConnection()
        transport.abortConnection()
        transport.resumeProducing()

    protocol.on_lost = call_everything
    peer.close()
    await until(lambda: protocol.reason)
    await turns()
    assert protocol.reason is ConnectionDone


# --- handing a connection over ------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_the_protocol_can_be_replaced(server_pairs):
    """A websocket's protocol, for one, replaces that of the HTTP request for the upgrade."""
    first, transport, peer = await server_pairs.connect()
    second = Recorder()

    def hand_over():
        transport.protocol = second
        second.makeConnection(transport)

    first.on_data = hand_over
    peer.sendall(b"upgrade")
    await until(lambda: second.events)
    peer.sendall(b"frame")
    await until(lambda: second.received == b"frame")
    peer.close()
    await until(lambda: second.reason)
    assert (first.received, first.events) == (b"upgrade", ["made"])
