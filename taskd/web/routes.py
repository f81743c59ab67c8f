"""The routes of the gateway's port: which methods a path has, and which of them have a body."""

from __future__ import annotations

from dataclasses import dataclass

from taskd.web.api.table import ROOT, methods_of, takes_body

__all__ = ["PAGE", "RPC", "RPC_PATHS", "Route", "route_of"]

RPC_PATHS = (b"/", b"/rpc")
"""The paths that take JSON-RPC messages."""


@dataclass(frozen=True, slots=True)
class Route:
    """The rules for requests to a path: their methods, and those of them that may have a body.

    They are applied to the head of a request (`taskd.web.heads.check_request`),
    so that a body that is not wanted is never read. `has_problems` says that errors
    are problems (`taskd.web.problems`) here. `existing` are those of the methods that the path
    has; requests with others get their answer from it, unless they have a body.
    """

    methods: tuple[bytes, ...]
    with_body: tuple[bytes, ...] = ()
    has_problems: bool = False
    existing: tuple[bytes, ...] = ()


PAGE = Route((b"GET", b"HEAD"))
"""The page and the websockets, on every path."""

RPC = Route((b"GET", b"HEAD", b"POST", b"OPTIONS"), (b"POST",), has_problems=True)
"""JSON-RPC messages, at the same address as the page or not, and websockets."""

API_METHODS = (b"GET", b"HEAD", b"POST", b"DELETE", b"OPTIONS")
"""The methods of the API, and of websockets: which of them a path has, is for its answer to say."""


def route_of(target: bytes) -> Route:
    """Return the rules for requests with this target."""
    path = target.partition(b"?")[0]
    if path in RPC_PATHS:
        return RPC
    if path.startswith(ROOT):
        with_body = (b"POST",) if takes_body(path) else ()
        return Route(API_METHODS, with_body, has_problems=True, existing=methods_of(path) or ())
    return PAGE
