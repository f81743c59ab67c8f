"""Connections on blocking sockets: one `Conversation` on each, for one thread at a time."""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Protocol, cast

from taskd.client.addresses import Address, UnixAddress, WebSocketAddress
from taskd.client.conversation import MAX_CALLS, PING_INTERVAL, Conversation
from taskd.client.tokens import Credentials, ShownToken
from taskd.client.waiting import Reply
from taskd.errors import NotAllowed

if TYPE_CHECKING:
    from ssl import SSLContext, SSLSocket

    from msgspec import Raw

__all__ = [
    "ConnectFailed",
    "Connection",
    "Framing",
    "LineFraming",
    "connect",
    "set_options",
    "why_lost",
    "why_not",
]

READ_SIZE = 64 * 1024
"""Bytes that are read at once: more than nearly every reply has."""

SEND_TIMEOUT = 30.0
"""Seconds after which a server that takes nothing is given up: it refuses a message itself after 10."""

CANCEL_SECONDS = 1.0
"""Seconds to wait for the end of a task that is cancelled because its program is interrupted: a connection
that is closed before the server has read the cancel may take that away."""

KEEPALIVE = 20
"""Seconds of silence after which the kernel probes a server, and between two of three probes."""


_log = logging.getLogger("taskd.client")


class ConnectFailed(Exception):
    """A connection could not be made; the text is why. `may_pass`: whether another try may succeed."""

    def __init__(self, why: str, *, may_pass: bool) -> None:
        super().__init__(why)
        self.why = why
        self.may_pass = may_pass


class Framing(Protocol):
    """How messages are framed on a connection."""

    def outgoing(self, conversation: Conversation, now: float) -> bytes:
        """Return the bytes that must be sent now."""

    def incoming(self, data: bytes, conversation: Conversation, now: float) -> None:
        """Pass on what has arrived."""


class LineFraming:
    """Messages as lines. Is a `Framing`."""

    def outgoing(self, conversation: Conversation, now: float) -> bytes:
        """Return the bytes that must be sent now. As `Framing.outgoing`."""
        return conversation.data_to_send(now)

    def incoming(self, data: bytes, conversation: Conversation, now: float) -> None:
        """Pass on what has arrived. As `Framing.incoming`."""
        conversation.receive(data, now)


class Connection:
    """A connection to a task server that is open. Every wait is bounded by the heartbeat.

    `events` collects what is pushed. `pid` is the process that made it: no other may use it.
    With `credentials`, it shows the `token` first, and others before that expires.
    """

    def __init__(
        self,
        sock: socket.socket,
        server: str,
        framing: Framing,
        *,
        is_secured: bool = False,
        window: int = MAX_CALLS,
        is_gateway: bool = False,
        ping_interval: float = PING_INTERVAL,
        credentials: Credentials | None = None,
        token: str | None = None,
    ) -> None:
        self.events: list[Raw] = []
        self._credentials = credentials
        self.pid = os.getpid()
        self.idle_since = 0.0
        self.conversation = Conversation(
            server,
            window=window,
            is_gateway=is_gateway,
            on_event=self.events.append,
            ping_interval=ping_interval,
            shown=None if credentials is None else ShownToken(is_renewable=credentials.is_renewable),
            renew=self._renew,
        )
        self.conversation.opened(monotonic(), token)
        sock.settimeout(0)
        self._socket = sock
        self._is_secured = is_secured
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        self._framing = framing
        self._is_midway = False  # in a message that is being sent

    def _renew(self) -> None:
        """Show another token. If there is none, the server closes the connection when this one expires."""
        assert self._credentials is not None
        try:
            self.conversation.show(self._credentials.next())
        except NotAllowed as error:
            _log.warning("no new token for %s: %s", self.conversation.server, error, exc_info=error.__cause__)

    @property
    def is_usable(self) -> bool:
        """Whether another call may be sent."""
        return self.conversation.takes_calls and not self._is_midway

    def send(self, *calls: Reply) -> None:
        """Send calls that were added to the conversation; whether that was possible stands in each."""
        self.flush()
        if not self.conversation.is_over:
            for reply in calls:
                reply.was_written = True

    def flush(self) -> None:
        """Send the messages that are due; if that fails, the conversation is over."""
        data = self._framing.outgoing(self.conversation, monotonic())
        if not data:
            return
        self._is_midway = True
        try:
            sent = self._send(data)
            if sent < len(data):
                rest = memoryview(data)[sent:]
                while rest:
                    rest = rest[self._send(rest) :]
        except OSError as error:
            self._read_reason()
            self.conversation.lost(why_lost(error))
        self._is_midway = False

    def _send(self, data: bytes | memoryview) -> int:
        """Send some of the data, as soon as that is possible; returns how much."""
        while True:
            try:
                return self._socket.send(data)
            except OSError as error:
                if not _is_nothing_yet(error):
                    raise
            if not _writable(self._socket, SEND_TIMEOUT):
                raise TimeoutError

    def _read_reason(self) -> None:
        """Read what the server has sent before it took no more: the reason, perhaps."""
        with suppress(OSError):
            while not self.conversation.is_over and (data := self._socket.recv(READ_SIZE)):
                self._framing.incoming(data, self.conversation, monotonic())

    def wait(self, until: float | None = None) -> bool:
        """Wait until something has arrived, or a ping is due; returns False once it is `until`."""
        conversation = self.conversation
        beat = conversation.next_beat()
        due = beat if until is None or (beat is not None and beat < until) else until
        arrived = self._has_arrived(None if due is None else due - monotonic())
        data = b""
        if arrived:
            try:
                data = self._socket.recv(READ_SIZE)
            except OSError as error:
                arrived = False
                if not _is_nothing_yet(error):
                    conversation.lost(why_lost(error))
        now = monotonic()
        if data:
            self._framing.incoming(data, conversation, now)
        elif arrived:
            conversation.lost("it closed the connection")
        if beat is not None and now >= beat:
            conversation.beat(now)
        self.flush()
        return until is None or now < until

    def _has_arrived(self, seconds: float | None) -> bool:
        """Wait until there may be something to be read, for so many seconds, or for ever."""
        if self._is_secured and cast("SSLSocket", self._socket).pending():
            return True
        if seconds is None:
            return bool(self._poller.poll())
        # Rounded up, so that what is due then really is.
        return bool(self._poller.poll(int(seconds * 1000) + 1 if seconds > 0 else 0))

    def is_alive(self) -> bool:
        """Return whether an idle connection may be used again, after taking in what has arrived on it."""
        while self._has_arrived(0):
            try:
                data = self._socket.recv(READ_SIZE)
            except OSError as error:
                return _is_nothing_yet(error)
            if not data:
                return False
            self._framing.incoming(data, self.conversation, monotonic())
            if self.conversation.is_over:
                return False
        return True

    def abandon(self, calls: Mapping[bytes, Reply]) -> None:
        """Have calls cancelled, and close: whoever waited for them has been interrupted."""
        try:
            if self.is_usable:
                for request_id, reply in calls.items():
                    if not reply.is_done:
                        self.conversation.cancel(request_id)
                self.flush()
                until = monotonic() + CANCEL_SECONDS
                while not all(reply.is_done for reply in calls.values()) and self.wait(until):
                    pass
        finally:
            self.close()

    def close(self) -> None:
        """Close; what is in flight goes on, unless its `on_disconnect` is "cancel"."""
        if self.pid == os.getpid():  # else this is a copy of another process's connection, which goes on
            with suppress(OSError):  # a fork made of this process meanwhile may have a copy as well
                self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _writable(sock: socket.socket, seconds: float) -> bool:
    """Wait until a socket takes data, or so many seconds are over; returns whether it does."""
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(seconds * 1000))


def _is_nothing_yet(error: OSError) -> bool:
    """Return whether an error means only that nothing has arrived, or that nothing can be sent now."""
    if isinstance(error, BlockingIOError):
        return True
    return type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")  # ssl may not be imported


def why_lost(error: OSError) -> str:
    """Return why a connection that was open has ended, in words."""
    if isinstance(error, TimeoutError):
        return f"it took nothing for {SEND_TIMEOUT:g} s"
    return "the connection broke" + (f" ({error.strerror})" if error.strerror else "")


# --- connecting --------------------------------------------------------------


def connect(
    address: Address,
    context: SSLContext | None,
    timeout: float,
    ping_interval: float = PING_INTERVAL,
    credentials: Credentials | None = None,
) -> Connection:
    """Open a connection within about `timeout` seconds. Raises `ConnectFailed`, `NotAllowed`.

    `context` is for TLS; without one there is none. The token is sent with the first call.
    """
    token = None if credentials is None else credentials.next()
    sock = _connected(address, timeout)
    try:
        framing: Framing = LineFraming()
        window = MAX_CALLS
        is_secured = context is not None and not isinstance(address, UnixAddress)
        if context is not None and not isinstance(address, UnixAddress):
            sock = _secured(sock, context, address.host)
        if isinstance(address, WebSocketAddress):
            from taskd.client.websocket_frames import WINDOW, handshake  # which needs wsproto

            framing = handshake(sock, address)
            window = WINDOW
        return Connection(
            *(sock, address.text, framing),
            is_secured=is_secured,
            window=window,
            is_gateway=isinstance(address, WebSocketAddress),
            ping_interval=ping_interval,
            credentials=credentials,
            token=token,
        )
    except OSError as error:
        sock.close()
        raise ConnectFailed(why_not(error), may_pass=True) from error
    except BaseException:
        sock.close()
        raise


def _connected(address: Address, timeout: float) -> socket.socket:
    try:
        if isinstance(address, UnixAddress):
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(timeout)
                sock.connect(address.path)
            except BaseException:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((address.host, address.port), timeout)
    except OSError as error:
        may_pass = not isinstance(error, PermissionError)
        raise ConnectFailed(why_not(error), may_pass=may_pass) from error
    set_options(sock)
    return sock


def set_options(sock: socket.socket) -> None:
    """Have a TCP connection send at once, and the kernel probe a silent server."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE)


def _secured(sock: socket.socket, context: SSLContext, host: str) -> socket.socket:
    import ssl

    from taskd.client.tls_context import why_refused

    try:
        return context.wrap_socket(sock, server_hostname=host)
    except ssl.SSLError as error:
        raise ConnectFailed(why_refused(error, host), may_pass=False) from error


def why_not(error: OSError) -> str:
    """Return why a connection could not be made, in words."""
    if isinstance(error, socket.gaierror):
        return f"its host is unknown ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return (error.strerror or str(error) or type(error).__name__).lower()
