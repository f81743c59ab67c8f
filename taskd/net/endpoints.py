"""Endpoint strings, for servers and clients: Twisted's own, with errors that name the valid forms.

``tcp:``, ``unix:`` and all other kinds are Twisted's; `taskd.net.tls` makes
``ssl:`` servers and ``tls:`` clients.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, quoteStringArgument, serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.tcp import Port
from zope.interface import implementer

from taskd.net.client_addresses import endpoint_from, endpoint_parts
from taskd.net.passed_sockets import NO_SOCKETS, PassedEndpoint, PassedSockets
from taskd.net.reactor import Reactor
from taskd.net.tls import ssl_server, tls_client
from taskd.net.tls_port import RenewableCertificates

__all__ = [
    "CONNECT_TIMEOUT",
    "PlainAddress",
    "client_description",
    "client_endpoint",
    "keep_alive",
    "plain_address",
    "server_endpoint",
]

CONNECT_TIMEOUT = 5.0
"""Seconds to connect in: a person is waiting, and a server that is up answers in milliseconds."""

BACKLOG = 1024
"""Connections that may wait to be accepted: the kernel drops those beyond it,
and a client whose connection was dropped tries again only after a whole second."""

KEEPALIVE = 20
"""Seconds of silence after which the kernel probes a peer, and between two probes."""

KEEPALIVE_TRIES = 3
"""Unanswered probes after which the kernel gives the peer up."""

PLAIN = ("tcp", "tcp6", "unix")
"""Kinds of Twisted's server endpoints whose transports can be replaced."""

TransportMaker = Callable[..., object]
"""Makes a port's transports: for example the class `taskd.net.server_transport.ServerTransport`."""

SERVER_FORMS = (
    "tcp:PORT[:interface=ADDRESS], unix:PATH, systemd:NAME, or "
    "ssl:PORT:privateKey=FILE:certKey=FILE[:clientCA=FILE][:interface=ADDRESS]"
)
CLIENT_FORMS = (
    "HOST:PORT, tcp:HOST:PORT, unix:PATH, or "
    "tls:HOST:PORT[:trustRoots=FILE-OR-DIRECTORY][:certificate=FILE:privateKey=FILE]"
)


def server_endpoint(
    reactor: Reactor,
    description: str,
    transport: TransportMaker | None = None,
    certificates: list[RenewableCertificates] | None = None,
    passed: PassedSockets = NO_SOCKETS,
) -> IStreamServerEndpoint:
    """Return the endpoint that a server's endpoint string describes.

    `transport` replaces Twisted's transport (see `twisted.internet.tcp.Port`),
    under TLS as well. The certificates of a TLS port are appended to `certificates`.
    ``systemd:NAME`` is one of the `passed` sockets, which can also be written as Twisted
    does: ``systemd:domain=UNIX:name=NAME`` or ``…:index=0``.
    Raises `ValueError`, which names the valid forms, if
    `description` is not a valid endpoint.
    """
    try:
        kind, positional, named = endpoint_parts(description)
        if kind == "ssl":
            secured = ssl_server(reactor, *positional, **{"backlog": str(BACKLOG), **named})
            if certificates is not None:
                certificates.append(secured.certificates)
            return secured if transport is None else _ReplacedTransport(secured, transport)
        if kind == "systemd":
            endpoint: IStreamServerEndpoint = PassedEndpoint(reactor, _passed(passed, positional, named))
            return endpoint if transport is None else _ReplacedTransport(endpoint, transport)
        more = f":backlog={BACKLOG}" if kind in ("tcp", "unix") and "backlog" not in named else ""
        if kind == "unix" and "mode" not in named:
            more += ":mode=600"  # whoever can connect can run tasks
        endpoint = serverFromString(reactor, description + more)
        if transport is not None and kind in PLAIN:
            endpoint = _ReplacedTransport(endpoint, transport)
    except Exception as error:
        raise ValueError(
            f"{description!r} is no server endpoint ({_reason(error)}); write {SERVER_FORMS}"
        ) from error
    return endpoint


def _passed(passed: PassedSockets, positional: Sequence[str], named: Mapping[str, str]) -> socket.socket:
    """Return the socket that the arguments of ``systemd:`` mean. Raises `ValueError`."""
    wanted = [*positional, *(value for name, value in named.items() if name in ("name", "index"))]
    if len(wanted) != 1 or not named.keys() <= {"name", "index", "domain"}:
        raise ValueError("it names one socket, as in systemd:NAME")
    return passed.take(wanted[0])


def client_endpoint(
    reactor: Reactor, description: str, timeout: float = CONNECT_TIMEOUT
) -> IStreamClientEndpoint:
    """Return the endpoint that a client's endpoint string describes; `timeout` is in seconds.

    Addresses are understood as people write them (`taskd.net.client_addresses`).
    Raises `ValueError`, which names the valid forms, if `description` is neither.
    """
    try:
        completed = endpoint_from(description)
        kind, positional, named = endpoint_parts(completed)
        if kind == "tls":
            return tls_client(reactor, timeout, *positional, **named)
        more = f":timeout={round(timeout)}" if kind in ("tcp", "unix") and "timeout" not in named else ""
        endpoint: IStreamClientEndpoint = clientFromString(reactor, completed + more)
    except Exception as error:
        raise ValueError(
            f"{description!r} is no client endpoint ({_reason(error)}); write {CLIENT_FORMS}"
        ) from error
    return endpoint


@dataclass(frozen=True, slots=True)
class PlainAddress:
    """An address that a socket can connect to: its family, and its name as `socket.connect` takes it."""

    family: int
    name: str | tuple[str, int] | tuple[str, int, int, int]
    is_remote: bool


def plain_address(description: str) -> PlainAddress | None:
    """Return the address that a client's endpoint string is, if it is only an address.

    Returns None if the string contains a host name, TLS or an option. Raises
    `ValueError` if it is not a valid endpoint.
    """
    kind, positional, named = endpoint_parts(endpoint_from(description))
    match (kind, positional) if not named else None:
        case "tcp", [host, port] if port.isdecimal() and 0 < int(port) < 65536:
            if isIPAddress(host):
                return PlainAddress(socket.AF_INET, (host, int(port)), not host.startswith("127."))
            if isIPv6Address(host) and "%" not in host:
                return PlainAddress(socket.AF_INET6, (host, int(port), 0, 0), host != "::1")
        case "unix", [path] if path:
            return PlainAddress(socket.AF_UNIX, path, is_remote=False)
    return None


def client_description(address: IAddress) -> str | None:
    """Return the client endpoint string that reaches a server listening at `address`; None if unknown."""
    if isinstance(address, UNIXAddress):
        name = address.name.decode() if isinstance(address.name, bytes) else address.name
        if not name:
            return None
        quoted: str = quoteStringArgument(name).replace("=", "\\=")
        return f"unix:{quoted}"
    if isinstance(address, IPv4Address | IPv6Address):
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
        return f"tcp:{quoteStringArgument(host)}:{address.port}"
    return None


def _reason(error: Exception) -> str:
    """Return an error's text, without the name of the internal function that it names first."""
    return re.sub(r"^[\w.]+\(\) ", "", str(error)) or type(error).__name__


def keep_alive(handle: object) -> None:
    """Let the kernel detect a peer that has vanished; do nothing if `handle` is not a TCP socket.

    Options of a listening socket apply to every connection that it accepts.
    """
    if isinstance(handle, socket.SocketType) and handle.family in (socket.AF_INET, socket.AF_INET6):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_TRIES)


# --- servers with taskd's own transport ---------------------------------------


@implementer(IStreamServerEndpoint)
class _ReplacedTransport:
    """One of Twisted's server endpoints whose port makes its transports with `transport`."""

    def __init__(self, endpoint: IStreamServerEndpoint, transport: TransportMaker) -> None:
        self._endpoint = endpoint
        self._transport = transport

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:  # noqa: N803
        """Listen as Twisted's endpoint does, then replace the port's transport."""
        listening: Deferred[IListeningPort] = self._endpoint.listen(protocolFactory)
        return listening.addCallback(self._listening)

    def _listening(self, port: IListeningPort) -> IListeningPort:
        if isinstance(port, Port):
            port.transport = self._transport  # type: ignore[assignment]  # Twisted types it by its own class
            _no_delay(port.socket)
        return port


def _no_delay(listener: socket.socket) -> None:
    """Let TCP send without waiting for earlier acknowledgements.

    Options of a listening socket apply to every connection that it accepts.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
