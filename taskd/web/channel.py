"""The gateway's HTTP connections, which answer clients that do not speak HTTP."""

from __future__ import annotations

from twisted.internet.interfaces import ITCPTransport
from twisted.web.http import HTTPChannel

__all__ = ["GatewayChannel"]

_TEXT = b"This is a gateway of taskd: it speaks HTTP and websockets, without TLS if you can read this.\n"

_REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_TEXT), _TEXT)
)


class GatewayChannel(HTTPChannel):
    """An HTTP connection that ends at once if its first byte cannot be of HTTP.

    Twisted's own waits a minute for the CR LF that JSON and TLS do not send.
    """

    transport: ITCPTransport
    _has_begun = False

    def dataReceived(self, data: bytes) -> None:
        """Pass on HTTP; answer JSON, TLS and whatever else does not begin with a method."""
        if not self._has_begun:
            self._has_begun = True
            if not data.lstrip(b"\r\n")[:1].isalpha() and data.strip(b"\r\n"):
                self.transport.write(_REFUSAL)
                self.transport.loseConnection()
                return
        super().dataReceived(data)
