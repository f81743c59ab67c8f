"""The headers by which a browser makes nothing else of a response of the gateway's port than it is."""

from __future__ import annotations

__all__ = ["SAFE_HEADERS", "SAFE_LINES"]

SAFE_HEADERS = (
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cache-Control", b"no-store"),
    (b"Referrer-Policy", b"no-referrer"),
    # An answer that is opened like a page runs nothing, loads nothing, and is in no frame. The answer to a
    # request by a script is not affected; whether that may read it is decided by `taskd.web.access`.
    (b"Content-Security-Policy", b"default-src 'none'; base-uri 'none'; frame-ancestors 'none'; sandbox"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)
"""The headers of every response with a body, unless it has others of the same name, as pages have.

Strict-Transport-Security is not among them: it would count for every port of the host name, for
a year, so that whoever is responsible for the name must decide (docs/security.md).
"""

SAFE_LINES = b"".join(b"%b: %b\r\n" % header for header in SAFE_HEADERS)
"""The same, for responses that are written without `twisted.web`."""
