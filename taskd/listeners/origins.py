"""The rule for origins: which web pages may open a websocket to a gateway."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

__all__ = ["is_allowed_origin"]

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def is_allowed_origin(origin: str | None, host: str, allowed: Sequence[str]) -> bool:
    """Return whether a page from `origin` may connect to this gateway; `host` is the Host header.

    No origin means that the client is not a browser, so no foreign page can
    borrow a user's rights. Otherwise the origin must be the gateway's own or on
    this machine, or match one of `allowed` (``*`` matches any text).
    """
    if origin is None:
        return True
    if any(fnmatch.fnmatchcase(origin, pattern) for pattern in allowed):
        return True
    try:
        page = urlsplit(origin)
        if page.hostname is None or page.scheme not in _DEFAULT_PORTS:
            return False
        if _is_loopback(page.hostname):
            return True
        # A proxy in front may use TLS while the gateway does not: the scheme only
        # determines the default port.
        own = urlsplit(f"//{host}")
        default = _DEFAULT_PORTS[page.scheme]
        return page.hostname == own.hostname and (page.port or default) == (own.port or default)
    except ValueError:
        return False  # not an address, or the port is not a number


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
