"""`AsyncClient`: the client for asyncio programs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

from taskd.client.addresses import UnixAddress, server_address
from taskd.client.aio_link import AsyncLink
from taskd.client.answers import result_of
from taskd.client.async_handles import AsyncBatch, AsyncTask
from taskd.client.tokens import GivenToken, credentials_of
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
from taskd.errors import TaskdError
from taskd.protocol.method_names import FUNCTIONS, PING, STATUS

__all__ = ["AsyncBatch", "AsyncClient", "AsyncTask", "Links"]

P = ParamSpec("P")
R = TypeVar("R")
Row = TypeVar("Row")

CONNECT_TIMEOUT = 5.0
"""Seconds in which a call must be sent: a server that is restarted is back within one or two."""


class Links:
    """The links of a client and of all that were made from it, one for each event loop."""

    def __init__(
        self,
        server: str | None,
        tls: ssl.SSLContext | None,
        connect_timeout: float,
        token: GivenToken = None,
    ) -> None:
        self._credentials = credentials_of(token)
        self._address = server_address(server)
        if isinstance(self._address, UnixAddress):
            if tls is not None:
                raise ValueError(f"{self._address.text!r} is a unix socket, on which there is no TLS")
        elif self._address.tls is not None and tls is None:
            from taskd.client.tls_context import tls_context  # which those without TLS need not have

            tls = tls_context(self._address.tls)
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._by_loop: dict[asyncio.AbstractEventLoop, AsyncLink] = {}
        self._last: AsyncLink | None = None

    @property
    def server(self) -> str:
        """The address as it was given."""
        return self._address.text

    def here(self) -> AsyncLink:
        """Return the link of the event loop that is running. Raises `RuntimeError` if none is."""
        loop = asyncio.get_running_loop()
        last = self._last  # which another thread, with another loop, may replace
        if last is not None and last.loop is loop:
            return last
        link = self._by_loop.get(loop)
        if link is None:
            self._forget_closed_loops()
            link = self._by_loop[loop] = AsyncLink(
                *(loop, self._address, self._tls, self._connect_timeout), credentials=self._credentials
            )
        self._last = link
        return link

    def _forget_closed_loops(self) -> None:
        """Drop the connections of loops that have ended without a `close`, as those of `asyncio.run` do."""
        for loop in list(self._by_loop):
            if loop.is_closed() and (link := self._by_loop.pop(loop, None)) is not None:
                link.abandon()


class AsyncClient:
    """Calls functions of a task server from asyncio.

    ::

        async with AsyncClient("127.0.0.1:12345") as client:
            print(await client.call("report", pages=3))

    `server` is an address, as for the command (``HOST:PORT``, ``unix:PATH``, ``tls:HOST:PORT``,
    a gateway's ``ws://…``); None stands for that in the environment variable ``TASKD_SERVER``,
    or 127.0.0.1:12345. `token` shows the server who is calling: a text, or a function, which may be
    a coroutine function, that returns one for each connection; None stands for that in ``TASKD_TOKEN``, if
    there is one. (A submit's option `token` is another thing.) `tls` replaces the context of a TLS
    connection. A call that could not be sent is sent again for `connect_timeout` seconds, and none is
    sent twice.

    Connections are made when they are needed, one for each event loop as long as no more than
    some hundred calls are in flight. Raises `ValueError` if `server` is no address, or `token` is none.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        token: str | Callable[[], str | Awaitable[str]] | None = None,
        tls: ssl.SSLContext | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        if connect_timeout <= 0:
            raise ValueError(f"connect_timeout is a number of seconds above 0, not {connect_timeout!r}")
        self._links = Links(server, tls, connect_timeout, token)
        self._words = NO_WORDS

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._links.server}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connections of this event loop; calls in flight fail, and their tasks go on."""
        await self._links.here().close()

    def with_options(self, **options: Unpack[GivenOptions]) -> Self:
        """Return a client with other options, which shares the connections."""
        made = object.__new__(type(self))
        made._links = self._links
        made._words = self._words.with_options(**options)
        return made

    # --- calls ---

    @overload
    async def call(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(
        self, function: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[R]: ...
    @overload
    async def call(
        self, function: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[R]: ...
    @overload
    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, function: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, and return its result.

        `function` is the function itself, or its name. Raises the class of `taskd.errors`
        that belongs to the error; `Unreachable` if there is no server, or the connection is
        lost (`sent` in its data is whether the task may have run); `WaitTimeout` after the
        seconds of the option `wait`; `TypeError` or `ValueError` if the call cannot be sent.

        Cancelling this cancels the task too: one that waits is not started, one that runs is stopped.
        """
        words = self._words
        call = call_of(words, function, args, kwargs)
        return result_of(await self._links.here().outcome(call, words.on_progress, words.wait))

    async def map(
        self,
        function: Callable[..., Any] | str,
        rows: Iterable[Row],
        *,
        concurrency: int = CONCURRENCY,
        return_exceptions: bool = False,
    ) -> AsyncIterator[tuple[Row, Any]]:
        """Call a function for each row, and yield each row with its result, as they come.

        A row is a tuple or a list (arguments by position), a mapping (by name), or a single
        value. At most `concurrency` are in flight. The first error is raised, and the tasks
        of other rows are cancelled; with `return_exceptions`, errors take the places of results.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency is a number above 0, not {concurrency!r}")
        words, link = self._words, self._links.here()
        waiting = iter(rows)
        in_flight: dict[asyncio.Task[Any], Row] = {}
        try:
            while True:
                while len(in_flight) < concurrency:
                    try:
                        row = next(waiting)
                    except StopIteration:
                        break
                    outcome = link.outcome(row_call(words, function, row), words.on_progress, words.wait)
                    in_flight[asyncio.ensure_future(outcome)] = row
                if not in_flight:
                    return
                done, _ = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    row = in_flight.pop(each)
                    try:
                        result = result_of(each.result())
                    except TaskdError as error:
                        if not return_exceptions:
                            raise
                        result = error
                    yield row, result
        finally:
            for each in in_flight:
                each.cancel()

    # --- stored tasks ---

    @overload
    async def submit(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTask[R]: ...
    @overload
    async def submit(
        self, function: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTask[list[R]]: ...
    @overload
    async def submit(
        self, function: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTask[list[R]]: ...
    @overload
    async def submit(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTask[R]: ...
    @overload
    async def submit(self, function: str, /, *args: Any, **kwargs: Any) -> AsyncTask[Any]: ...
    async def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> AsyncTask[Any]:
        """Store a task, and return it before it is run. Raises as `call` does.

        If the connection is lost before the answer, nobody knows whether the task is stored:
        with the option `token` it may be submitted again, and there will be one task.
        """
        link = self._links.here()
        call = submit_of(self._words, function, args, kwargs)
        answer = result_of(await link.outcome(call, wait=self._words.wait))
        return AsyncTask(link, answer["task"], joined=answer["joined"])

    async def submit_batch(
        self,
        function: Callable[..., Any] | str,
        rows: Iterable[object],
        then: Callable[..., Any] | str | None = None,
    ) -> AsyncBatch:
        """Store a task for each row, all or none. When they have ended, the function `then` is called.

        Rows are as for `map`. Raises as `submit` does.
        """
        link = self._links.here()
        call = submit_batch_of(self._words, function, rows, then)
        answer = result_of(await link.outcome(call, wait=self._words.wait))
        return AsyncBatch(link, answer["batch"], answer["tasks"], joined=answer["joined"])

    def task(self, id: str) -> AsyncTask[Any]:  # noqa: A002
        """Return a stored task by its id. Nothing is sent."""
        return AsyncTask(self._links.here(), id)

    def batch(self, id: str) -> AsyncBatch:  # noqa: A002
        """Return a batch by its id. Nothing is sent, and its `tasks` are not known."""
        return AsyncBatch(self._links.here(), id, [])

    # --- the server ---

    async def ping(self) -> None:
        """Return if the server answers. Raises `Unreachable` or `WaitTimeout`."""
        await self._asked(PING)

    async def functions(self) -> list[dict[str, Any]]:
        """Return a description of each function that can be called, as docs/protocol.md has it."""
        functions: list[dict[str, Any]] = await self._asked(FUNCTIONS)
        return functions

    async def status(self) -> dict[str, Any]:
        """Return what the server and each of its workers is doing, as docs/protocol.md has it."""
        status: dict[str, Any] = await self._asked(STATUS)
        return status

    async def _asked(self, method: str) -> Any:
        return result_of(await self._links.here().outcome(named_call(method, {}), wait=self._words.wait))
