"""Connections made without an endpoint, with real sockets and a fake clock."""

from __future__ import annotations

import os
import select
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from taskd.net.client_transport import MAX_TRIES, RETRY, ClientTransport, connector
from taskd.net.endpoints import CONNECT_TIMEOUT, PlainAddress, plain_address
from taskd.net.lines import LinearLineReceiver

WAIT = 10.0
"""Seconds for which a turn waits for something to be ready."""


class Reactor(Clock):
    """A reactor that polls its readers and writers in each `turn`."""

    def __init__(self):
        super().__init__()
        self.readers, self.writers = set(), set()

    def addReader(self, reader):
        self.readers.add(reader)

    def addWriter(self, writer):
        self.writers.add(writer)

    def removeReader(self, reader):
        self.readers.discard(reader)

    def removeWriter(self, writer):
        self.writers.discard(writer)

    def turn(self):
        """Wait until a descriptor is ready, and call the owners of all that are, as Twisted does."""
        everybody = {one.fileno(): one for one in self.readers | self.writers}
        poll = select.poll()
        for descriptor, one in everybody.items():
            flags = (select.POLLIN if one in self.readers else 0) | (
                select.POLLOUT if one in self.writers else 0
            )
            poll.register(descriptor, flags)
        ready = poll.poll(1000 * WAIT)
        assert ready, "nothing is ready"
        for descriptor, events in ready:
            one = everybody[descriptor]
            why = one.doRead() if events & (select.POLLIN | select.POLLHUP) else None
            if why is None and events & select.POLLOUT:
                why = one.doWrite()
            if why is not None:
                self.removeReader(one)
                self.removeWriter(one)
                one.connectionLost(Failure(why))


class Noting(LinearLineReceiver):
    """A protocol that records what happens: its start, its lines, and at last an exception's type or text."""

    def __init__(self):
        self.happened = []

    def plainly_made(self, transport):
        self.makeConnection(transport)
        self.happened.append("opened")

    def lines_received(self, lines):
        self.happened += lines

    def failed(self, reason):
        self.happened.append(str(reason.value))

    def connectionLost(self, reason):
        self.happened.append(reason.type)


@pytest.fixture
def reactor():
    reactor = Reactor()
    yield reactor
    assert not reactor.readers | reactor.writers, "nothing is left behind"
    assert not reactor.getDelayedCalls()


@pytest.fixture
def connect(reactor):
    """Connect to an endpoint string; return the connection, and the attempt, which can be cancelled."""

    def start(server):
        connection = Noting()
        connecting = connector(reactor, server).connect(connection)
        return connection, connecting

    return start


@pytest.fixture(params=["tcp", "unix", "tcp6"])
def listening(request, tmp_path):
    """A listening socket, and the endpoint string for it."""
    family = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6, "unix": socket.AF_UNIX}[request.param]
    with socket.socket(family) as listening:
        if request.param == "unix":
            listening.bind(str(tmp_path / "s"))
            server = f"unix:{tmp_path / 's'}"
        else:
            try:
                listening.bind(("127.0.0.1" if request.param == "tcp" else "::1", 0))
            except OSError:
                pytest.skip("this machine has no IPv6")
            host = "127.0.0.1" if request.param == "tcp" else r"\:\:1"
            server = f"tcp:{host}:{listening.getsockname()[1]}"
        listening.listen()
        listening.settimeout(WAIT)
        yield listening, server


def connected(listening):
    """A socket that is connected to a listening one, and does not block."""
    sock = socket.socket()
    sock.connect(listening.getsockname())
    sock.setblocking(False)
    return sock


def accept(listening):
    peer, _ = listening.accept()
    peer.settimeout(WAIT)
    return peer


def read(peer, most):
    """Read so many bytes, or up to the end; return how many there were."""
    received = 0
    while received < most and (data := peer.recv(1 << 20)):
        received += len(data)
    return received


def test_lines_are_sent_and_received_and_the_end_is_reported(reactor, connect, listening):
    listening, server = listening
    connection, _ = connect(server)
    assert connection.happened == ["opened"], "a local connection is not made at once"
    assert verifyObject(IReadWriteDescriptor, connection.transport)
    connection.transport.write(b"question\n")
    with accept(listening) as peer:
        assert peer.recv(100) == b"question\n"
        peer.sendall(b"ans")
        reactor.turn()
        peer.sendall(b"wer\nmore\n")
        reactor.turn()
    reactor.turn()
    assert connection.happened == ["opened", b"answer", b"more", ConnectionDone]


def test_losing_the_connection_closes_it_at_once_and_is_reported_once(reactor, connect, listening):
    listening, server = listening
    connection, connecting = connect(server)
    connection.transport.write(b"bye\n")
    connection.transport.loseConnection()
    assert connection.happened == ["opened", ConnectionDone]
    with accept(listening) as peer:
        assert peer.recv(100) == b"bye\n"
        assert peer.recv(100) == b""
    transport = connection.transport
    for again in (transport.loseConnection, transport.abortConnection, connecting.cancel):
        again()
    transport.write(b"nobody hears it")
    assert (transport.fileno(), transport.doWrite()) == (-1, None)
    assert len(connection.happened) == 2


def test_data_that_the_kernel_does_not_take_at_once_is_sent_before_the_close(reactor, connect, listening):
    listening, server = listening
    connection, _ = connect(server)
    sent = b"x" * 20_000_000
    transport = connection.transport
    transport.write(sent[:-10])
    transport.write(sent[-10:])
    assert reactor.writers == {transport}
    transport.loseConnection()
    transport.loseConnection()
    transport.write(b"too late")
    assert connection.happened == ["opened"]
    with accept(listening) as peer, ThreadPoolExecutor() as thread:
        received = thread.submit(read, peer, len(sent) + 1)
        while reactor.writers:
            reactor.turn()
        assert received.result() == len(sent)
    assert connection.happened == ["opened", ConnectionDone]


def test_data_written_after_a_full_buffer_was_sent_is_sent_too(reactor, connect, listening):
    listening, server = listening
    connection, _ = connect(server)
    connection.transport.write(b"x" * 20_000_000 + b"\n")
    with accept(listening) as peer, ThreadPoolExecutor() as thread:
        received = thread.submit(read, peer, 20_000_001)
        while reactor.writers:
            reactor.turn()
        assert received.result() == 20_000_001
        connection.transport.write(b"last")
        assert peer.recv(10) == b"last"
    reactor.turn()
    assert connection.happened[-1] in (ConnectionDone, ConnectionLost)


def test_aborting_resets_the_connection(reactor, connect, listening):
    listening, server = listening
    connection, _ = connect(server)
    connection.transport.write(b"x" * 20_000_000)
    connection.transport.abortConnection()
    assert len(connection.happened) == 2
    with accept(listening) as peer:
        try:
            while peer.recv(1 << 20):
                pass
        except ConnectionResetError:
            pass


def test_a_peer_that_resets_is_reported_and_writing_to_it_does_no_harm(reactor, connect, listening):
    listening, server = listening
    connection, _ = connect(server)
    peer = accept(listening)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    peer.close()
    connection.transport.write(b"is anybody there?")
    connection.transport.write(b"hello?")
    reactor.turn()
    assert connection.happened[1] in (ConnectionDone, ConnectionLost)


def test_a_peer_that_resets_while_much_is_unsent_is_reported(reactor, connect, listening):
    listening, server = listening
    connection, _ = connect(server)
    connection.transport.write(b"x" * 20_000_000)
    connection.transport.loseConnection()
    accept(listening).close()
    reactor.turn()
    assert connection.happened[1] in (ConnectionDone, ConnectionLost)


def test_a_refused_connection_is_reported_asynchronously_with_twisteds_message(
    reactor, connect, refusing, tmp_path
):
    for server, why in (
        (refusing, "Connection refused"),
        (f"unix:{tmp_path}/none", "No such file or directory"),
        (f"unix:{'x' * 200}", "path too long"),
    ):
        connection, _ = connect(server)
        assert connection.happened == []
        if reactor.readers:
            reactor.turn()
        reactor.advance(0)
        (reason,) = connection.happened
        assert why.lower() in reason.lower(), reason


def test_a_connection_attempt_without_free_descriptors_fails(reactor, connect, refusing):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        connection, _ = connect(refusing)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    reactor.advance(0)
    (reason,) = connection.happened
    assert "Too many open files" in reason


def test_an_unanswered_connection_attempt_times_out(reactor, connect, silent):
    connection, _ = connect(silent)
    reactor.advance(CONNECT_TIMEOUT - 0.1)
    assert connection.happened == []
    reactor.advance(0.2)
    assert connection.happened == ["User timeout caused connection failure."]


def test_a_connection_attempt_that_is_answered_late_succeeds(reactor, connect):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        with socket.create_connection(listening.getsockname()):
            connection, _ = connect(f"tcp:127.0.0.1:{listening.getsockname()[1]}")
            assert connection.happened == []
            for _ in range(2):  # the kernel tries again after a second
                listening.accept()[0].close()
                if not connection.happened:
                    reactor.turn()
    assert connection.happened[0] == "opened"
    while connection.happened == ["opened"]:
        reactor.turn()


def test_a_cancelled_connection_attempt_is_reported_at_once(reactor, connect, silent, refusing):
    for server in (silent, refusing):
        connection, connecting = connect(server)
        connecting.cancel()
        assert len(connection.happened) == 1
        connecting.cancel()
    assert len(connection.happened) == 1


def test_connecting_to_a_unix_socket_with_a_full_queue_is_retried(reactor, connect, tmp_path):
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(str(tmp_path / "s"))
        listening.listen(0)
        first.connect(str(tmp_path / "s"))
        made, _ = connect(f"unix:{tmp_path / 's'}")
        given_up, _ = connect(f"unix:{tmp_path / 's'}")
        reactor.advance(1)
        assert made.happened == given_up.happened == []
        listening.accept()[0].close()
        reactor.advance(1)
        assert [made.happened, given_up.happened] in ([["opened"], []], [[], ["opened"]])
        if not made.happened:
            made, given_up = given_up, made
        for _ in range(MAX_TRIES):
            reactor.advance(RETRY)
        assert "temporarily unavailable" in given_up.happened[0]
    made.transport.loseConnection()


@pytest.mark.parametrize(
    "server",
    [
        "tcp:localhost:80",
        "tcp:127.0.0.1:80:timeout=3",
        r"tcp:fe80\:\:1%eth0:80",
        "unix:/path:timeout=3",
        "tls:127.0.0.1:80",
    ],
)
def test_an_endpoint_with_further_options_is_no_plain_address(server):
    assert plain_address(server) is None


@pytest.mark.parametrize("server", ["tcp:127.0.0.1:0", "tcp:127.0.0.1:65536", "nonsense:1:2"])
def test_an_address_that_cannot_be_right_is_refused(server):
    with pytest.raises(ValueError):  # noqa: PT011  # the reasons have unit tests
        plain_address(server)


def test_the_host_and_the_port_may_be_named():
    assert plain_address("tcp:host=127.0.0.1:port=80") == plain_address("tcp:127.0.0.1:80")


def test_only_addresses_of_other_machines_are_remote():
    assert not plain_address("tcp:127.0.0.1:80").is_remote
    assert not plain_address(r"tcp:\:\:1:80").is_remote
    assert not plain_address("unix:/path").is_remote
    assert plain_address("tcp:192.0.2.1:80").is_remote
    assert plain_address(r"tcp:2001\:db8\:\:1:80").is_remote


def test_keepalive_is_set_for_remote_peers_only(reactor):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        for is_remote in (False, True):
            connection = Noting()
            address = PlainAddress(socket.AF_INET, listening.getsockname(), is_remote)
            transport = ClientTransport(reactor, connected(listening), address, connection)
            transport.setTcpNoDelay(True)
            with socket.socket(fileno=os.dup(transport.fileno())) as same:
                assert same.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == is_remote
                assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            transport.loseConnection()
