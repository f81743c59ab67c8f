"""The place in a trace that an HTTP request belongs to: its header ``traceparent``, as W3C has it."""

from __future__ import annotations

import msgspec
from twisted.web.server import Request

from taskd.model import Traceparent

__all__ = ["traceparent_of"]


def traceparent_of(request: Request) -> str | None:
    """Return the ``traceparent`` of a request; None if it has none that is valid, as W3C demands."""
    header: bytes | None = request.getHeader(b"traceparent")
    if header is None:
        return None
    try:
        found: str = msgspec.convert(header.decode("latin-1").strip(), Traceparent)
    except msgspec.ValidationError:
        return None
    return found
