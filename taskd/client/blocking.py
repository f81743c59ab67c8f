"""`Client`: the client for programs that block, such as those of Django and Flask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from msgspec import UNSET, UnsetType

from taskd.client.addresses import TlsFiles, UnixAddress, server_address
from taskd.client.answers import result_of
from taskd.client.exchanges import Exchanges
from taskd.client.handle import Batch, Task
from taskd.client.tokens import credentials_of
from taskd.client.words import (
    NO_WORDS,
    OnProgress,
    call_of,
    function_name,
    named_call,
    row_call,
    submit_batch_of,
    submit_of,
)
from taskd.errors import TaskdError
from taskd.protocol.method_names import FUNCTIONS, PING, STATUS

if TYPE_CHECKING:
    from ssl import SSLContext
    from types import TracebackType

__all__ = ["Client"]

P = ParamSpec("P")
R = TypeVar("R")
Row = TypeVar("Row")


class Client:
    """Calls functions of a task server, and waits for them.

    ::

        client = Client()
        pages = client.call(report, pages=3)

    `server` is an address, as the command line takes it: ``HOST:PORT``, ``unix:PATH``,
    ``tls:HOST:PORT``, a gateway's ``ws://HOST:PORT``; None is that of the environment variable
    ``TASKD_SERVER``, or else port 12345 of this machine. `token` shows the server who is calling: a text,
    or a function that returns one for each connection; None is that of the environment variable
    ``TASKD_TOKEN``, if there is one. (A submit's option `token` is another thing.) `tls` takes the place
    of the files that an address names, and makes a bare ``HOST:PORT`` one with TLS. `pool` is how many
    idle connections are kept; each call has one for itself. A call that was not sent, as while the server
    restarts, is sent again for up to `connect_timeout` seconds.

    It may be used by several threads at once, and after a fork. Nothing is connected before the first
    call. Raises `ValueError` if `server` is no address, or `token` is none.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        token: str | Callable[[], str] | None = None,
        tls: SSLContext | None = None,
        pool: int = 10,
        connect_timeout: float = 5.0,
    ) -> None:
        address = server_address(server)
        if isinstance(address, UnixAddress) and tls is not None:
            raise ValueError(f"{address.text!r} is a unix socket, on which there is no TLS")
        if not isinstance(address, UnixAddress) and address.tls is not None and tls is None:
            tls = _context(address.tls)
        if pool < 0:
            raise ValueError(f"pool is a number of connections, 0 or more, not {pool!r}")
        if connect_timeout <= 0:
            raise ValueError(f"connect_timeout is a number of seconds above 0, not {connect_timeout!r}")
        self._words = NO_WORDS
        self._exchanges = Exchanges(*(address, tls, pool, connect_timeout), credentials=credentials_of(token))

    def with_options(
        self,
        *,
        timeout: float | UnsetType | None = UNSET,
        priority: int | UnsetType | None = UNSET,
        deadline: float | UnsetType | None = UNSET,
        on_disconnect: Literal["finish", "cancel"] | UnsetType | None = UNSET,
        key: str | UnsetType | None = UNSET,
        delay: float | UnsetType | None = UNSET,
        at: str | datetime | UnsetType | None = UNSET,
        retries: int | UnsetType | None = UNSET,
        keep: float | UnsetType | None = UNSET,
        traceparent: str | UnsetType | None = UNSET,
        owner: str | UnsetType | None = UNSET,
        token: str | UnsetType | None = UNSET,
        wait: float | UnsetType | None = UNSET,
        on_progress: OnProgress | UnsetType | None = UNSET,
    ) -> Client:
        """Return a client with other options, over the same connections; None takes an option away.

        `wait` is how many seconds a reply is awaited, and `on_progress` is called with each
        `taskd.model.Progress`; the others are those of docs/protocol.md. Raises `ValueError`
        for a value that its option cannot have.
        """
        changed = object.__new__(type(self))
        changed._exchanges = self._exchanges
        changed._words = self._words.with_options(
            timeout=timeout,
            priority=priority,
            deadline=deadline,
            on_disconnect=on_disconnect,
            key=key,
            delay=delay,
            at=at,
            retries=retries,
            keep=keep,
            traceparent=traceparent,
            owner=owner,
            token=token,
            wait=wait,
            on_progress=on_progress,
        )
        return changed

    # --- calls ---

    @overload
    def call(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, function: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs) -> list[R]: ...
    @overload
    def call(
        self, function: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[R]: ...
    @overload
    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, function: str, /, *args: Any, **kwargs: Any) -> Any: ...
    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, given itself or by its name, and return its result.

        Raises the class of `taskd.errors` that belongs to its error; `Unreachable`, whose data tells
        whether the call was ``sent`` and so may have been run; `WaitTimeout` after the option `wait`.
        Any exception during the wait, as that of Ctrl-C, has the task cancelled.

        Raises `TypeError` if the function is not registered, or if arguments cannot be written as
        JSON; `ValueError` if they are nested too deeply, or for an option of another method.
        """
        words = self._words
        call = call_of(words, function, args, kwargs)
        return self._exchanges.call(call, call.function, words.wait, words.on_progress)

    def map(
        self,
        function: Callable[..., Any] | str,
        rows: Iterable[Row],
        *,
        concurrency: int = 16,
        return_exceptions: bool = False,
    ) -> Iterator[tuple[Row, Any]]:
        """Call a function for each row, and yield each row with its result, in the order in which they end.

        A tuple or a list has arguments by position, a mapping by name, anything else is the one
        argument. Up to `concurrency` calls are in flight. The first error is raised, and the other
        calls are cancelled; with `return_exceptions`, it is yielded in place of the result.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency is a number of calls, 1 or more, not {concurrency!r}")
        words = self._words
        words.check_method("map")
        function_name(function)
        return self._mapped(function, rows, concurrency, return_exceptions=return_exceptions)

    def _mapped(
        self, function: object, rows: Iterable[Row], concurrency: int, *, return_exceptions: bool
    ) -> Iterator[tuple[Row, Any]]:
        words = self._words
        calls = ((row, row_call(words, function, row)) for row in rows)
        ended = self._exchanges.many(calls, concurrency, words.wait, words.on_progress)
        try:
            for row, outcome in ended:
                try:
                    result = _raised(outcome) if isinstance(outcome, TaskdError) else result_of(outcome)
                except TaskdError as error:
                    if not return_exceptions:
                        raise
                    result = error
                yield row, result
        finally:
            ended.close()

    # --- stored tasks ---

    @overload
    def submit(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[R]: ...
    @overload
    def submit(
        self, function: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[list[R]]: ...
    @overload
    def submit(
        self, function: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[list[R]]: ...
    @overload
    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Task[R]: ...
    @overload
    def submit(self, function: str, /, *args: Any, **kwargs: Any) -> Task[Any]: ...
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Have a task stored, and return its handle as soon as it is. Raises as `call` does."""
        call = submit_of(self._words, function, args, kwargs)
        answer = self._exchanges.call(call, function_name(function), self._words.wait)
        return Task(self._exchanges, answer["task"], joined=answer["joined"])

    def submit_batch(
        self,
        function: Callable[..., Any] | str,
        rows: Iterable[Sequence[Any] | Mapping[str, Any] | object],
        then: Callable[..., Any] | str | None = None,
    ) -> Batch:
        """Have a task stored for each row, all or none; when all have ended, `then` is called.

        Rows are as for `map`. Raises as `call` does.
        """
        call = submit_batch_of(self._words, function, rows, then)
        answer = self._exchanges.call(call, function_name(function), self._words.wait)
        return Batch(self._exchanges, answer["batch"], answer["tasks"], joined=answer["joined"])

    def task(self, id: str) -> Task[Any]:  # noqa: A002
        """Return the handle of a stored task. Whether there is one shows when it is used."""
        return Task(self._exchanges, id)

    def batch(self, id: str) -> Batch:  # noqa: A002
        """Return the handle of a batch. Whether there is one shows when it is used."""
        return Batch(self._exchanges, id)

    # --- the server ---

    def ping(self) -> None:
        """Return if the server answers. Raises `Unreachable` or `WaitTimeout`."""
        self._exchanges.ask(named_call(PING, {}), "the server", self._words.wait)

    def functions(self) -> list[dict[str, Any]]:
        """Return a description of each function that can be called, as docs/protocol.md has it."""
        answer: list[dict[str, Any]] = self._exchanges.ask(
            named_call(FUNCTIONS, {}), "the server", self._words.wait
        )
        return answer

    def status(self) -> dict[str, Any]:
        """Return what the server and each of its workers is doing, as docs/protocol.md has it."""
        answer: dict[str, Any] = self._exchanges.ask(named_call(STATUS, {}), "the server", self._words.wait)
        return answer

    def close(self) -> None:
        """Close the connections; what other threads wait for goes on. No call is possible any more.

        That closes all clients that `with_options` has made of the same one.
        """
        self._exchanges.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._exchanges.address.text}>"


def _context(files: TlsFiles) -> SSLContext:
    from taskd.client.tls_context import tls_context  # which those without TLS need not import

    return tls_context(files)


def _raised(error: TaskdError) -> Any:
    raise error
