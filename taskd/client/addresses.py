"""The address of a task server or a gateway, as a client without Twisted uses it."""

from __future__ import annotations

import os

import msgspec

from taskd.net.client_addresses import (
    HERE,
    WEBSOCKET_FORMS,
    endpoint_from,
    endpoint_parts,
    is_websocket,
    websocket_url,
)

__all__ = [
    "DEFAULT_SERVER",
    "FORMS",
    "VARIABLE",
    "Address",
    "TcpAddress",
    "TlsFiles",
    "UnixAddress",
    "WebSocketAddress",
    "server_address",
]

VARIABLE = "TASKD_SERVER"
"""The environment variable with the address that a client uses if its program gives none."""

DEFAULT_SERVER = f"{HERE}:12345"
"""The address where a task server listens by default."""

FORMS = (
    "HOST:PORT, tcp:HOST:PORT, unix:PATH, "
    "tls:HOST:PORT[:trustRoots=FILE-OR-DIRECTORY][:certificate=FILE:privateKey=FILE], "
    f"{WEBSOCKET_FORMS}"
)

_TLS_OPTIONS = {"trustRoots": "trust_roots", "certificate": "certificate", "privateKey": "private_key"}


class TlsFiles(msgspec.Struct, frozen=True):
    """The PEM files of a TLS client: CAs (a file or a directory), its own certificate, and the key of that.

    Without CAs, those of the system are trusted.
    """

    trust_roots: str | None = None
    certificate: str | None = None
    private_key: str | None = None


class TcpAddress(msgspec.Struct, frozen=True):
    """A task server's port; `tls` is None if it speaks no TLS. `text` is how the address was written."""

    text: str
    host: str
    port: int
    tls: TlsFiles | None = None


class UnixAddress(msgspec.Struct, frozen=True):
    """A task server's unix socket. `text` is how the address was written."""

    text: str
    path: str


class WebSocketAddress(msgspec.Struct, frozen=True):
    """A gateway. `resource` is the path with the query; `tls` is None for ``ws://``."""

    text: str
    host: str
    port: int
    resource: str = "/"
    tls: TlsFiles | None = None


Address = TcpAddress | UnixAddress | WebSocketAddress


def server_address(server: str | None) -> Address:
    """Return the address that `server` is; None means that of the environment, or the default.

    Raises `ValueError`, which names the valid forms, if it is no address.
    """
    origin = ""
    if server is None:
        server = os.environ.get(VARIABLE)
        if server is None:
            server = DEFAULT_SERVER
        else:
            origin = f" in the environment ({VARIABLE})"
    try:
        return _web_address(server) if is_websocket(server) else _endpoint_address(server)
    except ValueError as error:
        raise ValueError(f"{server!r}{origin} is no server address ({error}); write {FORMS}") from None


def _endpoint_address(server: str) -> Address:
    kind, positional, named = endpoint_parts(endpoint_from(server))
    if kind == "unix":
        if not positional:
            raise ValueError("it has no path")
        _check_options(kind, positional[1:], named, {})
        return UnixAddress(server, positional[0])
    host, port, *more = positional
    if kind == "tls":
        _check_options(kind, more, named, _TLS_OPTIONS)
        if "privateKey" in named and "certificate" not in named:
            raise ValueError("privateKey= needs certificate=")
        files = TlsFiles(**{_TLS_OPTIONS[name]: value for name, value in named.items()})
        return TcpAddress(server, host, int(port), files)
    if kind != "tcp":
        raise ValueError(f"write tls:{host}:{port}")
    _check_options(kind, more, named, {})
    return TcpAddress(server, host, int(port))


def _check_options(kind: str, more: list[str], named: dict[str, str], known: dict[str, str]) -> None:
    """Raise `ValueError` if an endpoint has something that this client does not know."""
    unknown = [*more, *(name for name in named if name not in known)]
    if unknown:
        there = f"; there are {', '.join(known)}" if known else ""
        raise ValueError(f"{kind}: has no option {unknown[0]}{there}")


def _web_address(server: str) -> WebSocketAddress:
    from urllib.parse import urlsplit  # which those who use no websocket need not import

    parts = urlsplit(websocket_url(server))
    if parts.username is not None:
        raise ValueError("it has a user name, and a gateway asks for none")
    if not parts.hostname:
        raise ValueError("it has no host")
    is_tls = parts.scheme == "wss"
    port = parts.port if parts.port is not None else 443 if is_tls else 80  # raises for a port that is none
    if not port:
        raise ValueError("the port must be a number from 1 to 65535")
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not (resource.isascii() and resource.isprintable()) or " " in resource:
        raise ValueError("its path has a character that must be quoted (%20)")
    return WebSocketAddress(server, parts.hostname, port, resource, TlsFiles() if is_tls else None)
