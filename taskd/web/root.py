"""What the websocket port serves over HTTP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from autobahn.twisted.resource import WebSocketResource
from twisted.web.http import NOT_FOUND
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from taskd import __version__
from taskd.errors import StartError
from taskd.listeners.gateway import Gateway, GatewayConfig, link_kind
from taskd.net.reactor import installed_reactor

__all__ = ["Root", "config_from_environment"]

_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>taskd</title>
<style>body {{ font: 1rem/1.5 sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em }}</style>
<h1>taskd {__version__}</h1>
<p>This is the gateway of a task server. It speaks websocket, on any path of this address:
send it a request, and the result is pushed back when the work is done.</p>
<pre><code>const socket = new WebSocket(location.href.replace(/^http/, "ws"));
socket.onmessage = event =&gt; console.log(event.data);
socket.onopen = () =&gt; socket.send(JSON.stringify(
    {{jsonrpc: "2.0", id: 1, method: "taskd.functions"}}));
</code></pre>
</html>
""".encode()


_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; connect-src 'self' ws: wss:"


class Root(Resource):
    """A websocket upgrade on any path goes to `gateway`; anything else gets a plain page.

    ``twistd -n web --port tcp:8080:interface=127.0.0.1 --class taskd.web.Root``
    makes one without arguments; it then makes a gateway of its own, with its
    settings from the environment (`config_from_environment`).
    """

    isLeaf = True

    def __init__(self, gateway: Gateway | None = None) -> None:
        super().__init__()
        if gateway is None:
            try:  # `twistd web` passes no reactor
                gateway = config_from_environment(os.environ).start(installed_reactor())
            except ValueError as error:
                raise StartError(f"taskd: {error}") from error
        self._websocket = WebSocketResource(gateway.factory)

    def render(self, request: IRequest) -> Any:
        """Answer one HTTP request."""
        upgrade = request.requestHeaders.getRawHeaders(b"upgrade") or [b""]
        if b"websocket" in upgrade[0].lower():
            return self._websocket.render(request)
        return super().render(request)

    def render_GET(self, request: IRequest) -> bytes:
        """The page that says what runs here."""
        if request.path != b"/":
            request.setResponseCode(NOT_FOUND)
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"content-security-policy", _POLICY)
        return _PAGE


def config_from_environment(environ: Mapping[str, str]) -> GatewayConfig:
    """A gateway's settings, as `twistd web` has no options for them.

    ``TASKD_TASK_SERVER`` (client endpoint strings, separated by spaces;
    default ``tcp:127.0.0.1:12345``), ``TASKD_LINK`` (``per-message`` or
    ``pooled``), ``TASKD_ALLOW_ORIGIN`` (origins, separated by spaces). Raises
    `ValueError` for a link that is neither.
    """
    link = link_kind(environ.get("TASKD_LINK", "per-message"))
    return GatewayConfig(
        task_servers=environ.get("TASKD_TASK_SERVER", "").split() or ["tcp:127.0.0.1:12345"],
        link=link,
        allow_origins=environ.get("TASKD_ALLOW_ORIGIN", "").split(),
    )
