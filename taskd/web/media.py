"""Media types: which one a body has, and which ones a client accepts."""

from __future__ import annotations

from twisted.web.server import Request

from taskd.web.problems import Problem

__all__ = ["JSON", "accepts", "check_json", "media_type"]

JSON = "application/json"


def media_type(request: Request) -> str:
    """Return the media type of a request's body, without parameters; "" if it is not named."""
    named: str = (request.getHeader(b"content-type") or b"").decode("latin-1")
    return named.partition(";")[0].strip().lower()


def check_json(request: Request) -> None:
    """Check that the body of a request is JSON. Raises `Problem`.

    A page of any origin can send other types without asking first.
    """
    if (request.getHeader(b"content-encoding") or b"identity").lower() != b"identity":
        raise Problem(415, "bodies are taken as they are, without a Content-Encoding")
    found = media_type(request)
    if found != JSON:
        shown = f"not {found}" if found else "which the header Content-Type must say"
        raise Problem(415, f"the body must be {JSON}, {shown}", headers={"Accept-Post": JSON})


def accepts(request: Request, *offered: str) -> bool:
    """Return whether a client accepts any of these media types."""
    header = request.getHeader(b"accept")
    if header is None:
        return True
    refused = set()
    wanted = set()
    for part in header.decode("latin-1").lower().split(","):
        name, *parameters = (each.strip() for each in part.split(";"))
        is_refused = any(
            each.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for each in parameters
        )
        (refused if is_refused else wanted).add(name)
    return any(_matches(wanted, each) and each not in refused for each in offered)


def _matches(ranges: set[str], offered: str) -> bool:
    return not ranges.isdisjoint((offered, offered.partition("/")[0] + "/*", "*/*"))
