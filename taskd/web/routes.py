"""The routes of the gateway's port: which methods a path has, and how long a request's body may be."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PAGE", "Route", "route_of"]


@dataclass(frozen=True, slots=True)
class Route:
    """The rules for requests to a path: their methods, and the bytes that a body may have.

    They are applied to the head of a request (`taskd.web.heads.check_request`),
    so that a body that is not wanted is never read. The rule for a path that
    takes bodies belongs here; `taskd.web.channel` has to pass such bodies on.
    """

    methods: tuple[bytes, ...]
    max_body: int = 0


PAGE = Route((b"GET", b"HEAD"))
"""The page and the websockets, on every path."""


def route_of(target: bytes) -> Route:  # noqa: ARG001  # every path has the same rules at present
    """Return the rules for requests with this target."""
    return PAGE
