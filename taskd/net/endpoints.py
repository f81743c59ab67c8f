"""Twisted's endpoint strings, with TLS that says what it refused.

``tcp:``, ``unix:`` and every other kind are Twisted's own. ``ssl:`` servers
and ``tls:`` clients are made here: a server can ask its clients for
certificates, and a client that refuses a server's certificate says why.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from service_identity.exceptions import VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet import ssl
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    SSL4ServerEndpoint,
    clientFromString,
    quoteStringArgument,
    serverFromString,
    wrapClientTLS,
)
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.tcp import Port
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from taskd.net.reactor import Reactor

__all__ = [
    "CONNECT_TIMEOUT",
    "CertificateRefused",
    "PlainAddress",
    "client_description",
    "client_endpoint",
    "keep_alive",
    "plain_address",
    "server_endpoint",
]

CONNECT_TIMEOUT = 5.0
"""Seconds to connect in: a person is waiting, and a server that is there answers in milliseconds."""

BACKLOG = 1024
"""Connections that wait to be accepted: past it the kernel drops them, and
their clients try again only after a whole second."""

KEEPALIVE = 20
"""Seconds after which the kernel asks a silent peer whether it is there, and between its questions."""

KEEPALIVE_TRIES = 3
"""Unanswered questions after which the peer is gone."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

PLAIN = ("tcp", "tcp6", "unix", "systemd")
"""Kinds of server endpoints whose ports make the transports that their protocols have."""

SERVER_FORMS = (
    "tcp:PORT[:interface=ADDRESS], unix:PATH, or "
    "ssl:PORT:privateKey=FILE:certKey=FILE[:clientCA=FILE][:interface=ADDRESS]"
)
CLIENT_FORMS = (
    "tcp:HOST:PORT, unix:PATH, or "
    "tls:HOST:PORT[:trustRoots=FILE-OR-DIRECTORY][:certificate=FILE:privateKey=FILE]"
)


def server_endpoint(
    reactor: Reactor, description: str, transport: Callable[..., Any] | None = None
) -> IStreamServerEndpoint:
    """The endpoint that a server's endpoint string describes.

    `transport` makes the transports of its plain connections, in the place of
    Twisted's: see `twisted.internet.tcp.Port`. TLS keeps Twisted's.
    Raises `ValueError`, with the forms that are right, for a string that is none.
    """
    try:
        kind, positional, named = _parse(description)
        if kind == "ssl":
            return _ssl_server(reactor, *positional, **named)
        more = f":backlog={BACKLOG}" if kind in ("tcp", "unix") and "backlog" not in named else ""
        if kind == "unix" and "mode" not in named:
            more += ":mode=600"  # who may connect may run tasks
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description + more)
        if transport is not None and kind in PLAIN:
            endpoint = _PlainServer(endpoint, transport)
    except Exception as error:
        raise ValueError(
            f"{description!r} is no server endpoint ({_said(error)}); write {SERVER_FORMS}"
        ) from error
    return endpoint


def client_endpoint(
    reactor: Reactor, description: str, timeout: float = CONNECT_TIMEOUT
) -> IStreamClientEndpoint:
    """The endpoint that a client's endpoint string describes; `timeout` is in seconds.

    Raises `ValueError`, with the forms that are right, for a string that is none.
    """
    try:
        kind, positional, named = _parse(description)
        if kind == "tls":
            return _tls_client(reactor, timeout, *positional, **named)
        more = f":timeout={round(timeout)}" if kind in ("tcp", "unix") and "timeout" not in named else ""
        endpoint: IStreamClientEndpoint = clientFromString(reactor, description + more)
    except Exception as error:
        raise ValueError(
            f"{description!r} is no client endpoint ({_said(error)}); write {CLIENT_FORMS}"
        ) from error
    return endpoint


@dataclass(frozen=True, slots=True)
class PlainAddress:
    """What a socket connects to: its family, and its name as `socket.connect` takes it."""

    family: int
    name: Any
    is_remote: bool


def plain_address(description: str) -> PlainAddress | None:
    """The address that a client's endpoint string is, where it is no more than one.

    None where there is a name to be looked up, TLS, or an option; or where it
    is no endpoint.
    """
    kind, positional, named = _parse(description)
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
    """The client endpoint string that reaches a server which listens at `address`; None for unknown kinds."""
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


def _parse(description: str) -> tuple[str, list[str], dict[str, str]]:
    """Kind, positional and named arguments; a backslash quotes the character behind it."""
    positional: list[str] = []
    named: dict[str, str] = {}
    for part in re.findall(r"(?:^|:)((?:\\.|[^:\\])*)", description):
        key, equals, value = _partition(part)
        if equals:
            named[key] = value
        else:
            positional.append(key)
    kind, *rest = positional
    return kind.lower(), rest, named


def _partition(part: str) -> tuple[str, bool, str]:
    match = re.match(r"((?:\\.|[^=\\])*)(=?)(.*)$", part, re.DOTALL)
    assert match is not None
    return _unquoted(match[1]), bool(match[2]), _unquoted(match[3])


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _said(error: Exception) -> str:
    """What an error says, without the name of the function of ours that it names."""
    return re.sub(r"^_\w+\(\) ", "", str(error)) or type(error).__name__


def keep_alive(handle: Any) -> None:
    """Have the kernel notice a peer that has vanished; nothing for a socket that is not TCP.

    What is set on a listening socket holds for all that it accepts.
    """
    if isinstance(handle, socket.SocketType) and handle.family in (socket.AF_INET, socket.AF_INET6):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_TRIES)


# --- servers -----------------------------------------------------------------


@implementer(IStreamServerEndpoint)
class _PlainServer:
    """An endpoint of Twisted's whose port makes its transports with `transport`."""

    def __init__(self, endpoint: IStreamServerEndpoint, transport: Callable[..., Any]) -> None:
        self._endpoint = endpoint
        self._transport = transport

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:  # noqa: N803
        """Listen, as `endpoint`."""
        listening: Deferred[IListeningPort] = self._endpoint.listen(protocolFactory)
        return listening.addCallback(self._listening)

    def _listening(self, port: IListeningPort) -> IListeningPort:
        if isinstance(port, Port):
            port.transport = self._transport  # type: ignore[assignment]  # Twisted types it by its own class
            _no_delay(port.socket)
        return port


def _no_delay(listener: socket.socket) -> None:
    """Have TCP send what is written without waiting for an answer to what it sent before.

    What is set on a listening socket holds for all that it accepts.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _ssl_server(
    reactor: Reactor,
    port: str,
    *,
    privateKey: str = "server.pem",  # noqa: N803  # Twisted's names, which its users know
    certKey: str | None = None,  # noqa: N803
    extraCertChain: str | None = None,  # noqa: N803
    clientCA: str | None = None,  # noqa: N803
    interface: str = "",
    backlog: str = str(BACKLOG),
) -> SSL4ServerEndpoint:
    """Twisted's ``ssl:``, and ``clientCA``: only clients with a certificate of these CAs get in."""
    own, *chain = _load_certificates(certKey if certKey is not None else privateKey)
    if extraCertChain is not None:
        chain += _load_certificates(extraCertChain)
    key = ssl.KeyPair.load(Path(privateKey).read_bytes(), crypto.FILETYPE_PEM)
    options = ssl.CertificateOptions(
        privateKey=key.original,
        certificate=own.original,
        extraCertChain=[certificate.original for certificate in chain],
        trustRoot=_trust_root(clientCA) if clientCA is not None else None,
    )
    _check_key(options)
    return SSL4ServerEndpoint(reactor, int(port), options, int(backlog), interface)


def _check_key(options: ssl.CertificateOptions) -> None:
    try:
        options.getContext().check_privatekey()
    except SSL.Error as error:
        raise ValueError("the private key does not belong to the certificate") from error


def _load_certificates(path: str) -> list[ssl.Certificate]:
    found = _CERTIFICATE.findall(Path(path).read_bytes())
    if not found:
        raise ValueError(f"there is no certificate in {path}")
    return [ssl.Certificate.loadPEM(text) for text in found]


def _trust_root(path: str) -> Any:
    """The CAs in a PEM file, or in the ``.pem`` and ``.crt`` files of a directory."""
    place = Path(path)
    files = [place]
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.suffix in (".pem", ".crt"))
    authorities = [certificate for file in files for certificate in _load_certificates(str(file))]
    if not authorities:
        raise ValueError(f"there is no certificate in {path}")
    return ssl.trustRootFromCertificates(authorities)


# --- clients -----------------------------------------------------------------


class CertificateRefused(SSL.Error):
    """The server's certificate was refused; the text says why.

    An `OpenSSL.SSL.Error`, so that Twisted gives it as the reason for which
    the connection was lost.
    """

    def __init__(self, why: str) -> None:
        super().__init__([("taskd", "", why)])  # in the form that Twisted takes OpenSSL's errors apart by
        self.why = why

    def __str__(self) -> str:
        """The reason alone."""
        return self.why


_UNTRUSTED = "it is not signed by a CA that is trusted here (unknown CA)"
_REASONS = {
    # X509_V_ERR_…, openssl/x509_vfy.h
    9: "it is not valid yet",
    10: "it has expired",
    18: f"it is self-signed: {_UNTRUSTED}",
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    23: "it has been revoked",
}


@implementer(IOpenSSLClientConnectionCreator)
class _VerifyingClient:
    """Makes TLS connections to a server that must prove to be `host`."""

    def __init__(self, host: str, options: ssl.CertificateOptions) -> None:
        self._host = host
        self._is_address = isIPAddress(host) or isIPv6Address(host)
        self._context = options.getContext()
        # On the context, and not on each connection: only what this one
        # raises is what pyOpenSSL raises from the handshake.
        self._context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verifier())

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection whose handshake fails with `CertificateRefused`, and not merely fails."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(tlsProtocol)
        if not self._is_address:
            connection.set_tlsext_host_name(self._host.encode("idna"))
        return connection

    def _verifier(self) -> Callable[[SSL.Connection, crypto.X509, int, int, int], bool]:
        host, is_address = self._host, self._is_address
        identity = IPAddress_ID(host) if is_address else DNS_ID(host)

        def verify(_: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
            whose = f"the certificate of {host} was refused"
            if not ok:
                raise CertificateRefused(
                    f"{whose}: {_REASONS.get(error, f'OpenSSL verification error {error}')}"
                )
            if depth == 0:
                patterns = extract_patterns(certificate)
                try:
                    verify_service_identity(patterns, [identity], [])
                except VerificationError:
                    raise CertificateRefused(
                        f"{whose}: it is for {_names(patterns)}, not for {host} (wrong name)"
                    ) from None
            return True

        return verify


def _names(patterns: Any) -> str:
    names = []
    for pattern in patterns:
        value = pattern.pattern
        names.append(value.decode("ascii", "replace") if isinstance(value, bytes) else str(value))
    return ", ".join(names) or "nobody"


def _tls_client(
    reactor: Reactor,
    timeout: float,
    host: str,
    port: str,
    *,
    trustRoots: str | None = None,  # noqa: N803  # Twisted's names, which its users know
    certificate: str | None = None,
    privateKey: str | None = None,  # noqa: N803
) -> IStreamClientEndpoint:
    """Twisted's ``tls:``, with a file allowed for ``trustRoots``, and reasons for a refusal."""
    key = own = None
    chain: list[ssl.Certificate] = []
    if certificate is not None:
        own, *chain = _load_certificates(certificate)
        key = ssl.KeyPair.load(Path(privateKey or certificate).read_bytes(), crypto.FILETYPE_PEM)
    options = ssl.CertificateOptions(
        trustRoot=_trust_root(trustRoots) if trustRoots is not None else ssl.platformTrust(),
        privateKey=key.original if key is not None else None,
        certificate=own.original if own is not None else None,
        extraCertChain=[link.original for link in chain] or None,
    )
    if key is not None:
        _check_key(options)
    tcp = HostnameEndpoint(reactor, host, int(port), timeout=timeout)
    endpoint: IStreamClientEndpoint = wrapClientTLS(_VerifyingClient(host, options), tcp)
    return endpoint
