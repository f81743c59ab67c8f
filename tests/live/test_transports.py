"""The transport of the task server's connections, over real sockets and under both kinds of reactors."""

import resource
import selectors
import socket
import struct
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from msgspec import Raw
from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data, File

from taskd.listeners.tcp import TaskFactory, TaskProtocol, TcpLimits
from taskd.listeners.wire import UnsentLimits
from taskd.model import Result
from taskd.net.endpoints import keep_alive, server_endpoint
from taskd.net.server_transport import ServerTransport
from taskd.scheduler.budget import Budget
from taskd.scheduler.parties import Parties
from taskd.server.unanswered import Unanswered
from tests.live.peers import in_thread
from tests.live.support import TIMEOUT, Connection, Daemon, Gate, connect_unix

Start = Callable[..., Daemon]

PING = b'{"function": "taskd.ping"}\n'
PONG = b'"pong"\n'


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def many(count: int, at_once: int, open_one: Callable[[], socket.socket]) -> list[bytes]:
    """Send one ping on each of `count` connections, `at_once` open at a time; return the replies."""
    replies: list[bytes] = []
    opened = 0
    with selectors.DefaultSelector() as selector:
        while len(replies) < count:
            while opened < count and opened - len(replies) < at_once:
                sock = open_one()
                selector.register(sock, selectors.EVENT_READ)
                sock.sendall(PING)
                opened += 1
            ready = selector.select(TIMEOUT)
            assert ready, "no reply"
            for key, _ in ready:
                replies.append(key.fileobj.recv(1000))
                selector.unregister(key.fileobj)
                key.fileobj.close()
    return replies


# --- in the daemon, under epoll ----------------------------------------------


def test_two_thousand_tcp_connections_with_one_request_each_are_served(start: Start) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    port = daemon.port()
    assert many(2000, 50, lambda: connect(port)) == [PONG] * 2000
    assert "Traceback" not in daemon.log


def test_many_unix_connections_with_one_request_each_are_served(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    daemon = start("--listen", f"unix:{path}", "--workers", "1").wait_until_ready()
    assert many(2000, 50, lambda: connect_unix(path).socket) == [PONG] * 2000
    assert "Traceback" not in daemon.log


def test_connections_reset_at_any_point_affect_no_other(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "2").wait_until_ready()
    other = daemon.connect()
    waiting = daemon.connect().send(gate.call())
    gate.wait_until_entered()
    for data in (b"", PING, PING[:5], PING * 1000, b'{"function": "hello"}\n'):
        for _ in range(20):
            sock = connect(daemon.port())
            sock.sendall(data)
            reset(sock)
    assert other.ask({"function": "hello"}) == "Hello, World!"
    reset(waiting.socket)
    gate.release()
    daemon.wait_for_status(lambda status: status["running"] == 0)
    assert "Traceback" not in daemon.log


def test_a_server_out_of_descriptors_serves_its_connections_and_accepts_again_later(
    start: Start,
) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    daemon.wait_for_workers(1)
    first = daemon.connect()
    assert first.ask({"function": "taskd.ping"}) == "pong"
    pid = daemon.process.pid
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 2, limits[1]))
    crowd = [connect(daemon.port()) for _ in range(20)]
    served = [sock for sock in crowd if answer(sock) == PONG]
    assert 0 < len(served) < 20
    assert first.ask({"function": "hello"}) == "Hello, World!"
    for sock in crowd:
        sock.close()
    # The server has noticed that they are closed once it has answered a later one.
    assert first.ask({"function": "taskd.ping"}) == "pong"
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert many(100, 20, lambda: connect(daemon.port())) == [PONG] * 100
    assert "Traceback" not in daemon.log


def answer(sock: socket.socket) -> bytes:
    """Return the reply to a ping; nothing if the connection was closed instead."""
    try:
        sock.sendall(PING)
        return sock.recv(1000)
    except ConnectionError:
        return b""


# --- in this process, under asyncio ------------------------------------------


class Server:
    """A server that answers a call with its arguments; while it `holds`, only on `release`."""

    def __init__(self, reactor: Any) -> None:
        self.connections = 0
        self.unanswered = Unanswered(reactor)
        self.budget = Budget()
        self.parties = Parties()
        self.holds = False
        self.pending: list[tuple[Any, Any]] = []

    def submit(self, requests: list[Any], requester: Any) -> None:
        for request in requests:
            if self.holds:
                self.pending.append((request, requester))
            else:
                requester.task_ended(request, Result(request.args))

    def release(self, value: bytes) -> None:
        pending, self.pending = self.pending, []
        for request, requester in pending:
            requester.task_ended(request, Result(Raw(value)))
            requester.flush()

    def resume(self, requester: object) -> None:
        pass

    def cancel(self, work: object) -> None:
        pass

    def detach(self, work: object, account: object, held: int) -> None:
        pass


class Factory(TaskFactory):
    """A factory that keeps the last protocol that it made."""

    last: TaskProtocol

    def buildProtocol(self, addr: Any) -> TaskProtocol | None:
        protocol = super().buildProtocol(addr)
        assert protocol is not None
        self.last = protocol
        return protocol


class Listening:
    """A task server's port in this process, without a pool behind it."""

    def __init__(self, description: str, limits: TcpLimits) -> None:
        from twisted.internet import reactor

        self.server = Server(reactor)
        self.factory = Factory(reactor, self.server, limits)
        ports: list[Any] = []
        endpoint = server_endpoint(reactor, description, ServerTransport)
        endpoint.listen(self.factory).addCallback(ports.append)
        (self.port,) = ports
        keep_alive(self.port.socket)

    @property
    def number(self) -> int:
        return self.port.getHost().port

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait, turn by turn, until something holds."""
        from twisted.internet import reactor

        ending = reactor.seconds() + TIMEOUT
        while not holds():
            assert reactor.seconds() < ending
            await deferLater(reactor, 0)

    def close(self) -> None:
        self.factory.abort()
        pytest_twisted.blockon(DeferredList([self.factory.close(), self.port.stopListening()]))


@pytest.fixture
def listen() -> Iterator[Callable[..., Listening]]:
    started: list[Listening] = []

    def start_one(
        description: str = "tcp:0:interface=127.0.0.1", limits: TcpLimits | None = None
    ) -> Listening:
        started.append(Listening(description, limits or TcpLimits()))
        return started[-1]

    yield start_one
    for one in started:
        one.close()


Listen = Callable[..., Listening]


def ask(sock: socket.socket, value: Any) -> Any:
    """Make a call with a value, which must come back."""
    connection = Connection(sock)
    try:
        return connection.ask({"function": "f", "args": [value]})
    finally:
        connection.close()


@pytest_twisted.ensureDeferred
async def test_the_transport_works_under_asyncio(listen: Listen) -> None:
    one = listen()
    for number in range(20):
        assert await in_thread(lambda: ask(connect(one.number), number)) == [number]  # noqa: B023
    await one.until(lambda: one.server.connections == 0)


@pytest_twisted.ensureDeferred
async def test_the_transport_works_over_ipv6(listen: Listen) -> None:
    one = listen("tcp:0:interface=\\:\\:1")
    assert await in_thread(lambda: ask(socket.create_connection(("::1", one.number), TIMEOUT), 1)) == [1]


@pytest_twisted.ensureDeferred
async def test_long_replies_arrive_whole_under_asyncio(listen: Listen) -> None:
    one = listen(limits=TcpLimits(unsent=UnsentLimits(max_unsent=100_000)))
    one.server.holds = True
    client = Connection(connect(one.number))
    client.send(*[{"function": "f"}] * 3).end_sending()
    await one.until(lambda: len(one.server.pending) == 3)
    text = "x" * 9_000_000
    one.server.release(b'"%s"' % text.encode())
    assert await in_thread(client.receive_all) == [text] * 3
    client.close()
    await one.until(lambda: one.server.connections == 0)


@pytest_twisted.ensureDeferred
async def test_half_close_works_under_asyncio(listen: Listen) -> None:
    one = listen()
    one.server.holds = True
    client = Connection(connect(one.number)).send({"function": "f"}).end_sending()
    await one.until(lambda: one.server.pending != [])
    one.server.release(b"7")
    assert await in_thread(client.receive_all) == [7]
    client.close()


@pytest_twisted.ensureDeferred
async def test_an_aborted_connection_is_reset(listen: Listen) -> None:
    one = listen()
    one.server.holds = True
    client = Connection(connect(one.number)).send({"function": "f"})
    await one.until(lambda: one.server.pending != [])
    one.factory.abort()
    with pytest.raises(ConnectionResetError):
        await in_thread(client.receive)
    await one.until(lambda: one.server.connections == 0)
    one.server.release(b"7")


@pytest_twisted.ensureDeferred
async def test_the_reset_of_a_peer_ends_the_connection(listen: Listen) -> None:
    one = listen()
    one.server.holds = True
    sock = connect(one.number)
    sock.sendall(b'{"function": "f"}\n')
    await one.until(lambda: one.server.pending != [])
    reset(sock)
    await one.until(lambda: one.server.connections == 0)
    one.server.release(b"7")


@pytest_twisted.ensureDeferred
async def test_a_reply_to_a_peer_that_ended_sending_and_then_reset_ends_the_connection(
    listen: Listen,
) -> None:
    """The connection is not watched in between: only sending the reply shows its end."""
    one = listen()
    one.server.holds = True
    sock = connect(one.number)
    sock.sendall(b'{"function": "f"}\n')
    sock.shutdown(socket.SHUT_WR)
    await one.until(lambda: one.server.pending != [])
    await one.until(lambda: not one.factory.last.client.is_reading)
    reset(sock)
    one.server.release(b'"%s"' % (b"x" * 1_000_000))
    await one.until(lambda: one.server.connections == 0)


@pytest_twisted.ensureDeferred
async def test_replies_do_not_wait_for_acknowledgements_and_vanished_peers_are_noticed(
    listen: Listen,
) -> None:
    one = listen()
    sock = connect(one.number)
    await one.until(lambda: one.server.connections == 1)
    server_side = one.factory.last.transport.getHandle()
    assert server_side.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert server_side.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    sock.close()


# --- HTTP over it ---------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[int]:
    """The port of a Twisted web server over this transport, with the pages `/little` and `/much`."""
    from twisted.internet import reactor

    root = Resource()
    root.putChild(b"little", Data(b"little", "text/plain"))
    (tmp_path / "much").write_bytes(b"x" * MUCH)
    root.putChild(b"much", File(str(tmp_path / "much")))
    endpoint = server_endpoint(reactor, "tcp:0:interface=127.0.0.1", ServerTransport)
    port: Any = pytest_twisted.blockon(endpoint.listen(Site(root)))
    yield port.getHost().port
    pytest_twisted.blockon(port.stopListening())


MUCH = 20_000_000
"""Bytes that no socket's buffers take at once."""


def get(connection: HTTPConnection, path: str, **headers: str) -> bytes:
    connection.request("GET", path, headers=headers)
    return connection.getresponse().read()


@pytest_twisted.ensureDeferred
async def test_http_requests_share_a_connection(site: int) -> None:
    connection = HTTPConnection("127.0.0.1", site, timeout=TIMEOUT)
    for path, body in [("/little", b"little"), ("/much", b"x" * MUCH), ("/little", b"little")]:
        assert await in_thread(get, connection, path) == body
    connection.close()


@pytest_twisted.ensureDeferred
async def test_http_responses_are_whole_before_the_connection_closes(site: int) -> None:
    for path, size in (("/little", 6), ("/much", MUCH)):
        sock = connect(site)
        sock.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
        response = await in_thread(read_to_the_end, sock)
        assert len(response.partition(b"\r\n\r\n")[2]) == size
        sock.close()


@pytest_twisted.ensureDeferred
async def test_pipelined_http_requests_are_answered_in_order(site: int) -> None:
    sock = connect(site)
    request = b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n"
    sock.sendall(request % (b"/much", b"") + request % (b"/little", b"Connection: close\r\n"))
    response = await in_thread(read_to_the_end, sock)
    assert response.count(b"HTTP/1.1 200 OK") == 2
    assert response.endswith(b"\r\n\r\nlittle")
    sock.close()


@pytest_twisted.ensureDeferred
async def test_an_http_client_that_disconnects_during_a_response_affects_no_other(site: int) -> None:
    for leave in (reset, socket.socket.close):
        sock = connect(site)
        sock.sendall(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await in_thread(sock.recv, 100)
        leave(sock)
    connection = HTTPConnection("127.0.0.1", site, timeout=TIMEOUT)
    assert await in_thread(get, connection, "/little") == b"little"
    connection.close()


def read_to_the_end(sock: socket.socket) -> bytes:
    received = bytearray()
    while data := sock.recv(1 << 20):
        received += data
    return bytes(received)
