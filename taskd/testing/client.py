"""A client for the tests of programs that use taskd, which calls the functions in its own process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import AsyncGeneratorType, GeneratorType
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred, maybeDeferred

from taskd.client.link import OnProgress
from taskd.errors import MethodNotFound, TaskFailed
from taskd.functions.awaitables import must_await, settled
from taskd.functions.progress import check_report, report_progress_to
from taskd.functions.raised import one_line, text_of, type_name
from taskd.functions.registry import Registry, registry
from taskd.functions.wire_names import wire_name
from taskd.model import Options, Progress
from taskd.protocol.request_lines import encode_arguments
from taskd.worker.results import NotJSON, encode_result

__all__ = ["MemoryTaskClient"]


class MemoryTaskClient:
    """A client with the interface of `taskd.client.TaskClient` that runs functions in this process.

    Arguments and results go through JSON, and arguments are checked, as by a
    real server; errors are the same exceptions. There is no pool: a call
    blocks until its function returns, so `timeout` and `options` are ignored.
    `functions` are those that can be called; by default, those of all imported
    apps.
    """

    def __init__(self, functions: Registry = registry) -> None:
        self._functions = functions

    def call(
        self,
        function: str,
        /,
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        **args: Any,
    ) -> Deferred[Any]:
        """Call `function` by name, with keyword arguments, as `TaskClient.call` does.

        The Deferred has already fired, with the same result or exception as there.
        """
        named = {wire_name(name): value for name, value in args.items()}
        return self.request(function, named, on_progress=on_progress, timeout=timeout)

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
        return maybeDeferred(self._run, function, encode_arguments(args), on_progress)

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def _run(self, function: str, args: Raw, on_progress: OnProgress | None) -> Any:
        if function not in self._functions:
            raise MethodNotFound(f"no such function: {function}")
        known = self._functions[function]
        positional, named = known.parameters.bind(args)

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
