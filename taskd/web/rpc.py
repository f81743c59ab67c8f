"""JSON-RPC over HTTP: ``POST /`` and ``POST /rpc`` take one message and answer with the reply to it."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from taskd.errors import ShuttingDown
from taskd.listeners.websocket import WebSocketFactory
from taskd.web.access import Access, guarded
from taskd.web.exchange import Exchange
from taskd.web.media import JSON, body_of, check_type
from taskd.web.problems import Problem, problem_of
from taskd.web.routes import RPC

__all__ = ["RpcResource"]

_log = Logger(namespace="taskd.gateway")

_METHODS = (b"POST", b"OPTIONS")
"""The methods of the path that has no page."""

_UNREADABLE = tuple(b'{"jsonrpc":"2.0","id":null,"error":{"code":%d,' % code for code in (-32700, -32600))
"""The beginnings of replies to what is no request."""


class RpcResource:
    """The resource for messages of docs/protocol.md: a request in either dialect, or a batch."""

    def __init__(self, gateway: WebSocketFactory, access: Access) -> None:
        self._gateway = gateway
        self._access = access

    def render(self, request: Request) -> bytes | int:
        """Answer one HTTP request."""
        return guarded(request, self._access, self._take, self._gateway)

    def _take(self, request: Request) -> int:
        methods = RPC.methods if request.path == b"/" else _METHODS
        if request.method == b"OPTIONS":
            return self._access.answer_options(request, methods)
        if request.method != b"POST":
            allowed = b", ".join(methods).decode()
            raise Problem(405, f"only {allowed} can be used here", headers={"Allow": allowed})
        caller = self._access.caller(request)
        check_type(request, JSON)
        if self._gateway.peers.is_stopping:
            raise problem_of(ShuttingDown("the gateway is shutting down"))
        body = body_of(request, self._gateway.max_message - 1)
        exchange = Exchange(self._gateway, request, caller, is_message=True)
        replied = exchange.message(body)
        if request.content is not None:
            request.content.close()  # it is counted with the message from now on
        replied.addCallback(self._respond, exchange)
        replied.addErrback(_failed)
        return NOT_DONE_YET

    @staticmethod
    def _respond(reply: bytes | None, exchange: Exchange) -> None:
        if reply is None:
            exchange.respond(204)
        else:
            status = 400 if reply.startswith(_UNREADABLE) else 200
            exchange.respond(status, reply, {"Content-Type": JSON})


def _failed(reason: Failure) -> None:
    if not reason.check(CancelledError):  # the client is gone
        _log.failure("a bug in taskd", reason)
