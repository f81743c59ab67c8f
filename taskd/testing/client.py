"""A client for the tests of programs that use taskd, which calls the functions in its own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import AsyncGeneratorType, GeneratorType
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred, succeed

from taskd.client.link import OnProgress
from taskd.client.twisted_map import map_rows
from taskd.client.words import CONCURRENCY, NO_WORDS, GivenOptions, call_of, row_call
from taskd.errors import MethodNotFound, TaskFailed
from taskd.functions.awaitables import must_await, settled
from taskd.functions.progress import check_report, report_progress_to
from taskd.functions.raised import one_line, text_of, type_name
from taskd.functions.registry import Registry, registry
from taskd.model import Call, Options, Progress
from taskd.protocol.request_lines import encode_arguments
from taskd.worker.results import NotJSON, encode_result

__all__ = ["MemoryTaskClient"]

P = ParamSpec("P")
R = TypeVar("R")
Row = TypeVar("Row")


class MemoryTaskClient:
    """A client with the interface of `taskd.client.TaskClient` that runs functions in this process.

    Arguments and results go through JSON, and arguments are checked, as by a
    real server; errors are the same exceptions. There is no pool: a call
    blocks until its function returns, so that all options but `on_progress` are checked and
    have no effect; and there is no store, so that nothing can be submitted.
    `functions` are those that can be called; by default, those of all imported
    apps.
    """

    def __init__(self, functions: Registry = registry) -> None:
        self._functions = functions
        self._words = NO_WORDS

    def with_options(self, **options: Unpack[GivenOptions]) -> Self:
        """Return a client with other options, of which only `on_progress` has an effect."""
        made = object.__new__(type(self))
        made._functions = self._functions
        made._words = self._words.with_options(**options)
        return made

    @overload
    def call(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[R]: ...
    @overload
    def call(
        self, function: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[list[R]]: ...
    @overload
    def call(
        self, function: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[list[R]]: ...
    @overload
    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[R]: ...
    @overload
    def call(self, function: str, /, *args: Any, **kwargs: Any) -> Deferred[Any]: ...
    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Call a function, which is given itself or by its name, as `TaskClient.call` does.

        The Deferred has already fired, with the same result or exception as there.
        """
        call = call_of(self._words, function, args, kwargs, self._functions)
        return maybeDeferred(self._run, call, self._words.on_progress)

    def map(
        self,
        function: Callable[..., Any] | str,
        rows: Iterable[Row],
        *,
        concurrency: int = CONCURRENCY,
        return_exceptions: bool = False,
    ) -> AsyncIterator[tuple[Row, Any]]:
        """Call a function for each row, as `TaskClient.map` does."""

        def call(row: Row) -> Deferred[Any]:
            made = row_call(self._words, function, row, self._functions)
            return maybeDeferred(self._run, made, self._words.on_progress)

        return map_rows(call, rows, concurrency, return_exceptions=return_exceptions)

    def ping(self) -> Deferred[None]:
        """Fire, as `TaskClient.ping` does."""
        return succeed(None)

    def functions(self) -> Deferred[list[dict[str, Any]]]:
        """Return a description of each function, as `TaskClient.functions` does."""
        described = [function.describe() for function in self._functions]
        return succeed(msgspec.json.decode(msgspec.json.encode(described)))

    def request(
        self,
        function: str,
        args: Mapping[str, Any] | Sequence[Any] = (),
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        options: Options | None = None,
    ) -> Deferred[Any]:
        """Call `function` with arguments by name or by position, as `TaskClient.request` does.

        The Deferred has already fired: with the result, or with `MethodNotFound`,
        `InvalidParams` or `TaskFailed`. `on_progress` has been called with each
        `taskd.model.Progress` before that. Raises `TypeError` if `args` cannot be
        encoded as JSON, `ValueError` if they are nested too deeply.
        """
        return maybeDeferred(self._run, Call(function, encode_arguments(args)), on_progress)

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def _run(self, call: Call, on_progress: OnProgress | None) -> Any:
        if call.function not in self._functions:
            raise MethodNotFound(f"no such function: {call.function}")
        known = self._functions[call.function]
        positional, named = known.parameters.bind(call.args)

        def report(done: float, total: float | None, message: str | None) -> None:
            checked = check_report(done, total, message)
            if on_progress is not None:
                on_progress(Progress(*checked))

        report_progress_to(report)
        try:
            result = known.callable(*positional, **named)
            if type(result) is GeneratorType:
                result = list(result)
            elif type(result) is AsyncGeneratorType or must_await(result):
                # In a thread, since the caller's reactor may be running an asyncio loop.
                with ThreadPoolExecutor(1) as thread:
                    result = thread.submit(asyncio.run, _settled(result)).result()
            return msgspec.json.decode(encode_result(result))
        except NotJSON as error:
            raise error.failure() from None
        except Exception as error:
            data = {"type": type_name(type(error)), "message": text_of(error)}
            raise TaskFailed(one_line(error), **data) from error
        finally:
            report_progress_to(None)


async def _settled(result: Any) -> Any:
    """Await a result, and collect what an async generator yields."""
    value = await settled(result)
    return [item async for item in value] if type(value) is AsyncGeneratorType else value
