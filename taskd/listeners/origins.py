"""The rule for origins: which web pages may open a websocket to a gateway.

A browser sends the origin of the page, and the name by which it has reached the
gateway (the Host header). Both may be an attacker's: a page can be served from
any name, and its owner can make that name point at the gateway's address (DNS
rebinding). So a name counts as the gateway's own only if it was configured, or
if no DNS server can have made it point here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import idna

from taskd.errors import quoted

__all__ = ["Origins", "host_name"]

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_AUTHORITY = r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?)(?::(\d{1,5}))?"
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://{_AUTHORITY}", re.ASCII)
_HOST = re.compile(_AUTHORITY, re.ASCII)
_PATTERN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[^\]]*\]|[^:/?#@\[\]\\%]*)(?::(\*|\d{1,5}))?", re.ASCII)

_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")
"""The full stops of other scripts, which browsers take for dots between labels."""

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_LABEL_WITH_STAR = re.compile(r"[a-z0-9_*-]{1,63}", re.ASCII)

PATTERN_FORMS = "https://app.example.com, https://*.example.com:8443, http://localhost:*, null or *"


class Origins:
    """The pages that may open a websocket.

    `allowed` are patterns, `names` the host names of the gateway. Both come
    from the command line; raises `ValueError` for one that can never match, or
    that would match more than it seems to.
    """

    def __init__(self, allowed: Iterable[str] = (), names: Iterable[str] = ()) -> None:
        self._patterns = [_Pattern.parse(text) for text in allowed]
        self._names = frozenset(host_name(text) for text in names)

    def allows(self, origin: str | None, host: str) -> bool:
        """Return whether a page from `origin` may connect to this gateway; `host` is the Host header.

        No origin means that the client is not a browser, so no foreign page can
        borrow a user's rights. Otherwise the page must be the gateway's own or
        from this machine, or match a pattern.
        """
        if origin is None:
            return True
        page = _Page.parse(origin)
        if any(pattern.matches(page, origin) for pattern in self._patterns):
            return True
        if page is None or page.scheme not in _DEFAULT_PORTS:
            return False
        return _is_loopback(page.host) or self._is_own(page, host)

    def refusal(self, origin: str | None, host: str) -> str:
        """Return the reason why `allows` refuses a page, with the option that would allow it."""
        page, own = _Page.parse(origin or ""), _HOST.fullmatch(host.lower())
        if page is not None and own is not None and _normal(own[1]) == page.host:
            return f"{page.host} is not known as a name of this gateway: see --hostname"
        return f"pages of {origin} are not allowed here: see --allow-origin"

    def knows(self, host: str) -> bool:
        """Return whether a Host header names this gateway; an empty one, as of HTTP/1.0, does.

        A page of the same origin is read by a browser without an Origin header, so that only
        the name shows whether it is an attacker's.
        """
        own = _HOST.fullmatch(host.lower())
        return not host or (own is not None and self._is_own_name(_normal(own[1])))

    @staticmethod
    def unknown_host(host: str) -> str:
        """Return the reason why a request to this host is refused, with the option that would allow it."""
        return f"{quoted(host)} is not known as a name of this gateway: see --hostname"

    def _is_own(self, page: _Page, host: str) -> bool:
        own = _HOST.fullmatch(host.lower())
        if own is None or _normal(own[1]) != page.host:
            return False
        # A proxy in front may use TLS while the gateway does not: the scheme only
        # determines the default port.
        default = _DEFAULT_PORTS[page.scheme]
        return page.port == (int(own[2]) if own[2] else default) and self._is_own_name(page.host)

    def _is_own_name(self, host: str) -> bool:
        return host in self._names or _address(host) is not None or _is_loopback(host)


@dataclass(frozen=True, slots=True)
class _Page:
    """An origin, as a browser sends it; without a port in the text, `port` is the scheme's default."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, origin: str) -> _Page | None:
        """Return the origin that a text is; None if it is none, or not of a page with a host."""
        match = _ORIGIN.fullmatch(origin.lower())
        if match is None:
            return None
        scheme, host, port = match.groups()
        return cls(scheme, _normal(host), int(port) if port else _DEFAULT_PORTS.get(scheme))


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A pattern of origins.

    `labels` are those of the host, of which some may hold stars; a star that is
    the first label stands for any number of labels. With `any_port`, `port`
    means nothing.
    """

    scheme: str
    labels: tuple[str, ...]
    port: int | None
    any_port: bool = False

    @classmethod
    def parse(cls, text: str) -> _Pattern:
        """Parse a pattern. Raises `ValueError`, which says what is wrong with it."""
        if text in ("*", "null"):
            return cls(text, (), None)
        lowered = text.strip().lower().translate(_DOTS)
        try:
            match = _PATTERN.fullmatch(lowered)
            if match is None:
                raise ValueError(_what_is_wrong(lowered))
            scheme, host, port = match.groups()
            if port not in (None, "*") and not 0 < int(port) < 65536:
                raise ValueError("a port is a number from 1 to 65535, or *")
            number = _DEFAULT_PORTS.get(scheme) if port in (None, "*") else int(port)
            return cls(scheme, _pattern_labels(host), number, port == "*")
        except ValueError as error:
            raise ValueError(f"{text!r} is no pattern of origins: {error}; write {PATTERN_FORMS}") from None

    def matches(self, page: _Page | None, origin: str) -> bool:
        """Return whether an origin matches; `page` is what it was parsed to."""
        if not self.labels:
            return self.scheme == "*" or origin == self.scheme
        if page is None or page.scheme != self.scheme:
            return False
        if not self.any_port and page.port != self.port:
            return False
        return _labels_match(self.labels, page.host)


def _what_is_wrong(pattern: str) -> str:
    scheme, separator, rest = pattern.partition("://")
    if not separator:
        return "it has no scheme, http:// or https://"
    if "*" in scheme:
        return "a star cannot stand for a scheme"
    if "@" in rest:
        return "an origin has no user"
    if any(character in rest for character in "/?#\\"):
        return "an origin ends with its host and port"
    return "it is not SCHEME://HOST or SCHEME://HOST:PORT"


def _pattern_labels(host: str) -> tuple[str, ...]:
    """Return the labels of a pattern's host; an address is one label. Raises `ValueError`."""
    if "*" not in host:
        return _labels(_checked(host))
    labels = host.removesuffix(".").split(".")
    if labels == ["*"]:
        return ("*",)
    if "*" in labels[-1] or labels[-1].isdigit():
        raise ValueError(
            "stars stand for labels at the left of a name, as in *.example.com, and not in addresses"
        )
    for number, label in enumerate(labels):
        if "*" in label:
            if not _LABEL_WITH_STAR.fullmatch(label):
                raise ValueError(f"{label!r} is no label of a host name")
        else:
            labels[number] = _checked_label(label)
    return tuple(labels)


def _labels(host: str) -> tuple[str, ...]:
    return (host,) if _address(host) is not None else tuple(host.split("."))


def _labels_match(pattern: tuple[str, ...], host: str) -> bool:
    if pattern == ("*",):
        return True
    labels = _labels(host)
    if pattern[0] == "*":
        rest = pattern[1:]
        return len(labels) > len(rest) and _each_matches(rest, labels[-len(rest) :])
    return len(labels) == len(pattern) and _each_matches(pattern, labels)


def _each_matches(patterns: Sequence[str], labels: Sequence[str]) -> bool:
    return all(map(_label_matches, patterns, labels))


def _label_matches(pattern: str, label: str) -> bool:
    """Return whether a label matches; the time is linear in its length, however many stars there are."""
    first, *middle = pattern.split("*")
    if not middle:
        return label == pattern
    *middle, last = middle
    if len(label) < len(first) + len(last) or not label.startswith(first) or not label.endswith(last):
        return False
    position, end = len(first), len(label) - len(last)
    for part in middle:
        found = label.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


def host_name(text: str) -> str:
    """Return a host name as browsers send it: lower case, IDN as ASCII. Raises `ValueError` if it is none."""
    lowered = text.strip().lower().translate(_DOTS)
    try:
        if "*" in lowered:
            raise ValueError("give each name")
        if "/" in lowered or "@" in lowered:
            raise ValueError("give the name alone, without a scheme")
        if re.fullmatch(r"[^:]*:\d*|\[.*\]:\d*", lowered):
            raise ValueError("give the name without a port: every port counts")
        return _checked(f"[{lowered}]" if lowered.count(":") > 1 and lowered[0] != "[" else lowered)
    except ValueError as error:
        raise ValueError(f"{text!r} is no host name: {error}") from None


def _checked(host: str) -> str:
    """Return a host in its normal form, with every label checked. Raises `ValueError`."""
    if host.startswith("["):
        address = _address(host)
        if address is None:
            raise ValueError(f"{host} is no IPv6 address")
        return _normal(host)
    labels = host.removesuffix(".").split(".")
    if labels[-1].isdigit() and _address(host) is None:
        raise ValueError(f"{host!r} is no IPv4 address")
    name = ".".join(map(_checked_label, labels))
    if len(name) > 253:
        raise ValueError("a host name has at most 253 characters")
    return name


def _checked_label(label: str) -> str:
    if not label.isascii():
        try:
            label = idna.encode(label, uts46=True).decode()
        except idna.IDNAError as error:
            raise ValueError(f"{label!r} is no label of a host name ({error})") from None
    if not _LABEL.fullmatch(label):
        raise ValueError(
            f"{label!r} is no label of a host name" if label else "a label of the host name is empty"
        )
    return label


def _normal(host: str) -> str:
    """Return a host without the dot at its end; an address in its shortest form."""
    host = host.removesuffix(".")
    address = _address(host)
    return host if address is None else str(address)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host is, None if it is a name; an IPv4 address in IPv6 is the former."""
    try:
        if host.startswith("["):
            address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv6Address(host[1:-1])
        else:
            address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")  # RFC 6761, 6.3: never asked of a DNS server
