"""The other end of a connection: which party it belongs to, and whether it may speak for other callers."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Set
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from taskd.net.buffered_socket import Handle
from taskd.net.server_transport import ServerTransport

__all__ = ["address_key", "ends_of", "is_proven", "is_trusted", "party_key", "user_key"]

UNKNOWN = "unknown"
"""The key of connections whose other end has no address, such as those of tests."""

PREFIX = 64
"""Bits of an IPv6 address that count: a network of this size is what one customer gets at least."""

CACHED = 1024
"""IPv6 addresses whose key is remembered, since to find it takes 10 µs."""

LOOPBACK = "::1"
"""The key of IPv6's loopback address, which counts alone and not as a network."""

_CREDENTIALS = struct.Struct("3i")
"""The value of SO_PEERCRED: process, user and group."""


def party_key(transport: Any) -> str:
    """Return the key of the party at the other end of an accepted connection.

    That is an IPv4 address ("192.0.2.7", also if it comes mapped into IPv6), the
    /64 of an IPv6 address ("2001:db8::/64"), or the user of a unix socket ("uid 1000").
    """
    host = transport.host if isinstance(transport, ServerTransport) else _host(transport)
    if host is None:
        return _user(transport)
    return _ipv6_key(host) if ":" in host else host


def address_key(host: str) -> str:
    """Return the key of the party at an IP address."""
    return _ipv6_key(host) if ":" in host else host


def user_key(sock: Handle) -> tuple[str, int]:
    """Return the key of the user at the other end of a unix socket, and the process that has connected it.

    Raises `OSError` if the connection is gone.
    """
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(found)
    return f"uid {user}", process


def is_trusted(transport: Any) -> bool:
    """Return whether a connection may name callers, as gateways do for their websockets.

    That is so for connections from this machine and those with a client
    certificate, which TLS has verified against ``clientCA``.
    """
    host = _host(transport)
    if host is None:
        return _user(transport) != UNKNOWN
    key = address_key(host)
    if key == LOOPBACK or key.startswith("127."):
        return True
    certificate = getattr(transport, "getPeerCertificate", None)
    return certificate is not None and certificate() is not None


def is_proven(transport: Any, own_ends: Set[object]) -> bool:
    """Return whether it is proven that a connection may name callers, whatever address it comes from.

    That is so for a client certificate, which TLS has verified; for the process's own user, or root, on a
    unix socket; and for a connection of this process, both of whose ends are in `own_ends`.
    """
    certificate = getattr(transport, "getPeerCertificate", None)
    if certificate is not None:
        return certificate() is not None
    sock = transport.getHandle() if isinstance(transport, ServerTransport) else None
    if sock is None:
        return False
    if sock.family == socket.AF_UNIX:
        return user_key(sock)[0] in (f"uid {os.geteuid()}", "uid 0")
    try:
        return bool(own_ends) and ends_of(sock, from_server=True) in own_ends
    except OSError:  # it is gone
        return False


def ends_of(sock: Handle, *, from_server: bool = False) -> object:
    """Return the addresses of a TCP connection's two ends, that of the client first; None on a unix socket.

    Raises `OSError` if the connection is gone.
    """
    own, other = sock.getsockname(), sock.getpeername()
    if not isinstance(own, tuple):
        return None
    return (other, own) if from_server else (own, other)


def _host(transport: Any) -> str | None:
    if isinstance(transport, ServerTransport):
        return transport.host
    return getattr(transport.getPeer(), "host", None)


def _user(transport: Any) -> str:
    sock = transport.getHandle() if isinstance(transport, ServerTransport) else None
    if sock is None or sock.family != socket.AF_UNIX:
        return UNKNOWN
    return user_key(sock)[0]


@lru_cache(CACHED)
def _ipv6_key(host: str) -> str:
    address = IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_loopback:
        return LOOPBACK
    return str(IPv6Network((address, PREFIX), strict=False))
