"""The files for browsers: the pages, their modules and styles, and the JavaScript client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from gzip import compress
from hashlib import sha256
from pathlib import Path

from twisted.web.http import NOT_FOUND
from twisted.web.server import NOT_DONE_YET, Request

__all__ = ["Pages"]

_HERE = Path(__file__).parent
_FOLDER = _HERE / "pages"

_ROUTES = {
    b"/": _FOLDER / "index.html",
    b"/ops": _FOLDER / "ops.html",
    b"/taskd.js": _HERE / "taskd.js",
    b"/taskd-progress.js": _FOLDER / "taskd-progress.js",
}
"""The files that have an address of their own; every file of the folder has ``/pages/…`` besides."""

_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_OTHER_TYPE = b"text/plain; charset=utf-8"

_POLICY = b"; ".join([
    b"default-src 'none'",
    b"script-src 'self'",
    b"style-src 'self'",
    b"img-src 'self' data:",
    # Some browsers do not count websockets of the same address as 'self'.
    b"connect-src 'self' ws: wss:",
    b"base-uri 'none'",
    b"form-action 'none'",
    b"frame-ancestors 'none'",
])  # fmt: skip

_FOR_ALL = {
    # A gateway of a new version serves new files: browsers ask each time, and mostly get a 304.
    b"cache-control": b"no-cache",
    b"vary": b"Accept-Encoding",
}

_FOR_PAGES = {
    b"content-security-policy": _POLICY,
    b"cross-origin-opener-policy": b"same-origin",
}

_FOR_MODULES = {
    # The code is public. Whether a page may open a websocket is another matter (`taskd.listeners.origins`).
    b"access-control-allow-origin": b"*",
    b"cross-origin-resource-policy": b"cross-origin",
}

_NOT_FOUND = b"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Not found</title>
<h1>Not found</h1>
<p>There is no page at this address. <a href="/">The first page</a></p>
</html>
"""


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes
    """The same, compressed: all of it is public, so that its length gives nothing away."""

    etag: bytes
    headers: dict[bytes, bytes]


class Pages:
    """The files, read once, and the headers that they are served with, beside those of every answer."""

    def __init__(self) -> None:
        self._files = dict(_read())

    def render(self, request: Request) -> bytes | int:
        """Answer GET or HEAD: return the body, or `NOT_DONE_YET` if the browser has the newest version."""
        found = self._files.get(request.path)
        if found is None:
            request.setResponseCode(NOT_FOUND)
            _set(request, _headers(".html"))
            return _NOT_FOUND
        _set(request, found.headers)
        is_packed = _takes_gzip(request)
        if request.setETag(found.etag + (b'-gzip"' if is_packed else b'"')):
            request.finish()  # by itself Twisted adds a length of 0, which is not that of the file
            return NOT_DONE_YET
        if is_packed:
            request.setHeader(b"content-encoding", b"gzip")
            return found.packed
        return found.body


def _read() -> Iterator[tuple[bytes, _File]]:
    paths = [path for path in _FOLDER.rglob("*") if path.is_file()]
    addresses = {b"/pages/" + path.relative_to(_FOLDER).as_posix().encode(): path for path in paths}
    for address, path in {**addresses, **_ROUTES}.items():
        body = path.read_bytes()
        etag = b'"' + sha256(body).hexdigest()[:32].encode()
        yield address, _File(body, compress(body, mtime=0), etag, _headers(path.suffix))


def _takes_gzip(request: Request) -> bool:
    """Return whether gzip is named without a weight, as browsers name it."""
    accepted = request.getHeader(b"accept-encoding") or b""
    return b"gzip" in [coding.strip() for coding in accepted.split(b",")]


def _headers(suffix: str) -> dict[bytes, bytes]:
    more = _FOR_PAGES if suffix == ".html" else _FOR_MODULES
    return {b"content-type": _TYPES.get(suffix, _OTHER_TYPE), **_FOR_ALL, **more}


def _set(request: Request, headers: dict[bytes, bytes]) -> None:
    for name, value in headers.items():
        request.setHeader(name, value)
