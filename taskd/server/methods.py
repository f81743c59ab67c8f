"""The handlers of the server's own methods (``taskd.*``), which `taskd.protocol.methods` declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import msgspec
from msgspec import Raw
from twisted.internet.interfaces import IReactorTime

from taskd.auth.whoami import Whoami
from taskd.errors import NotAllowed
from taskd.functions.registry import FunctionInfo
from taskd.model import ANONYMOUS, Grant, Options, Outcome, Result
from taskd.protocol.methods import WAS_DONE, CancelTarget, how_cancelled
from taskd.protocol.requests import Request
from taskd.protocol.stored_methods import NOT_GIVEN, StoredMethods
from taskd.scheduler.budget import Account
from taskd.scheduler.task import Nobody, Subscriber, Task
from taskd.server.figures import Commits
from taskd.server.status import RecentStatus, ScheduleStatus, ServerStatus, StoreStatus

__all__ = ["Asker", "Requester", "ServerMethods", "StoredCalls", "StoredWork", "Work", "granted"]


class Requester(Subscriber, Protocol):
    """A connection that submits requests: a subscriber whose keys are its requests, known by id."""

    @property
    def grant(self) -> Grant:
        """The rights of the connection, by its token or, where none are asked for, by where it comes from."""

    watches: int
    """How many stored tasks and batches the connection watches."""

    @property
    def is_congested(self) -> bool:
        """Whether the connection is slow to read, so that no events should be pushed to it now."""

    @property
    def takes_events(self) -> bool:
        """Whether the connection is there, and may still get events: not if its token is not accepted."""

    def notify(self, line: bytes, /) -> None:
        """Send a notification, without its LF. `flush` follows."""

    @property
    def may_name_callers(self) -> bool:
        """Whether the option `caller` is believed: the connection is a gateway's, or may be one's."""

    def account(self) -> Account:
        """Return the account for what is held for the connection."""

    def cancel_request(self, asking: Request[Any], request_id: bytes) -> None:
        """Cancel the request with this id, and answer `asking` when it has ended."""


@dataclass(frozen=True, slots=True)
class Asker:
    """The request that a method answers, and the connection that it came from."""

    requester: Requester
    request: Request[Work]
    on_answer: Callable[[Outcome], object] | None = None
    """Called with the answer, before that goes out."""

    @property
    def wants_answer(self) -> bool:
        """Whether the answer will be sent: not to a notification."""
        return not self.request.is_notification

    @property
    def grant(self) -> Grant:
        """The rights of the asker: of whoever a gateway asks for, else of the connection itself."""
        return granted(self.requester, self.request.options)

    def answer(self, outcome: Outcome) -> None:
        """Answer the request, after its handler has returned None."""
        if self.on_answer is not None:
            self.on_answer(outcome)
        self.requester.task_ended(self.request, outcome)
        self.requester.flush()

    def when_sent(self, follow: Callable[[], object]) -> bool:
        """Call `follow` when the answer goes out, if that is later; return whether it is.

        An answer waits for the others of its batch. Call this after `answer`.
        """
        batch = self.request.batch
        if batch is None or not batch.missing:
            return False
        batch.when_replied += (follow,)
        return True


def granted(requester: Requester, options: Options) -> Grant:
    """Return what the caller of a request may do; only a gateway's connection is believed about others."""
    if not requester.may_name_callers:
        return requester.grant
    if options.grant is not None:
        return options.grant
    return requester.grant if options.caller is None else ANONYMOUS


class _CancelWatch(Nobody):
    """Answers each ``taskd.cancel`` when the task that it named has ended."""

    def __init__(self) -> None:
        self._answered: dict[Requester, None] = {}

    def task_ended(self, key: Asker, outcome: Outcome) -> None:  # type: ignore[override]
        """Answer with how the task ended."""
        answer = how_cancelled(outcome)
        if key.on_answer is not None:
            key.on_answer(answer)
        key.requester.task_ended(key.request, answer)
        self._answered[key.requester] = None

    def flush(self) -> None:
        """Flush whoever has been answered, once for all of their answers."""
        answered, self._answered = self._answered, {}
        for requester in answered:
            requester.flush()


class StoredWork(Protocol):
    """The stored task of an ordinary call, as the connection of its caller sees it."""

    def cancel(self) -> None:
        """Cancel the task; its request is answered when that has ended."""

    def detach(self) -> None:
        """Let the task go on without its caller."""


Work: TypeAlias = "Task | StoredWork"
"""The `Request.work` of a task server: a task, or a stored one."""


class StoredCalls(StoredMethods[Asker], Protocol):
    """The tasks that are stored, as far as the task server needs them."""

    def use(self, functions: list[FunctionInfo], /) -> None:
        """Run the stored tasks of these functions from now on."""

    @property
    def status(self) -> StoreStatus:
        """The state of the store."""

    @property
    def commits(self) -> Commits:
        """The transactions of the store."""

    @property
    def schedules(self) -> list[ScheduleStatus]:
        """The schedules of the functions."""

    @property
    def is_shared(self) -> bool:
        """Whether other nodes have the same store, and run tasks of it."""

    def call(self, request: Request[Work], requester: Requester | None, grant: Grant, /) -> None:
        """Store the task of an ordinary call of a durable function, and answer when it has ended."""

    def cancel(self, asker: Asker, task: str, /) -> Outcome | None:
        """Handle ``taskd.cancel`` of a stored task."""

    def read_again(self, requester: Requester, /) -> None:
        """Push events again to a connection that was slow to read."""

    def gone(self, requester: Requester, /) -> None:
        """Push nothing more to a connection that is gone."""


class MethodServer(Protocol):
    """The task server, as far as the handlers need it."""

    @property
    def stored(self) -> StoredCalls | None:
        """The tasks that are stored, None if there is no store."""

    @property
    def functions(self) -> list[FunctionInfo]:
        """The functions that can be called; empty before the app is imported."""

    def status(self) -> ServerStatus:
        """Return what the server and each of its workers is doing."""

    def find(self, number: int) -> Task | None:
        """Return the task with this number, None if it has ended or never existed."""

    def cancel(self, task: Task) -> None:
        """Cancel a task in flight."""


class ServerMethods:
    """The handlers of the server's own methods, which involve no worker.

    Implements `taskd.protocol.methods.Methods`.
    """

    def __init__(self, server: MethodServer, clock: IReactorTime) -> None:
        self._server = server
        self._status = RecentStatus(clock, server.status)
        self._functions: Result | None = None
        self._cancel_watch = _CancelWatch()
        # Those who asked for the functions before the app was imported.
        self._want_functions: list[Asker] = []

    def ping(self, asker: Asker, /) -> Outcome:
        """Answer ``"pong"``."""
        return _PONG

    def auth(self, asker: Asker, /, token: str) -> Outcome:  # no tokens are asked for here
        """Answer as `whoami` does: where tokens are asked for, the gate has answered."""
        return self.whoami(asker)

    def whoami(self, asker: Asker, /) -> Outcome:
        """Answer with what whoever shows no token may do."""
        return _result(Whoami.without_token(asker.grant))

    def functions(self, asker: Asker, /) -> Outcome | None:
        """Answer with the functions, now or once the app is imported."""
        if not asker.wants_answer:
            return _NOTHING
        if not self._server.functions:
            self._want_functions.append(asker)
            return None
        return self._all_functions()

    def _all_functions(self) -> Result:
        if self._functions is None:
            self._functions = _result(self._server.functions)
        return self._functions

    def functions_changed(self) -> None:
        """Answer those who asked before the app was imported."""
        self._functions = None
        wanted, self._want_functions = self._want_functions, []
        for asker in wanted:
            asker.answer(self._all_functions())

    def status(self, asker: Asker, /) -> Outcome:
        """Answer with what the server and each of its workers is doing."""
        return self._status.result() if asker.wants_answer else _NOTHING

    def cancel(
        self,
        asker: Asker,
        /,
        id: Raw = NOT_GIVEN,  # noqa: A002
        task: int | str | None = None,
    ) -> Outcome | None:
        """Cancel a request of the asker's connection, or, if the asker may do that, any task."""
        target = CancelTarget.named(id, task, by_number=asker.grant.has("operate"))
        if target.request_id is not None:
            asker.requester.cancel_request(asker.request, target.request_id)
            return None
        if isinstance(target.task, str):
            if self._server.stored is None:
                raise NotAllowed("this server has no store")
            return self._server.stored.cancel(asker, target.task)
        found = self._server.find(target.task or 0)
        if found is None or not found.is_in_flight:
            return WAS_DONE
        found.subscribe(self._cancel_watch, asker)
        self._server.cancel(found)
        return None


def _result(value: Any) -> Result:
    return Result(Raw(msgspec.json.encode(value)))


_PONG = _result("pong")

_NOTHING = _result(None)
"""The answer to notifications, for which nothing is computed."""
