"""The backend of JSON-RPC messages over HTTP, which have one answer each."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from taskd.errors import NotAllowed
from taskd.listeners.front import Front
from taskd.listeners.wire import Backend
from taskd.model import Failure
from taskd.protocol.method_names import ATTACH, AUTH, DETACH
from taskd.protocol.requests import Request
from taskd.server.methods import Requester

__all__ = ["OneAnswer"]


class OneAnswer(Front[Any]):
    """The backend of JSON-RPC messages over HTTP, which have one answer: nothing else can be sent.

    Requests that name no place in a trace have that of the HTTP request, if it has one.
    """

    def __init__(self, backend: Backend[Any], traceparent: str | None) -> None:
        super().__init__(backend)
        self._traceparent = traceparent

    def submit(self, requests: list[Request[Any]], requester: Requester) -> None:
        """Begin with requests, but refuse those that want more than an answer."""
        if self._traceparent is not None:
            for request in requests:
                if request.options.traceparent is None:
                    options = replace(request.options, traceparent=self._traceparent)
                    request.options = options  # type: ignore[misc]
        wanted = []
        for request in requests:
            if request.function in (ATTACH, DETACH):
                text = f"{request.function}: events are not pushed over HTTP: see GET /api/v1/tasks/ID/events"
            elif request.function == AUTH:
                text = f"{AUTH}: over HTTP the token is in the header Authorization"
            elif request.options.progress:
                text = "options.progress: no progress is sent over HTTP: submit the task, and see its events"
            else:
                wanted.append(request)
                continue
            requester.task_ended(request, Failure.of(NotAllowed(text)))
        if wanted:
            self._backend.submit(wanted, requester)
