"""A gateway in memory: its HTTP connections on fake sockets, and a task server that the test plays."""

import json
from types import SimpleNamespace

import msgspec
from msgspec import Raw
from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import TaskdError
from taskd.listeners.gate import Gate, GatedBackend
from taskd.listeners.origins import Origins
from taskd.listeners.peers import Peers
from taskd.listeners.websocket import WebSocketFactory
from taskd.model import Failure, Result
from taskd.net.pressure import watch_budget
from taskd.net.server_transport import ServerTransport
from taskd.scheduler.budget import Budget
from taskd.web import Root
from taskd.web.channel import GatewaySite
from tests.unit.listeners.test_tcp import FakeServer
from tests.unit.sockets import FakeReactor, FakeSocket

LONGEST = 1024 * 1024
"""Bytes of the longest message here."""


class Backend(FakeServer):
    """A backend that keeps what it is asked until the test answers it, and notes what was cancelled."""

    def __init__(self, budget):
        super().__init__()
        self.budget = budget
        self.cancelled = []
        self.detached = []
        self.pushed_to = None

    def submit(self, requests, requester):
        for request in requests:
            request.work = request
        super().submit(requests, requester)

    @property
    def asked(self):
        """The functions and arguments of what waits for an answer."""
        return [
            (request.function, None if request.args is None else json.loads(bytes(request.args)))
            for request, _ in self.waiting
        ]

    def reply(self, value):
        """Answer the oldest request: with a value, as JSON text if it is bytes, or with an error."""
        request, requester = self.waiting.pop(0)
        if isinstance(value, TaskdError):
            outcome = Failure.of(value)
        else:
            outcome = Result(Raw(value if isinstance(value, bytes) else msgspec.json.encode(value)))
        requester.task_ended(request, outcome)
        requester.flush()

    def cancel(self, work):
        self.cancelled.append(work.function)

    def detach(self, work, account=None, held=0):
        self.detached.append(work.function)

    def read_again(self, requester):
        pass

    def gone(self, requester):
        requester.watches = 0


class Reactor(FakeReactor):
    """A reactor for many descriptors, which knows which of them it reads."""

    def __init__(self):
        super().__init__()
        self.readers = set()
        self.writers = set()

    def addReader(self, reader):
        self.readers.add(reader)

    def removeReader(self, reader):
        self.readers.discard(reader)

    def addWriter(self, writer):
        self.writers.add(writer)

    def removeWriter(self, writer):
        self.writers.discard(writer)

    def readable(self, descriptor):
        self.reading = True
        super().readable(descriptor)

    def writable(self, descriptor):
        self.writing = True
        super().writable(descriptor)


class Client:
    """A client of the gateway, at the other end of a fake socket."""

    def __init__(self, reactor, site, host="192.0.2.7"):
        self.reactor = reactor
        self.socket = FakeSocket()
        self.channel = site.buildProtocol(None)
        self.transport = ServerTransport(self.socket, self.channel, (host, 1), None, 0, reactor)
        self.channel.makeConnection(self.transport)

    def send(self, data):
        """Send bytes, as far as they are read; return the rest."""
        while data and self.transport in self.reactor.readers:
            size = self.transport.read_size
            self.socket.incoming.append(data[:size])
            data = data[size:]
            self.reactor.readable(self.transport)
            self.turns()
        return data

    def turns(self):
        for _ in range(5):
            self.reactor.advance(0)
            self.read(0)

    def leave(self):
        """Close the connection, as far as that is noticed."""
        self.socket.incoming.append(b"")
        self.reactor.readable(self.transport)

    def read(self, room):
        """Take more of what the gateway sends."""
        self.socket.room += room
        while self.transport in self.reactor.writers and self.socket.room:
            self.reactor.writable(self.transport)

    @property
    def is_closed(self):
        self.turns()
        return self.socket.closed

    @property
    def answers(self):
        """The responses so far: the status, the headers, and the body, decoded if it is JSON."""
        rest, found = self.socket.sent, []
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            size = int(headers.get("content-length", 0))
            body, rest = rest[:size], rest[size:]
            if headers.get("content-type", "").endswith("json"):
                body = json.loads(body)
            found.append(SimpleNamespace(status=int(first.split()[1]), headers=headers, body=body))
        return found

    @property
    def answer(self):
        """The one response."""
        (answer,) = self.answers
        return answer


def http(method, path, body=None, *lines, host="localhost", kind="application/json", version="1.1"):
    """Make a request; a body that is not bytes is encoded as JSON."""
    head = [f"{method} {path} HTTP/{version}"]
    if host is not None:
        head.append(f"Host: {host}")
    head += lines
    data = b""
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head.append(f"Content-Length: {len(data)}")
        if kind is not None:
            head.append(f"Content-Type: {kind}")
    return ("\r\n".join(head) + "\r\n\r\n").encode() + data


class GatewayCase(SynchronousTestCase):
    """A test with a gateway; `client` is its first client."""

    limit = 32 * LONGEST
    verifier = None
    """What knows the tokens, if they are asked for; the time is that of the reactor."""

    compresses = False
    message_rate = None

    def setUp(self):
        self.reactor = Reactor()
        self.budget = Budget(self.limit, LONGEST)
        watch_budget(self.reactor, self.budget)
        self.backend = Backend(self.budget)
        self.peers = Peers(self.reactor, self.budget)
        self.gate, backend = None, self.backend
        if self.verifier is not None:
            self.gate = Gate(self.reactor, self.verifier, now=self.reactor.seconds)
            backend = GatedBackend(self.gate, self.backend)
        self.factory = WebSocketFactory(
            self.reactor,
            backend,
            self.peers,
            origins=Origins(["https://app.example"], ["tasks.example"]),
            max_message=LONGEST,
            max_in_flight=100,
            gate=self.gate,
            message_rate=self.message_rate,
            compresses=self.compresses,
        )
        root = Root(
            SimpleNamespace(factory=self.factory, readiness=SimpleNamespace(check=lambda: succeed(None)))
        )
        self.site = GatewaySite(self.reactor, root, self.budget, LONGEST - 1, root.access.admit)
        self.peers.on_stopping.append(self.site.stop_accepting)
        self.client = self.connect()

    def connect(self, host="192.0.2.7"):
        return Client(self.reactor, self.site, host)

    def asked(self, *request, **more):
        """Send a request on a connection of its own; return its response, which comes at once."""
        client = self.connect()
        client.send(http(*request, **more))
        return client.answer

    def tearDown(self):
        self.assertEqual(self.flushLoggedErrors(), [])
