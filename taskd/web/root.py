"""The root resource of the gateway's port: upgrades to websockets, and a plain page for other requests."""

from __future__ import annotations

import os
from collections.abc import Mapping

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
    """The websocket port's resource: upgrades on any path go to `gateway`, other requests get a page.

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

    def render(self, request: IRequest) -> bytes | int:
        """Answer one HTTP request: the body, or `NOT_DONE_YET` for a websocket."""
        upgrade = request.requestHeaders.getRawHeaders(b"upgrade") or [b""]
        is_websocket = b"websocket" in upgrade[0].lower()
        answer: bytes | int = self._websocket.render(request) if is_websocket else super().render(request)
        return answer

    def render_GET(self, request: IRequest) -> bytes:
        """Return the page that describes what runs here, with status 404 on other paths than ``/``."""
        if request.path != b"/":
            request.setResponseCode(NOT_FOUND)
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"content-security-policy", _POLICY)
        return _PAGE


def config_from_environment(environ: Mapping[str, str]) -> GatewayConfig:
    """Return a gateway's settings from the environment, since `twistd web` has no options for them.

    ``TASKD_TASK_SERVER`` (client endpoint strings, separated by spaces;
    default ``tcp:127.0.0.1:12345``), ``TASKD_LINK`` (``per-message`` or
    ``pooled``), ``TASKD_ALLOW_ORIGIN`` (origins, separated by spaces). Raises
    `ValueError` for any other link.
    """
    link = link_kind(environ.get("TASKD_LINK", "per-message"))
    if link == "local":
        raise ValueError(
            "TASKD_LINK cannot be local: a local link calls the task server of its own process, and "
            "`twistd web` runs none; use per-message or pooled, or `twistd taskd --link local`"
        )
    return GatewayConfig(
        task_servers=environ.get("TASKD_TASK_SERVER", "").split() or ["tcp:127.0.0.1:12345"],
        link=link,
        allow_origins=environ.get("TASKD_ALLOW_ORIGIN", "").split(),
    )
