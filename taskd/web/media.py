"""Media types: which one a body has, and which ones a client accepts."""

from __future__ import annotations

import re

from twisted.web.server import Request

from taskd.web.problems import Problem

__all__ = ["CSV", "EVENT_STREAM", "JSON", "accepts", "body_of", "check_type", "media_type", "names"]

JSON = "application/json"

CSV = "text/csv"

EVENT_STREAM = "text/event-stream"

_NO_QUALITY = re.compile(r"q\s*=\s*0(\.0{0,3})?")
"""The parameter of a media type that is not accepted."""


def media_type(request: Request) -> str:
    """Return the media type of a request's body, without parameters; "" if it is not named."""
    named: str = (request.getHeader(b"content-type") or b"").decode("latin-1")
    return named.partition(";")[0].strip().lower()


def check_type(request: Request, *types: str) -> None:
    """Check that the body of a request is of one of these types. Raises `Problem`.

    A page of any origin can send other types without asking first.
    """
    if (request.getHeader(b"content-encoding") or b"identity").lower() != b"identity":
        raise Problem(415, "bodies are taken as they are, without a Content-Encoding")
    found = media_type(request)
    if found not in types:
        shown = f"not {found}" if found else "which the header Content-Type must say"
        text = f"the body must be {' or '.join(types)}, {shown}"
        raise Problem(415, text, headers={"Accept-Post": ", ".join(types)})


def body_of(request: Request, limit: int) -> bytes:
    """Return the body of a request. Raises `Problem` if it has more than `limit` bytes.

    The channel of a gateway has checked that before it arrived, that of `twistd web` has not.
    """
    body: bytes = b"" if request.content is None else request.content.read()
    if len(body) > limit:
        raise Problem(413, f"the body of a request has at most {limit} bytes")
    return body


def accepts(request: Request, *offered: str) -> bool:
    """Return whether a client accepts any of these media types."""
    if request.getHeader(b"accept") is None:
        return True
    wanted, refused = _accepted(request)
    return any(_matches(wanted, each) and each not in refused for each in offered)


def names(request: Request, offered: str) -> bool:
    """Return whether a client accepts a media type by its name, and not only with others."""
    return offered in _accepted(request)[0]


def _accepted(request: Request) -> tuple[set[str], set[str]]:
    """Return the media types, or ranges of them, that a client accepts, and those that it refuses."""
    header: str = (request.getHeader(b"accept") or b"").decode("latin-1").lower()
    wanted: set[str] = set()
    refused: set[str] = set()
    for part in header.split(","):
        name, *parameters = (each.strip() for each in part.split(";"))
        is_refused = any(_NO_QUALITY.fullmatch(each) for each in parameters)
        (refused if is_refused else wanted).add(name)
    return wanted, refused


def _matches(ranges: set[str], offered: str) -> bool:
    return not ranges.isdisjoint((offered, offered.partition("/")[0] + "/*", "*/*"))
