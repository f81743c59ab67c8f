"""The link to the task server of the same process, without a socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from taskd.client.link import CLOSED, OnProgress, PendingCall, lost, report
from taskd.client.pending import NO_REPLY
from taskd.model import Call, Outcome, Progress
from taskd.protocol.methods import WAS_DONE
from taskd.protocol.requests import JSON_RPC, Dialect, Request
from taskd.scheduler.task import Task

__all__ = ["LocalLink", "LocalServer"]

_SERVER_NAME = "of this process"
"""What stands for the server's address in errors."""


class LocalServer(Protocol):
    """What the link needs of a task server."""

    def submit(self, requests: Sequence[Request[Task]], requester: LocalLink) -> None:
        """Accept requests, each as a task: `Request.work`.

        Each is answered exactly once by `LocalLink.task_ended`, possibly before this returns.
        """

    def cancel(self, task: Task) -> None:
        """Cancel a task that is in flight."""


class _LocalCall(Request[Task], frozen=False, eq=False, kw_only=True):  # type: ignore[misc]  # as `Request`
    """A call, and the request that the server knows it by. Is a `taskd.client.link.PendingCall`.

    One object for both, since a call over this link costs little else.
    """

    outcome: Deferred[Outcome]
    link: LocalLink
    on_progress: OnProgress | None

    def cancel(self) -> None:
        """Have the task cancelled. As `PendingCall.cancel`."""
        if not self.outcome.called and self.work is not None:
            self.link.cancel(self.work)

    def detach(self) -> None:
        """Wait no more. As `PendingCall.detach`."""
        if not self.outcome.called:
            self.link.detach(self)
            self.outcome.callback(NO_REPLY)


class LocalLink:
    """Calls the task server of this process.

    Tasks are what they are over a connection: `close` cancels those whose
    `on_disconnect` is "cancel". Is a `taskd.client.link.Link`, and the
    requester of its calls, which are their own keys.
    """

    is_full = False
    """Whether tasks must wait, because outcomes are not taken: they always are."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._calls: dict[_LocalCall, None] = {}  # in flight
        self._ended: list[tuple[_LocalCall, Outcome]] = []

    def call(
        self, call: Call, on_progress: OnProgress | None = None, dialect: Dialect = JSON_RPC
    ) -> PendingCall:
        """Submit a call. As `Link.call`."""
        pending = _LocalCall(
            call.function, call.args, call.options, outcome=Deferred(), link=self, on_progress=on_progress
        )
        self._calls[pending] = None
        self._server.submit((pending,), self)
        if self._ended:
            self.flush()
        return pending

    def cancel(self, task: Task) -> None:
        """Have the server cancel the task of a call."""
        self._server.cancel(task)

    def detach(self, pending: _LocalCall) -> None:
        """Let the task of a call go on alone, unless the task must not outlive the link."""
        task = pending.work
        if task is not None and pending.options.on_disconnect == "finish":
            del self._calls[pending]
            task.detach()

    def close(self) -> None:
        """Fail every call. As `Link.close`."""
        calls, self._calls = self._calls, {}
        for pending in calls:
            task, pending.work = pending.work, None
            if task is not None:
                task.detach()
                if pending.options.on_disconnect == "cancel":
                    self._server.cancel(task)
            if not pending.outcome.called:
                pending.outcome.errback(lost(_SERVER_NAME, CLOSED, sent=True))

    # --- what the server calls ---

    def task_progressed(self, key: _LocalCall, progress: Progress) -> None:
        """Pass progress on, if it was asked for."""
        if key.options.progress and not key.outcome.called:
            report(key.on_progress, progress)

    def task_ended(self, key: _LocalCall, outcome: Outcome) -> None:
        """Keep an outcome until `flush`: the caller may ask the server for more when it gets it."""
        key.work = None
        self._calls.pop(key, None)
        self._ended.append((key, outcome))

    def flush(self) -> None:
        """Pass on the outcomes."""
        ended, self._ended = self._ended, []
        for pending, outcome in ended:
            if not pending.outcome.called:
                pending.outcome.callback(outcome)

    def cancel_request(self, asking: Request[Task], request_id: bytes) -> None:
        """Answer a ``taskd.cancel`` by id: the calls of this link have no ids."""
        assert isinstance(asking, _LocalCall)
        self.task_ended(asking, WAS_DONE)
