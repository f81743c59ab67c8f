"""Peers in the reactor of this process: websocket clients and scripted task servers."""

from __future__ import annotations

import json

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol, connectWS
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue, maybeDeferred
from twisted.internet.protocol import ServerFactory
from twisted.internet.threads import deferToThread
from twisted.protocols.basic import LineReceiver

SOON = 10.0
"""Seconds after which something that takes milliseconds will not happen any more."""


def within(deferred, seconds=SOON):
    """Make the Deferred fail with `TimeoutError` if it has not fired after so many seconds."""
    return deferred.addTimeout(seconds, reactor)


def in_thread(function, *args):
    """Run a blocking function in a thread, so that the peers in this process go on."""
    return deferToThread(function, *args)


# --- websockets --------------------------------------------------------------


class WebSocket(WebSocketClientProtocol):
    """A websocket client. `opened` fires with it; `closed` with the close code and the reason, if any."""

    def __init__(self):
        super().__init__()
        self.opened = Deferred()
        self.closed = Deferred()
        self._received = DeferredQueue()
        self._was_opened = False

    def onOpen(self):
        self._was_opened = True
        self.opened.callback(self)

    def onMessage(self, payload, isBinary):  # noqa: N803
        assert not isBinary, "replies are text"
        self._received.put(payload.decode("utf-8"))

    def onClose(self, wasClean, code, reason):  # noqa: N803
        if not self._was_opened:
            self.opened.errback(ConnectionError(reason))
        self._received.put(ConnectionError(f"the websocket was closed: {code} {reason}"))
        self.closed.callback((code, reason))

    def send(self, *messages):
        """Send each message: text and bytes unchanged, anything else as JSON."""
        for message in messages:
            text = message if isinstance(message, str | bytes) else json.dumps(message)
            self.sendMessage(text.encode() if isinstance(text, str) else text)
        return self

    def receive(self):
        """Return a Deferred of the next message, as text; it fails if the websocket is closed instead."""
        return within(self._received.get()).addCallback(_message)

    async def receive_json(self):
        """Return the next message, parsed as JSON."""
        return json.loads(await self.receive())

    async def ask(self, message):
        """Send one message, and return the next one, parsed as JSON."""
        return await self.send(message).receive_json()

    @property
    def unread(self):
        """The number of messages received and not yet read."""
        return len(self._received.pending)

    def go(self):
        """Drop the connection without a close frame."""
        self.transport.abortConnection()


def _message(received):
    if isinstance(received, Exception):
        raise received
    return received


def open_websocket(url, *, origin=None, context=None):
    """Return a Deferred of a `WebSocket`. `context` is for ``wss://``."""
    factory = WebSocketClientFactory(url, origin=origin, reactor=reactor)
    factory.noisy = False
    socket = WebSocket()
    socket.factory = factory
    factory.buildProtocol = lambda _: socket
    factory.clientConnectionFailed = lambda _, reason: socket.opened.errback(reason)
    connectWS(factory, context)
    return within(socket.opened)


def rpc(method, params=None, request_id=1, **options):
    """Make a JSON-RPC request; without an id (None) a notification."""
    message = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    if request_id is not None:
        message["id"] = request_id
    if options:
        message["options"] = options
    return message


def bare(function, args=None, **options):
    """Make a bare request, as Workerman's example sends it."""
    message = {"function": function}
    if args is not None:
        message["args"] = args
    if options:
        message["options"] = options
    return message


# --- fake task servers -------------------------------------------------------


class FakeConnection(LineReceiver):
    """A connection to a `FakeTaskServer`."""

    delimiter = b"\n"
    MAX_LENGTH = 64 * 1024 * 1024

    def connectionMade(self):
        self.factory.connections.append(self)
        self.factory.open_connections += 1
        self.factory.most_open = max(self.factory.most_open, self.factory.open_connections)

    def lineReceived(self, line):
        message = Received(self, line)
        self.factory.messages.append(message)
        self.factory.behave(message)
        self.factory.inbox.put(message)

    def connectionLost(self, reason):
        self.factory.open_connections -= 1
        self.factory.losses.put(self)


class Received:
    """One message received by a `FakeTaskServer`."""

    def __init__(self, connection, line):
        self.connection = connection
        self.line = line
        self.content = json.loads(line)

    @property
    def is_bare(self):
        return "function" in self.content

    @property
    def function(self):
        return self.content["function"] if self.is_bare else self.content["method"]

    def answer(self, result=None):
        """Answer with a result."""
        self._send(result if self.is_bare else self._rpc(result=result))

    def fail(self, code, message, data=None):
        """Answer with an error."""
        error = {"code": code, "message": message} | ({} if data is None else {"data": data})
        self._send({"error": error} if self.is_bare else self._rpc(error=error))

    def close(self):
        """Close the connection instead of answering."""
        self.connection.transport.loseConnection()

    def _rpc(self, **outcome):
        return {"jsonrpc": "2.0", "id": self.content.get("id"), **outcome}

    def _send(self, reply):
        self.connection.sendLine(json.dumps(reply).encode())


class FakeTaskServer(ServerFactory):
    """A task server that passes each message to `behave`, which by default does nothing."""

    protocol = FakeConnection
    noisy = False

    def __init__(self, behave=lambda message: None):
        self.behave = behave
        self.open_connections = 0
        self._forget()
        self.port = reactor.listenTCP(0, self, backlog=1024, interface="127.0.0.1")
        self.endpoint = f"tcp:127.0.0.1:{self.port.getHost().port}"

    def _forget(self):
        self.connections = []
        self.messages = []
        self.most_open = self.open_connections
        self.inbox = DeferredQueue()
        self.losses = DeferredQueue()

    async def restart(self, behave=lambda message: None):
        """Drop every connection and start afresh, for the next test."""
        for connection in self.connections:
            if connection.connected:
                connection.transport.abortConnection()
        while self.open_connections:
            await self.lost()
        self._forget()
        self.behave = behave

    def received(self):
        """Return a Deferred of the next message."""
        return within(self.inbox.get())

    def lost(self):
        """Return a Deferred of the next connection that is lost."""
        return within(self.losses.get())

    def close(self):
        """Stop listening and drop every connection; return a Deferred that fires when that is done."""
        for connection in self.connections:
            if connection.connected:
                connection.transport.abortConnection()
        return maybeDeferred(self.port.stopListening)


# --- tasks that are held -----------------------------------------------------


def entered(gate):
    """Return a Deferred that fires once a task waits at `gate`, while the reactor of this process runs."""
    return deferToThread(gate.wait_until_entered)
