"""The root resource of the gateway's port: upgrades to websockets, HTTP requests, and pages."""

from __future__ import annotations

import os
from collections.abc import Mapping

from autobahn.twisted.resource import WebSocketResource
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from taskd.auth.access_config import AccessConfig
from taskd.errors import StartError
from taskd.listeners.gateway import Gateway, GatewayConfig, link_kind
from taskd.listeners.safe_headers import SAFE_HEADERS
from taskd.listeners.websocket import VERSION
from taskd.net.reactor import installed_reactor
from taskd.settings.kinds import LOCAL
from taskd.settings.settings import settle_gateway
from taskd.web.access import Access, answer_problem
from taskd.web.api.resource import ApiResource
from taskd.web.api.table import ROOT
from taskd.web.health import HEALTH_PATH, READY_PATH, render_health, render_readiness
from taskd.web.metrics import METRICS_PATH, Measured, MetricsPage
from taskd.web.pages import Pages
from taskd.web.problems import Problem
from taskd.web.routes import RPC_PATHS
from taskd.web.rpc import RpcResource

__all__ = ["Root", "config_from_environment"]

_log = Logger(namespace="taskd.access")

UPGRADE_REQUIRED = 426
"""The HTTP status for which twisted.web has no name."""


class Root(Resource):
    """The websocket port's resource: upgrades on any path go to `gateway`; others get an answer or a page.

    ``twistd -n web --port tcp:8080:interface=127.0.0.1 --class taskd.web.Root``
    makes one without arguments; it then makes a gateway of its own, with its
    settings from the environment (`config_from_environment`).
    """

    isLeaf = True

    def __init__(self, gateway: Gateway | None = None, measured: Measured | None = None) -> None:
        super().__init__()
        if gateway is None:
            try:  # `twistd web` passes no reactor
                gateway = config_from_environment(os.environ).start(installed_reactor())
            except ValueError as error:
                raise StartError(f"taskd: {error}") from error
            if gateway.factory.gate is None:
                _log.warn(
                    "callers need no token: whoever reaches this port may call every function, unless "
                    "TASKD_TOKENS or TASKD_JWT_KEY names a file (docs/security.md)"
                )
        self._readiness = gateway.readiness
        self._metrics = MetricsPage(gateway, measured or Measured())
        self._websocket = WebSocketResource(gateway.factory)
        self._pages = Pages()
        access = self.access = Access(gateway.factory.origins, gateway.factory.gate)
        self._rpc = RpcResource(gateway.factory, access)
        self._api = ApiResource(gateway.factory, access)

    def render(self, request: Request) -> bytes | int:
        """Answer one HTTP request: the body, or `NOT_DONE_YET` for a websocket."""
        for name, value in SAFE_HEADERS:
            request.setHeader(name, value)
        upgrade = request.requestHeaders.getRawHeaders(b"upgrade") or [b""]
        # RFC 9110, 7.8: HTTP/1.0 knows no upgrades.
        if b"websocket" not in upgrade[0].lower() or request.clientproto == b"HTTP/1.0":
            answer = self._answer(request)
            if request.method == b"HEAD" and isinstance(answer, bytes):
                # twisted.web would drop the body, too, but log a warning with the address, read as ASCII.
                request.setHeader(b"content-length", b"%d" % len(answer))
                return b""
            return answer
        if request.method == b"GET" and not _has_known_version(request):
            return _upgrade_required(request)
        channel = request.channel
        upgraded: int = self._websocket.render(request)
        if request.channel is None or channel.transport is None:  # the connection is a websocket now
            channel.requests.clear()  # breaks a reference cycle
        return upgraded

    def _answer(self, request: Request) -> bytes | int:
        """Answer a request that is no websocket's."""
        if request.path.startswith(ROOT):
            return self._api.render(request)
        if request.path in RPC_PATHS and (request.path != b"/" or request.method not in (b"GET", b"HEAD")):
            return self._rpc.render(request)
        page: bytes | int = super().render(request)
        return page

    def render_GET(self, request: Request) -> bytes | int:
        """Answer with a page, a file for pages, or what those who monitor the gateway ask for."""
        if request.path == HEALTH_PATH:
            return render_health(request)
        if request.path == READY_PATH:
            return render_readiness(request, self._readiness)
        if request.path == METRICS_PATH:
            try:
                self.access.check_operator(request)
            except Problem as problem:
                return answer_problem(request, problem)
            return self._metrics.render(request)
        return self._pages.render(request)


def _has_known_version(request: Request) -> bool:
    versions = request.requestHeaders.getRawHeaders(b"sec-websocket-version")
    return bool(versions == [b"%d" % VERSION])


def _upgrade_required(request: Request) -> bytes:
    """Answer a handshake for another version of the websocket protocol, as RFC 6455, 4.4, defines it."""
    request.setResponseCode(UPGRADE_REQUIRED, b"Upgrade Required")
    request.setHeader(b"sec-websocket-version", b"%d" % VERSION)
    request.setHeader(b"upgrade", b"websocket")
    request.setHeader(b"connection", b"upgrade")
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    return b"this gateway speaks version %d of the websocket protocol (Sec-WebSocket-Version: %d)\n" % (
        VERSION,
        VERSION,
    )


def config_from_environment(environ: Mapping[str, str]) -> GatewayConfig:
    """Return a gateway's settings from the environment, since `twistd web` has no options for them.

    The variables are those of the options `taskd.settings.settings.GATEWAY`, such as
    ``TASKD_TASK_SERVER``, whose default here is ``tcp:127.0.0.1:12345``. The link cannot
    be local. Raises `ValueError`, which names the variable, for a value that is not valid.
    """
    if environ.get("TASKD_LINK", "").strip() == LOCAL:
        raise ValueError(
            "TASKD_LINK cannot be local: a local link calls the task server of its own process, and "
            "`twistd web` runs none; use per-message or pooled, or `taskd serve --link local`"
        )
    settings = settle_gateway(environ)
    return GatewayConfig(
        task_servers=settings["task-server"] or ["tcp:127.0.0.1:12345"],
        link=link_kind(settings["link"]),
        allow_origins=settings["allow-origin"],
        hostnames=settings["hostname"],
        max_message=settings["max-message"],
        max_buffered=settings["max-buffered"],
        message_rate=settings["message-rate"],
        compresses=settings["compression"],
        verifier=AccessConfig(settings["tokens"], settings["jwt-key"], settings["jwt-audience"]).open(),
    )
