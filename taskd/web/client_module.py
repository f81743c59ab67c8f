"""The JavaScript client, as the gateway serves it to browsers."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from twisted.web.server import NOT_DONE_YET, Request

__all__ = ["MODULE_PATH", "ClientModule"]

MODULE_PATH = b"/taskd.js"
"""The path at which the gateway serves the client."""

_HEADERS = {
    b"content-type": b"text/javascript; charset=utf-8",
    b"x-content-type-options": b"nosniff",
    # A gateway of a new version serves a new client: browsers ask each time, and mostly get a 304.
    b"cache-control": b"no-cache",
    # The code is public. Whether a page may open a websocket is another matter (`taskd.listeners.origins`).
    b"access-control-allow-origin": b"*",
    b"cross-origin-resource-policy": b"cross-origin",
}


class ClientModule:
    """The file ``taskd.js``, read once, and the headers that it is served with."""

    def __init__(self) -> None:
        self._text = Path(__file__).with_name("taskd.js").read_bytes()
        self._etag = b'"%b"' % sha256(self._text).hexdigest()[:32].encode()

    def render(self, request: Request) -> bytes | int:
        """Return the response's body, or `NOT_DONE_YET` if the browser has the newest version."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        if request.setETag(self._etag):
            request.finish()  # by itself Twisted adds a length of 0, which is not that of the module
            return NOT_DONE_YET
        return self._text
