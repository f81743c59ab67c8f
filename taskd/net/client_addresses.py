"""The ways in which people write a server's address, as the client endpoint strings that they mean."""

from __future__ import annotations

import re
import socket

__all__ = ["HERE", "WEBSOCKET_FORMS", "endpoint_from", "endpoint_parts", "is_websocket", "websocket_url"]

HERE = "127.0.0.1"
"""The host of an address that is only a port: where a task server listens by default."""

WEBSOCKET_FORMS = "ws://HOST:PORT or wss://HOST:PORT"

_WEB = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
"""The schemes of addresses on the web, with those of the websockets there."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)

_BRACKETS = re.compile(r"(?:(tcp|tls|ssl):)?\[([^\]]*)\]:(.*)", re.IGNORECASE | re.DOTALL)
"""An IPv6 address in brackets, possibly with the kind of endpoint, and the rest."""

_KINDS = ("tcp", "tls", "ssl", "unix")
"""Kinds of client endpoints; other words before a colon are hosts."""

_HOST = re.compile(r"[\w.-]+(?:%[\w.-]+)?")


def is_websocket(address: str) -> bool:
    """Return whether an address is that of a gateway, as it is written for websockets or for browsers."""
    match = _SCHEME.match(address.strip())
    return match is not None and match[1].lower() in _WEB


def websocket_url(address: str) -> str:
    """Return the websocket URL for a gateway's address. Raises `ValueError` if it is none."""
    match = _SCHEME.match(address.strip())
    if match is None or match[1].lower() not in _WEB:
        raise ValueError(f"write {WEBSOCKET_FORMS}")
    return f"{_WEB[match[1].lower()]}://{match[2]}"


def endpoint_from(address: str) -> str:
    """Return the endpoint string that an address means.

    ``HOST:PORT``, ``[ADDRESS]:PORT``, ``PORT``, ``:PORT``, a path with a
    slash, and ``tcp://HOST:PORT`` are completed; what is an endpoint string
    already stays. Raises `ValueError` with the reason if it can be neither.
    """
    text = address.strip()
    if not text:
        raise ValueError("it is empty")
    if not text.isprintable():
        raise ValueError("it has a character that cannot be printed")
    if text.startswith(("/", "./", "../")):
        return "unix:" + re.sub(r"([:=\\])", r"\\\1", text)
    if match := _SCHEME.fullmatch(text):
        text = _from_url(match[1].lower(), match[2])
    if match := _BRACKETS.fullmatch(text):
        kind, host, rest = match.groups()
        if not _is_ipv6(host):
            raise ValueError(f"{host!r} in brackets is no IPv6 address")
        text = f"{kind or 'tcp'}:{_quoted(host)}:{rest}"
    kind, _, rest = text.partition(":")
    if kind.lower() == "unix":
        if not rest:
            raise ValueError("it has no path")
        return text
    if kind.lower() not in _KINDS:
        return _from_host(text)
    return _checked(kind.lower(), rest)


def _from_url(scheme: str, rest: str) -> str:
    if scheme in _WEB:
        raise ValueError("it is the address of a gateway, and here a task server's is needed")
    if scheme == "unix":
        return f"unix:{rest}"
    if scheme not in _KINDS:
        raise ValueError(f"taskd does not speak {scheme}")
    return f"{scheme}:{rest.removesuffix('/')}"


def _from_host(text: str) -> str:
    """Return the endpoint for ``HOST:PORT``, ``:PORT`` or ``PORT``."""
    if text.isdecimal():
        text = f":{text}"
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"it has no port, as {text}:12345 would have; a path has a slash, as ./{text}")
    if ":" in host:
        if _is_ipv6(text) or _is_ipv6(host):
            raise ValueError(f"an IPv6 address needs brackets, as in [{host}]:{port}")
        raise ValueError(f"{text.partition(':')[0]!r} is no kind of endpoint")
    return _checked("tcp", f"{host}:{port}")


def _checked(kind: str, rest: str) -> str:
    """Return an endpoint whose host and port can be right; its options are left to others."""
    parts = _in_order(re.findall(r"(?:^|:)((?:\\.|[^:\\])*)", rest))
    if kind == "tcp" and parts and _is_number(parts[0]):  # the port alone, as a server's endpoint has it
        parts.insert(0, HERE)
    if kind != "tcp" and parts and _is_number(parts[0]):
        raise ValueError(f"it has no host, as {kind}:HOST:{parts[0]} would have")
    if len(parts) < 2 or "=" in parts[1]:
        raise ValueError(f"it has no port, as {kind}:{parts[0] or 'HOST'}:12345 would have")
    host, port, *options = parts
    if not _is_number(port) or not 0 < int(port) < 65536:
        raise ValueError(f"the port must be a number from 1 to 65535, not {port!r}")
    bare = host.replace("\\", "")
    if not (_HOST.fullmatch(bare) or _is_ipv6(bare)) and bare:
        raise ValueError(f"{bare!r} is no host")
    if not bare and kind != "tcp":
        raise ValueError("it has no host, whose name the certificate must have")
    for option in options:
        if "=" not in option:
            raise ValueError(f"an option is NAME=VALUE, not {option!r}")
    if "interface" in (option.partition("=")[0] for option in options):
        raise ValueError(f"interface= is for what listens; a client writes {kind}:{host}:{port}")
    return ":".join([kind, host or HERE, port, *options])


def _in_order(parts: list[str]) -> list[str]:
    """Return the parts of an endpoint string with its host and port, either of which may be named, first."""
    named = {part[:5]: part[5:] for part in parts if part.startswith(("host=", "port="))}
    others = [part for part in parts if not part.startswith(("host=", "port="))]
    if "host=" in named:
        others.insert(0, named["host="])
    if "port=" in named:
        at = 0 if not others or "=" in others[0] else 1
        others.insert(at, named["port="])
    return others


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _quoted(text: str) -> str:
    return re.sub(r"([:=\\])", r"\\\1", text)


def _is_ipv6(text: str) -> bool:
    """Return whether a text is an IPv6 address, possibly with a zone."""
    address, percent, zone = text.partition("%")
    if percent and not zone:
        return False
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return False
    return True


def endpoint_parts(description: str) -> tuple[str, list[str], dict[str, str]]:
    """Return the kind, the positional and the named arguments of an endpoint string.

    A backslash quotes the character that follows it.
    """
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
