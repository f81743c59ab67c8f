"""TLS for endpoint strings: ``ssl:`` servers and ``tls:`` clients.

Unlike Twisted's, a server can require certificates of its clients, and a client
that refuses a server's certificate reports the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from OpenSSL import SSL, crypto
from service_identity.exceptions import VerificationError
from service_identity.hazmat import (
    DNS_ID,
    DNSPattern,
    IPAddress_ID,
    IPAddressPattern,
    verify_service_identity,
)
from service_identity.pyopenssl import extract_patterns
from twisted.internet import ssl
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from taskd.net.pem_files import load_certificates, load_key, load_trust
from taskd.net.reactor import Reactor
from taskd.net.tls_port import TlsPortEndpoint, note_handshakes

if TYPE_CHECKING:
    from service_identity.hazmat import CertificatePattern

__all__ = ["CertificateRefused", "ServerCertificates", "ssl_server", "tls_client"]


# --- servers -----------------------------------------------------------------


def ssl_server(
    reactor: Reactor,
    port: str,
    *,
    privateKey: str = "server.pem",  # noqa: N803  # Twisted's names, which its users know
    certKey: str | None = None,  # noqa: N803
    extraCertChain: str | None = None,  # noqa: N803
    clientCA: str | None = None,  # noqa: N803
    interface: str = "",
    backlog: str,
) -> TlsPortEndpoint:
    """Make an ``ssl:`` server with Twisted's options, and one more.

    ``clientCA`` names CAs: clients without a certificate of theirs are refused.
    Raises `ValueError`, `TypeError`, `OSError` or `OpenSSL`'s errors if an option is wrong.
    """

    def read() -> ssl.CertificateOptions:
        own, *chain = load_certificates(certKey if certKey is not None else privateKey)
        if extraCertChain is not None:
            chain += load_certificates(extraCertChain)
        options = ssl.CertificateOptions(
            privateKey=load_key(privateKey),
            certificate=own.original,
            extraCertChain=[certificate.original for certificate in chain],
            trustRoot=load_trust(clientCA) if clientCA is not None else None,
        )
        _check_key(options, privateKey)
        note_handshakes(options.getContext())
        return options

    return TlsPortEndpoint(reactor, int(port), ServerCertificates(read), int(backlog), interface)


@implementer(IOpenSSLServerConnectionCreator)
class ServerCertificates:
    """The certificates of a TLS port: its own with its key, and the CAs of its clients.

    `read` reads their files.
    """

    def __init__(self, read: Callable[[], ssl.CertificateOptions]) -> None:
        self._read = read
        self.options = read()
        """What new connections use."""

    def read_again(self) -> None:
        """Use for new connections what the files have now.

        If that is impossible, nothing changes. Raises then as `ssl_server` does.
        """
        self.options = self._read()

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802
        """Make the TLS connection for a new connection."""
        make = getattr(self.options, "serverConnectionForTLS", None)
        connection: SSL.Connection
        if make is not None:
            connection = make(tlsProtocol)
        else:
            connection = SSL.Connection(self.options.getContext(), None)  # an older Twisted
        connection.set_app_data(tlsProtocol)  # for `note_handshakes`
        return connection


def _check_key(options: ssl.CertificateOptions, path: str) -> None:
    """Raise `ValueError` if the private key, which is from a file, does not belong to the certificate."""
    try:
        options.getContext().check_privatekey()
    except SSL.Error as error:
        raise ValueError(f"the private key in {path} does not belong to the certificate") from error


# --- clients -----------------------------------------------------------------


class CertificateRefused(SSL.Error):
    """A server's certificate was refused; the text is the reason.

    This is an `OpenSSL.SSL.Error`, so that Twisted reports it as the reason for
    the loss of the connection.
    """

    def __init__(self, why: str) -> None:
        super().__init__([("taskd", "", why)])  # the form of OpenSSL's own errors, which Twisted parses
        self.why = why

    def __str__(self) -> str:
        """Return the reason alone."""
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
    """A maker of TLS connections to a server that must prove that it is `host`."""

    def __init__(self, host: str, options: ssl.CertificateOptions) -> None:
        self._host = host
        self._is_address = isIPAddress(host) or isIPv6Address(host)
        self._context = options.getContext()
        # Set on the context and not on each connection, since pyOpenSSL raises from
        # the handshake only what the context's callback has raised.
        self._context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verifier())

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Make a connection whose handshake raises `CertificateRefused` for a bad certificate."""
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


def _names(patterns: Sequence[CertificatePattern]) -> str:
    """Return the names that a certificate is for."""
    names = []
    for pattern in patterns:
        match pattern:
            case DNSPattern():
                names.append(pattern.pattern.decode("ascii", "replace"))
            case IPAddressPattern():
                names.append(str(pattern.pattern))
    return ", ".join(names) or "nobody"


def tls_client(
    reactor: Reactor,
    timeout: float,
    host: str,
    port: str,
    *,
    trustRoots: str | None = None,  # noqa: N803  # Twisted's names, which its users know
    certificate: str | None = None,
    privateKey: str | None = None,  # noqa: N803
) -> IStreamClientEndpoint:
    """Make a ``tls:`` client with Twisted's options, which reports why it refuses a certificate.

    `timeout` is in seconds. ``trustRoots`` may also be a file. Raises as `ssl_server` does.
    """
    key = own = None
    chain: list[ssl.Certificate] = []
    if certificate is not None:
        own, *chain = load_certificates(certificate)
        key = load_key(privateKey or certificate)
    options = ssl.CertificateOptions(
        trustRoot=load_trust(trustRoots) if trustRoots is not None else ssl.platformTrust(),
        privateKey=key,
        certificate=own.original if own is not None else None,
        extraCertChain=[link.original for link in chain] or None,
    )
    if key is not None:
        _check_key(options, privateKey or certificate or "")
    tcp = HostnameEndpoint(reactor, host, int(port), timeout=timeout)
    endpoint: IStreamClientEndpoint = wrapClientTLS(_VerifyingClient(host, options), tcp)
    return endpoint
