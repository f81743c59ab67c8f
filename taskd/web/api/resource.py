"""The resource of the API: checks a request, has its operation handled, and sends the response."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from taskd.errors import InternalError, ParseError, ShuttingDown
from taskd.listeners.websocket import WebSocketFactory
from taskd.web.access import Access, guarded
from taskd.web.api import batches, events, server, tasks
from taskd.web.api.call import ApiCall, Response, query_of
from taskd.web.api.checking import checked
from taskd.web.api.table import Operation, find, methods_of
from taskd.web.exchange import Exchange
from taskd.web.media import JSON, accepts, body_of, check_type, media_type
from taskd.web.problems import PROBLEM_TYPE, Problem, problem_of

__all__ = ["HANDLERS", "ApiResource", "Handler"]

_log = Logger(namespace="taskd.gateway")

Handler = Callable[[ApiCall], Coroutine[Deferred[Any], Any, Response | None]]
"""Handles a call: returns the response, None if it has been sent. Raises `Problem`."""

HANDLERS: dict[str, Handler] = {
    "submitTask": tasks.submit,
    "listTasks": tasks.tasks,
    "getTask": tasks.show,
    "cancelTask": tasks.cancel,
    "retryTask": tasks.retry,
    "explainTask": tasks.explain,
    "taskEvents": events.of_task,
    "submitBatch": batches.submit,
    "listBatches": batches.batches,
    "getBatch": batches.show,
    "cancelBatch": batches.cancel,
    "batchEvents": events.of_batch,
    "listFunctions": server.functions,
    "getStatus": server.status,
    "getDescription": server.description,
}
"""The handler of each operation in `taskd.web.api.table`."""

_OPEN = frozenset({"getDescription"})
"""The operations that need no token; without one, they show no functions."""


class ApiResource:
    """The resource for every path of the API."""

    def __init__(self, gateway: WebSocketFactory, access: Access) -> None:
        self._gateway = gateway
        self._access = access

    def render(self, request: Request) -> bytes | int:
        """Answer one HTTP request."""
        return guarded(request, self._access, self._take, self._gateway)

    def _take(self, request: Request) -> int:
        methods = methods_of(request.path)
        if methods is None:
            raise Problem(404, "there is nothing at this path of the API: see /api/v1/openapi.json")
        methods += (b"OPTIONS",)
        if request.method == b"OPTIONS":
            return self._access.answer_options(request, methods)
        found = find(b"GET" if request.method == b"HEAD" else request.method, request.path)
        if found is None:
            allowed = b", ".join(methods).decode()
            raise Problem(405, f"only {allowed} can be used here", headers={"Allow": allowed})
        operation, ids = found
        is_open = operation.name in _OPEN and not request.requestHeaders.hasHeader(b"authorization")
        caller = None if is_open else self._access.caller(request)
        if not accepts(request, *operation.types, PROBLEM_TYPE):
            raise Problem(406, f"this has no other form than {' or '.join(operation.types)}")
        query = query_of(request, operation.query)
        self._check_body(request, operation)
        if self._gateway.peers.is_stopping:
            raise problem_of(ShuttingDown("the gateway is shutting down"))
        body = body_of(request, self._gateway.max_message - 1)
        exchange = Exchange(self._gateway, request, caller)
        call = ApiCall(request, exchange, ids, query, body)
        Deferred.fromCoroutine(self._answer(call, operation)).addErrback(_broke, exchange)
        return NOT_DONE_YET

    @staticmethod
    def _check_body(request: Request, operation: Operation) -> None:
        if operation.body is not None:
            check_type(request, *operation.body_types)

    async def _answer(self, call: ApiCall, operation: Operation) -> None:
        exchange = call.exchange
        try:
            if call.body and media_type(call.request) == JSON:
                await exchange.awaiting(checked(call.body, self._gateway.peers.turns, exchange.party))
            response = await HANDLERS[operation.name](call)
        except ParseError as error:
            response = _refused(problem_of(error))
        except Problem as problem:
            response = _refused(problem)
        if response is not None:
            types = {"Content-Type": JSON} if response.body else {}
            exchange.respond(response.status, bytes(response.body), {**types, **response.headers})


def _refused(problem: Problem) -> Response:
    return Response(problem.status, problem.body, {"Content-Type": PROBLEM_TYPE, **problem.headers})


def _broke(reason: Failure, exchange: Exchange) -> None:
    if reason.check(CancelledError):  # the client is gone
        reason.cleanFailure()  # its frames refer to the connection
        return
    _log.failure("a bug in taskd", reason)
    problem = problem_of(InternalError("a bug in taskd; see the gateway's log"))
    exchange.respond(problem.status, problem.body, {"Content-Type": PROBLEM_TYPE})
