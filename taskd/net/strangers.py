"""Peers that speak another protocol than this end: how their first bytes are recognised, and answered."""

from __future__ import annotations

import re

__all__ = ["NOT_TLS", "REFUSED_BY_TLS", "is_client_hello", "not_a_task_server", "refused_by_tls"]

_TLS_ALERT = b"\x15\x03"
_CLIENT_HELLO = b"\x16"
_HTTP_REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/\d")

NOT_TLS = frozenset({"wrong version number", "packet length too long", "record layer failure"})
"""OpenSSL's reasons for a connection whose other end does not speak TLS."""

WANTS_TLS = "this port speaks TLS: write tls:HOST:PORT, or wss:// and https:// for a gateway"

REFUSED_BY_TLS = _TLS_ALERT + b"\x01\0\x02\x02\x46" + WANTS_TLS.encode() + b"\n"
"""The answer of a TLS port to text: a fatal alert (protocol_version), by which programs
recognise TLS, and behind it the same for a person."""


def is_client_hello(data: bytes) -> bool:
    """Return whether the first bytes of a connection are from a client that speaks TLS."""
    return data.startswith(_CLIENT_HELLO)


def refused_by_tls(data: bytes) -> bytes:
    """Return the answer of a TLS port to a client that began with `data`: HTTP to HTTP, or an alert."""
    if _HTTP_REQUEST.match(data) is None:
        return REFUSED_BY_TLS
    text = WANTS_TLS.encode() + b"\n"
    head = b"HTTP/1.1 400 This port speaks TLS\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(text), text)


def not_a_task_server(data: bytes) -> str:
    """Return what answers with `data`, in words, if it certainly is no task server, else an empty text.

    Whatever it is, it has not run the task.
    """
    if data.startswith(_TLS_ALERT):
        return "that port speaks TLS: write tls:HOST:PORT instead of tcp:HOST:PORT"
    if data.startswith(b"HTTP/"):
        return (
            "that port speaks HTTP: a gateway's address is ws://HOST:PORT (--via), "
            "and its task server has a port of its own"
        )
    if data.startswith(b"SSH-"):
        return "that port speaks SSH"
    return ""
