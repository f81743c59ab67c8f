"""The backend of JSON-RPC messages over HTTP, which have one answer each."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from taskd.errors import NotAllowed
from taskd.listeners.wire import Backend
from taskd.model import Failure
from taskd.protocol.method_names import ATTACH, AUTH, DETACH
from taskd.protocol.requests import Request
from taskd.scheduler.budget import Account, Budget
from taskd.scheduler.parties import Parties
from taskd.server.methods import Requester
from taskd.server.unanswered import Unanswered

__all__ = ["OneAnswer"]


class OneAnswer:
    """The backend of JSON-RPC messages over HTTP, which have one answer: nothing else can be sent.

    Requests that name no place in a trace have that of the HTTP request, if it has one.
    """

    def __init__(self, backend: Backend[Any], traceparent: str | None) -> None:
        self._backend = backend
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

    def cancel(self, work: Any) -> None:
        """Stop work."""
        self._backend.cancel(work)

    def detach(self, work: Any, account: Account | None = None, held: int = 0) -> None:
        """Let work go on without a reply."""
        self._backend.detach(work, account, held)

    def resume(self, requester: Requester) -> None:
        """Let throttled work start."""
        self._backend.resume(requester)

    def read_again(self, requester: Requester) -> None:
        """Push events again."""
        self._backend.read_again(requester)

    def gone(self, requester: Requester) -> None:
        """Push no more events."""
        self._backend.gone(requester)

    @property
    def parties(self) -> Parties:
        """The parties of the backend's connections."""
        return self._backend.parties

    @property
    def unanswered(self) -> Unanswered:
        """Where failures without a reply are counted."""
        return self._backend.unanswered

    @property
    def copies(self) -> int:
        """How often a request in flight is held."""
        return self._backend.copies

    @property
    def budget(self) -> Budget:
        """Where the bytes are counted."""
        return self._backend.budget
