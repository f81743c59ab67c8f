"""The time that a client has to show what it wants, and to let go of a connection that is over."""

from __future__ import annotations

__all__ = ["CLOSING_SECONDS", "OPENING_SECONDS"]

OPENING_SECONDS = 10.0
"""Seconds from accept to a finished TLS handshake, and to the end of an HTTP request's head.

The limit is absolute: bytes that trickle in do not extend it. A client on a
slow mobile network needs two or three round trips, so about two seconds.
"""

CLOSING_SECONDS = 5.0
"""Seconds between the decision to close an HTTP connection or a websocket and the end, in which
the client reads the rest and, with TLS, answers the close."""
