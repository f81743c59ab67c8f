"""Requests as they are sent: the encoding of calls for another server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from taskd.model import NO_OPTIONS, Call
from taskd.protocol.dialects import BARE, JSON_RPC, Dialect
from taskd.protocol.nesting import MAX_NESTING, is_too_deep, too_deep

__all__ = ["cancel_line", "encode_arguments", "request_line"]

_encode = msgspec.json.Encoder().encode


def encode_arguments(args: Mapping[str, Any] | Sequence[Any]) -> Raw:
    """Encode the arguments of a call, by name or by position.

    Raises `TypeError` if they cannot be written as JSON, `ValueError` if they
    are nested too deeply for a request.
    """
    limit = MAX_NESTING - 1  # the request itself is one level
    try:
        encoded = _encode(args)
    except RecursionError:
        encoded = b""
    if not encoded or is_too_deep(encoded, limit):
        raise ValueError(f"the arguments are {too_deep(limit)}")
    return Raw(encoded)


def request_line(call: Call, request_id: bytes | None = None, dialect: Dialect = JSON_RPC) -> bytes:
    """Encode a call as a request, on one line without its LF; the inverse of `parse`.

    `request_id` is the JSON text of an id; without one the request is a
    notification. A bare request has no id.
    """
    named = _encode(call.function)
    options, args = call.options, call.args or b""
    asked = b"" if options is NO_OPTIONS or options == NO_OPTIONS else b',"options":%b' % _encode(options)
    # Joined once: the arguments may be long, and are copied twice by other means.
    if dialect is BARE:
        return _one_line((b'{"function":', named, b',"args":' if args else b"", args, asked, b"}"))
    identified = () if request_id is None else (b'"id":', request_id, b",")
    params = b',"params":' if args else b""
    return _one_line((b'{"jsonrpc":"2.0",', *identified, b'"method":', named, params, args, asked, b"}"))


def cancel_line(request_id: bytes) -> bytes:
    """Return the notification, without its LF, that cancels a request on the same connection."""
    return b'{"jsonrpc":"2.0","method":"taskd.cancel","params":{"id":%b}}' % request_id


def _one_line(parts: tuple[bytes | Raw, ...]) -> bytes:
    text = b"".join(parts)
    # A websocket message may contain line ends between the tokens of its JSON.
    return text.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in text or b"\r" in text else text
