"""`TaskClient`: the client for Twisted programs."""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack, overload

import msgspec
from msgspec import Raw, structs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from taskd.client.answers import result_of
from taskd.client.conversation import MAX_REPLY
from taskd.client.event_link import EventLink
from taskd.client.link import Link, OnProgress
from taskd.client.pending import OnEvent
from taskd.client.per_call import PerCallLink
from taskd.client.pooled import PooledLink
from taskd.client.tokens import Credentials, credentials_of
from taskd.client.twisted_asking import EventConnection, MakeConnection, TwistedAsking
from taskd.client.twisted_handles import DeferredBatch, DeferredTask
from taskd.client.twisted_map import map_rows
from taskd.client.words import (
    CONCURRENCY,
    NO_WORDS,
    GivenOptions,
    call_of,
    named_call,
    row_call,
    submit_batch_of,
    submit_of,
)
from taskd.model import NO_OPTIONS, Call, Options
from taskd.net.client_addresses import is_websocket, websocket_url
from taskd.net.reactor import Reactor
from taskd.protocol.method_names import FUNCTIONS, PING, STATUS
from taskd.protocol.request_lines import encode_arguments

__all__ = ["DeferredBatch", "DeferredTask", "TaskClient"]

P = ParamSpec("P")
R = TypeVar("R")
Row = TypeVar("Row")

_log = Logger(namespace="taskd.client")


class TaskClient:
    """Calls functions of a task server from Twisted. Deferreds fire with results, and fail as described.

    ::

        client = TaskClient(reactor, "tcp:127.0.0.1:12345")
        result = await client.call("send_mail", from_="a@x", to="b@y", contents="hi")

    `server` is an address (``HOST:PORT``), a Twisted client endpoint string
    (``tcp:HOST:PORT``, ``unix:PATH``, ``tls:HOST:PORT:trustRoots=…``), or a
    gateway's ``ws://…``. `link` is ``per-call`` (a connection for each call) or
    ``pooled`` (connections are kept, with many calls in flight on each); a
    websocket is always kept. `token` shows the server who is calling: a text, or a function
    that returns one for each connection, or a Deferred or a coroutine of one; None stands for that
    in the environment variable ``TASKD_TOKEN``, if there is one. (A submit's option `token` is another
    thing.) `on_event` is called with each event of the stored
    tasks and batches that ``taskd.attach`` was asked for, a dict as `docs/protocol.md`
    has it; that needs connections which are kept. Raises `ValueError` for an
    address that is not valid, or a token that is none.
    """

    def __init__(
        self,
        reactor: Reactor,
        server: str,
        *,
        token: str | Callable[[], str | Awaitable[str]] | None = None,
        link: Literal["per-call", "pooled"] = "per-call",
        on_event: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        credentials = credentials_of(token)
        self._words = NO_WORDS
        self._link: Link
        make_connection: MakeConnection
        pushed = None if on_event is None else _decoded(on_event)
        if is_websocket(server):
            # Autobahn takes a while to import, and several MiB: only those who use websockets pay for it.
            from taskd.client.websocket import WebSocketLink

            url = websocket_url(server)
            self._link = WebSocketLink(reactor, url, pushed, credentials=credentials)
            make_connection = partial(WebSocketLink, reactor, url, credentials=credentials)
        elif link not in ("per-call", "pooled"):
            raise ValueError(f"link must be one of per-call, pooled, not {link!r}")
        elif on_event is not None and link != "pooled":
            raise ValueError("events are pushed on connections that are kept: link must be pooled")
        else:
            pooled = link == "pooled"
            self._link = (
                PooledLink(reactor, server, on_event=pushed, beats=True, credentials=credentials)
                if pooled
                else PerCallLink(reactor, server, beats=True, credentials=credentials)
            )
            make_connection = partial(_event_connection, reactor, server, credentials)
        self._asking = TwistedAsking(
            *(reactor, server, self._link, make_connection),
            is_renewable=credentials is not None and credentials.is_renewable,
        )

    def with_options(self, **options: Unpack[GivenOptions]) -> Self:
        """Return a client with other options, which shares the connections.

        The options are those of `taskd.client.words.Words.with_options`: those of
        docs/protocol.md; `wait`, seconds after which the wait for a reply ends, with `WaitTimeout`;
        and `on_progress`, which is called with each `taskd.model.Progress`. Raises `ValueError`
        for a value that an option cannot have.
        """
        made = object.__new__(type(self))
        made._link, made._asking = self._link, self._asking
        made._words = self._words.with_options(**options)
        return made

    # --- calls ---

    @overload
    def call(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[R]: ...
    @overload
    def call(
        self, function: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[list[R]]: ...
    @overload
    def call(
        self, function: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[list[R]]: ...
    @overload
    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[R]: ...
    @overload
    def call(self, function: str, /, *args: Any, **kwargs: Any) -> Deferred[Any]: ...
    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Call a function, which is given itself or by its name.

        The arguments are given by position or by name; a name that is a Python keyword is
        written with an underscore behind it (``from_``). `request` describes the Deferred.
        Raises `TypeError` or `ValueError` if the call cannot be sent.
        """
        return self._called(call_of(self._words, function, args, kwargs))

    def _called(self, call: Call) -> Deferred[Any]:
        words = self._words
        return self._asking.ask(call, words.on_progress, words.wait).addCallback(result_of)

    def request(
        self,
        function: str,
        args: Mapping[str, Any] | Sequence[Any] = (),
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        options: Options | None = None,
    ) -> Deferred[Any]:
        """Call `function` with arguments by name (a mapping, in wire terms) or by position.

        The Deferred fires with the result. It fails with the class of
        `taskd.errors` that belongs to the error's code; with `Unreachable`
        if there is no server; with `WaitTimeout` after `timeout` seconds
        of waiting. `on_progress` is called with each
        `taskd.model.Progress` of the task.

        Cancelling the Deferred cancels the task too: one that waits is not
        started, one that runs is stopped. So does the end of `timeout`. The
        wait ends at once; how the task ended is then not known.

        `options` (`taskd.model.Options`) say how the server should run the
        call: `timeout` (there it is run time), `deadline`, `priority`,
        `on_disconnect`. Their `progress` is ignored, and so are the client's own options.

        Raises `TypeError` if `args` cannot be written as JSON, `ValueError` if
        they are nested too deeply for a request.
        """
        asked = structs.replace(options or NO_OPTIONS, progress=on_progress is not None)
        call = Call(function, encode_arguments(args), asked)
        return self._asking.ask(call, on_progress, timeout).addCallback(result_of)

    def map(
        self,
        function: Callable[..., Any] | str,
        rows: Iterable[Row],
        *,
        concurrency: int = CONCURRENCY,
        return_exceptions: bool = False,
    ) -> AsyncIterator[tuple[Row, Any]]:
        """Call a function for each row, and yield each row with its result, as they come.

        It is for ``async for`` in a coroutine. A row is a tuple or a list (arguments by
        position), a mapping (by name), or a single value. At most `concurrency` are in flight. The
        first error is raised, and the tasks of other rows are cancelled; with `return_exceptions`,
        errors take the places of results.
        """

        def call(row: Row) -> Deferred[Any]:
            return self._called(row_call(self._words, function, row))

        return map_rows(call, rows, concurrency, return_exceptions=return_exceptions)

    # --- stored tasks ---

    @overload
    def submit(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[DeferredTask[R]]: ...
    @overload
    def submit(
        self, function: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[DeferredTask[list[R]]]: ...
    @overload
    def submit(
        self, function: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[DeferredTask[list[R]]]: ...
    @overload
    def submit(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[DeferredTask[R]]: ...
    @overload
    def submit(self, function: str, /, *args: Any, **kwargs: Any) -> Deferred[DeferredTask[Any]]: ...
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Deferred[DeferredTask[Any]]:
        """Store a task; fires with it before it is run. Arguments and errors are as for `call`.

        If the connection is lost before the answer, nobody knows whether the task is stored:
        with the option `token` it may be submitted again, and there will be one task.
        """

        def submitted(answer: dict[str, Any]) -> DeferredTask[Any]:
            return DeferredTask(self._asking, answer["task"], joined=answer["joined"])

        return self._called(submit_of(self._words, function, args, kwargs)).addCallback(submitted)

    def submit_batch(
        self,
        function: Callable[..., Any] | str,
        rows: Iterable[object],
        then: Callable[..., Any] | str | None = None,
    ) -> Deferred[DeferredBatch]:
        """Store a task for each row, all or none. When they have ended, the function `then` is called.

        Rows are as for `map`, and errors as for `submit`.
        """

        def submitted(answer: dict[str, Any]) -> DeferredBatch:
            return DeferredBatch(self._asking, answer["batch"], answer["tasks"], joined=answer["joined"])

        return self._called(submit_batch_of(self._words, function, rows, then)).addCallback(submitted)

    def task(self, id: str) -> DeferredTask[Any]:  # noqa: A002
        """Return a stored task by its id. Nothing is sent."""
        return DeferredTask(self._asking, id)

    def batch(self, id: str) -> DeferredBatch:  # noqa: A002
        """Return a batch by its id. Nothing is sent, and its `tasks` are not known."""
        return DeferredBatch(self._asking, id, [])

    # --- the server ---

    def ping(self) -> Deferred[None]:
        """Fire if the server answers. Fails with `Unreachable` or `WaitTimeout`."""
        return self._called(named_call(PING, {})).addCallback(lambda _: None)

    def functions(self) -> Deferred[list[dict[str, Any]]]:
        """Return a description of each function that can be called, as docs/protocol.md has it."""
        return self._called(named_call(FUNCTIONS, {}))

    def status(self) -> Deferred[dict[str, Any]]:
        """Return what the server and each of its workers is doing, as docs/protocol.md has it."""
        return self._called(named_call(STATUS, {}))

    def close(self) -> None:
        """Drop the connections; calls in flight fail.

        Their tasks go on, except those whose `on_disconnect` is "cancel".
        """
        self._link.close()
        self._asking.close()


def _event_connection(
    reactor: Reactor,
    server: str,
    credentials: Credentials | None,
    on_event: OnEvent,
    on_lost: Callable[[], object],
) -> EventConnection:
    return EventLink(
        *(reactor, server, MAX_REPLY, set(), on_event, on_lost), beats=True, credentials=credentials
    )


def _decoded(on_event: Callable[[dict[str, Any]], object]) -> OnEvent:
    """Return a function that passes events on, decoded. If `on_event` raises, that is logged."""

    def pushed(event: Raw) -> None:
        try:
            on_event(msgspec.json.decode(event))
        except Exception:
            _log.failure("an on_event callback raised")

    return pushed
