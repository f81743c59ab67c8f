"""Events of stored tasks for the websockets of a gateway whose task servers are elsewhere.

All websockets share one connection to each task server. It watches a task or a
batch as long as any of them does; each gets the part of the log before that by
calls of its own. Where callers have tokens, each websocket must first be allowed to see what it wants to
watch: for that a task server is asked, in the name of its owner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.event_link import EventLink
from taskd.client.tokens import Credentials
from taskd.durable.attaching import Attaching, named_target
from taskd.durable.events import EventHub, Page
from taskd.errors import InternalError, InvalidParams, TaskdError, Unreachable
from taskd.model import ANONYMOUS, OPERATOR, Failure, Grant, Outcome
from taskd.net.reactor import Reactor
from taskd.protocol.event_lines import Kind, parse_event
from taskd.protocol.method_names import ATTACH, DETACH, EVENTS, GET
from taskd.protocol.methods import bound
from taskd.protocol.requests import Request
from taskd.server.methods import Asker, Requester
from taskd.store.records import FINAL, Event

__all__ = ["RemoteEvents"]

_log = Logger(namespace="taskd.gateway")

RECONNECT_SECONDS = 1.0
"""Seconds after which a lost connection is made again: a restart of a task server takes as long."""

MAX_READS = 100
"""Logs that are read at once: each may have to wait for a task server, others need not wait for that."""

ONLY_NEW = -1
"""The `after` of an attach that asks for no events of before."""

_OVER = frozenset(state.name.lower() for state in FINAL)


class _Watched:
    """A task or a batch that a websocket watches; `seen` is the number of its last event that has come."""

    __slots__ = ("id", "kind", "link", "owners", "seen")

    def __init__(self, kind: Kind, id: str) -> None:  # noqa: A002
        self.kind = kind
        self.id = id
        self.link: EventLink | None = None
        self.seen = ONLY_NEW
        self.owners: set[str] = set()
        """Those of whom a task server has said that they may see it."""

    def params(self) -> dict[str, Any]:
        return {self.kind: self.id}


class RemoteEvents:
    """Pushes the events of task servers to websockets.

    `servers` are client endpoint strings, `max_reply` is in bytes, `own_ends` gets
    the addresses of the connections' two ends. With `has_tokens`, websockets see what their grants permit.
    `credentials` are for the task servers.
    """

    def __init__(
        self,
        reactor: Reactor,
        servers: Sequence[str],
        max_reply: int,
        own_ends: set[object],
        *,
        has_tokens: bool = False,
        credentials: Credentials | None = None,
    ) -> None:
        self._reactor = reactor
        # What all websockets share is read for whoever may see it, as was found out before.
        self._grant = OPERATOR if has_tokens else None
        self.links = [
            EventLink(
                *(reactor, server, max_reply, own_ends, self._got, self._reconnect), credentials=credentials
            )
            for server in servers
        ]
        self._watched: dict[str, _Watched] = {}
        self._hub = EventHub(reactor, self._read, time.time, unwatched=self._unwatched, max_reads=MAX_READS)
        self._attaching = Attaching(self._hub, self._read)
        self._timer: IDelayedCall | None = None

    # --- the websockets ---

    def handle(self, request: Request[Any], requester: Requester) -> None:
        """Handle ``taskd.attach`` or ``taskd.detach`` of a websocket. Raises `TaskdError`."""
        args, named = bound(request)
        asker = Asker(requester, request)
        if request.function == ATTACH and self._grant is not None:
            Deferred.fromCoroutine(self._attach_if_allowed(asker, args, named)).addErrback(_broke, asker)
            return
        handler: Callable[..., Outcome | None] = (
            self._attaching.attach if request.function == ATTACH else self._attaching.detach
        )
        answer = handler(asker, *args, **named)
        if answer is not None:
            requester.task_ended(request, answer)

    async def _attach_if_allowed(self, asker: Asker, args: Sequence[Any], named: dict[str, Any]) -> None:
        """Attach a websocket, unless its grant does not cover what it names."""
        grant = asker.grant
        try:
            kind, id_ = named_target(*args, **named)
            watched = self._watched.get(id_)
            if not grant.has("operate") and (watched is None or grant.owner not in watched.owners):
                await self._check(kind, id_, grant)
            requester = asker.requester
            # Meanwhile it may be gone, or its token may not be accepted any more.
            if not requester.takes_events or not requester.wants_result(asker.request, 0):
                return
            answer = self._attaching.attach(asker, *args, **named)
        except TaskdError as error:
            answer = Failure.of(error)
        if answer is not None:
            asker.answer(answer)
            return
        if not grant.has("operate") and id_ in self._watched:
            self._watched[id_].owners.add(grant.owner)

    async def _check(self, kind: Kind, id_: str, grant: Grant) -> None:
        """Raise `TaskdError` unless a task server knows a task or batch, and lets its owner see it."""
        problem: TaskdError | None = None
        for link in self.links:
            try:
                answer = await link.call(GET, {kind: id_}, grant)
            except Unreachable as error:
                problem = error
                continue
            if not isinstance(answer, Failure):
                return
            if answer.code != InvalidParams.code:
                raise answer.exception()
            problem = problem or answer.exception()
        assert problem is not None
        raise problem

    def read_again(self, requester: Requester) -> None:
        """Push events again to a websocket that was slow to read."""
        self._hub.resume(requester)

    def gone(self, requester: Requester) -> None:
        """Push nothing more to a websocket that is gone."""
        self._hub.gone(requester)

    def close(self) -> None:
        """Drop the connections to task servers."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for link in self.links:
            link.close()

    # --- the task servers ---

    def _read(
        self,
        kind: Kind,
        id: str,  # noqa: A002
        after: int,
        limit: int,
        *,
        grant: Grant = ANONYMOUS,
    ) -> Deferred[Page | None]:
        return Deferred.fromCoroutine(self._page(kind, id, after, limit))

    async def _page(self, kind: Kind, id_: str, after: int, limit: int) -> Page | None:
        watched = self._watched.get(id_)
        if watched is None:
            watched = self._watched[id_] = _Watched(kind, id_)
        attached = await self._attach(watched)
        if attached is None:
            return None
        state, seq = attached
        assert watched.link is not None
        answer = await watched.link.call(
            EVENTS, {**watched.params(), "after": after, "limit": limit}, self._grant
        )
        if isinstance(answer, Failure):
            raise answer.exception()
        events = [_event(each) for each in _list.decode(answer.value)]
        return Page(state, seq, events, is_over=state in _OVER and not events, has_more=bool(events))

    async def _attach(self, watched: _Watched) -> tuple[str, int] | None:
        """Have a task server push the events that follow the last one that has come; return the state.

        With it comes the number of the last event in the log. Returns None if no
        task server knows the task or batch. Raises `Unreachable` if one cannot be
        reached, and no other one knows it.
        """
        unreachable: Unreachable | None = None
        for link in [watched.link] if watched.link is not None else self.links:
            try:
                answer = await link.call(ATTACH, {**watched.params(), "after": watched.seen}, self._grant)
            except Unreachable as error:
                unreachable = error
                continue
            if not isinstance(answer, Failure):
                attached = _attached.decode(answer.value)
                watched.link = link
                watched.seen = max(watched.seen, attached.seq)
                if watched.id not in self._watched:  # nobody watches it any more
                    self._unwatch(watched)
                return attached.state, attached.seq
            if answer.code != InvalidParams.code:
                raise answer.exception()
        if unreachable is not None:
            raise unreachable
        return None

    def _got(self, params: Raw) -> None:
        event = _event(params)
        watched = self._watched.get(event.task)
        if watched is not None:
            watched.seen = max(watched.seen, event.seq)
            self._hub.publish([event])

    def _unwatched(self, kind: Kind, id: str) -> None:  # noqa: A002
        watched = self._watched.pop(id, None)
        if watched is not None:
            self._unwatch(watched)

    def _unwatch(self, watched: _Watched) -> None:
        if watched.link is not None:
            watched.link.call(DETACH, watched.params(), self._grant).addErrback(lambda _: None)

    def _reconnect(self) -> None:
        if self._watched and self._timer is None:
            self._timer = self._reactor.callLater(RECONNECT_SECONDS, self._attach_again)

    def _attach_again(self) -> None:
        self._timer = None
        for watched in list(self._watched.values()):
            if watched.link is not None:
                Deferred.fromCoroutine(self._again(watched))

    async def _again(self, watched: _Watched) -> None:
        try:
            if await self._attach(watched) is None:
                self._hub.lose(watched.id)
            else:
                self._hub.look_again([watched.id])
        except Unreachable:
            self._reconnect()
        except TaskdError as error:
            _log.warn("the events of {id} do not come any more: {error}", id=watched.id, error=error)


class _Attached(msgspec.Struct):
    state: str
    seq: int


_attached = msgspec.json.Decoder(_Attached)
_list = msgspec.json.Decoder(list[Raw])


def _broke(reason: TwistedFailure, asker: Asker) -> None:
    _log.failure("a bug in taskd", reason)
    if asker.requester.wants_result(asker.request, 0):
        asker.answer(Failure.of(InternalError("a bug in taskd; see the gateway's log")))


def _event(params: Raw) -> Event:
    parsed = parse_event(bytes(params))
    return Event(parsed.id, parsed.seq, parsed.event, parsed.at, parsed.data)
