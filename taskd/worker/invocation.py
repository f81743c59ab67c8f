"""Calling one function in a worker: from the `Attempt` to the message with its outcome."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from taskd.errors import InvalidParams, TaskdError, TaskFailed, TooLarge, encodable
from taskd.functions.awaitables import NEVER_AWAITABLE, must_await, settled
from taskd.functions.registry import Function, Registry
from taskd.functions.signatures import explain_misfit
from taskd.functions.stops import TaskStopped
from taskd.worker.interrupts import Interrupter
from taskd.worker.messages import NULL, Attempt, Done, Failed, Stopped, WorkerConfig
from taskd.worker.progress import MAX_TEXT

if TYPE_CHECKING:
    from asyncio import Runner

__all__ = ["Invoker"]

_ABOVE_THE_FUNCTION = (os.path.dirname(__file__), os.path.join(os.path.dirname(os.__file__), "asyncio"))
"""The folders of the code that calls functions, whose frames are left out of tracebacks."""


class Invoker:
    """Calls the functions of a registry, and turns their outcomes into messages.

    `has_output` returns whether some output of the function is still to be read by the daemon.
    """

    def __init__(
        self,
        registry: Registry,
        config: WorkerConfig,
        interrupter: Interrupter,
        has_output: Callable[[], bool],
    ) -> None:
        self._registry = registry
        self._config = config
        self._interrupter = interrupter
        self._has_output = has_output
        self._event_loop: Runner | None = None

    def invoke(self, attempt: Attempt, started: float) -> Done | Failed | Stopped:
        """Call the function, and return the message with its outcome, whatever it raises.

        `started` is `time.perf_counter()` now.
        """
        function = self._registry[attempt.function]
        try:
            args, kwargs = function.parameters.bind(attempt.args)
        except InvalidParams as misfit:
            return _refused(attempt.task, 0.0, misfit, f"{attempt.function}: {misfit.message}")
        interrupter = self._interrupter
        error: BaseException | None = None
        stop = result = None
        try:
            try:
                interrupter.begin(attempt, is_async=function.is_async)
                result = self._call(function, args, kwargs)
            finally:
                stop = interrupter.end()
        except BaseException as raised:  # SystemExit too: it ends the task, not the worker
            # Again, since `end` has not run if the stop was raised inside that `finally`.
            stop = interrupter.end()
            error = raised
            explain_misfit(function.callable, raised)
        seconds = time.perf_counter() - started
        if stop is not None:
            trace = None if error is None or _is_only_a_stop(error) else encodable(_traceback(error))
            return Stopped(attempt.task, seconds, self._has_output(), trace)
        if error is not None:
            return self._raised(attempt.task, seconds, error)
        return self._returned(attempt.task, seconds, result)

    def close(self) -> None:
        """Close the event loop of ``async def`` functions, if there is one. `invoke` must not follow."""
        if self._event_loop is not None:
            self._event_loop.close()

    def _call(self, function: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if function.is_async:
            return self._run(self._await(function, args, kwargs))
        result = function.callable(*args, **kwargs)
        if type(result) in NEVER_AWAITABLE or not must_await(result):
            return result
        # From here on, a stop cancels what is awaited; it is not raised inside of asyncio.
        self._interrupter.expect_async_task()
        return self._run(self._settle(result))

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._event_loop is None:
            from asyncio import Runner  # a third of a worker's memory, which most apps save

            self._event_loop = Runner()
        return self._event_loop.run(coroutine)

    async def _await(self, function: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return await self._settle(function.callable(*args, **kwargs))

    async def _settle(self, result: Any) -> Any:
        from asyncio import current_task

        self._interrupter.set_async_task(current_task())
        try:
            return await settled(result)
        finally:
            self._interrupter.set_async_task(None)

    def _returned(self, task: int, seconds: float, result: Any) -> Done | Failed:
        has_output = self._has_output()
        try:
            value = _json(result)
        except Exception as error:
            kind = type(result).__name__
            bad = TaskFailed(f"the result is not JSON ({kind}): {error}", type=kind, message=str(error))
            return _refused(task, seconds, bad, output=has_output)
        limit = self._config.max_result
        if len(value) >= limit:
            size = f"the result is {len(value)} bytes of JSON; the limit is {limit}, with its LF"
            return _refused(task, seconds, TooLarge(size, limit=limit), output=has_output)
        return Done(task, seconds, has_output, Raw(value))

    def _raised(self, task: int, seconds: float, error: BaseException) -> Failed:
        kind = type(error)
        name = (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
        try:
            text = str(error)[:MAX_TEXT]
        except Exception as broken:
            text = f"(its text cannot be read: {broken!r})"
        trace = _traceback(error)
        data: dict[str, Any] = {"type": name, "message": text}
        if self._config.tracebacks:
            data["traceback"] = trace
        limit = self._config.hard_memory
        over_limit = limit is not None and isinstance(error, MemoryError)
        if over_limit:
            text = text or f"the task wanted more memory than --hard-memory allows, {limit} bytes"
            data |= {"message": text, "hard_memory": limit}
        message = f"{name}: {text}" if text else name
        return Failed(
            task,
            seconds,
            self._has_output(),
            TaskFailed.code,
            encodable(message),
            Raw(_encode(data)),
            encodable(trace),
            leaving=over_limit,  # the remaining memory is fragmented: another process should go on
        )


def _is_only_a_stop(error: BaseException) -> bool:
    """Return whether an interrupted function raised only the stop itself."""
    return isinstance(error, TaskStopped) or type(error).__name__ == "CancelledError"


def _traceback(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_ABOVE_THE_FUNCTION):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame))[-MAX_TEXT:]


def _refused(
    task: int, seconds: float, error: TaskdError, message: str | None = None, *, output: bool = False
) -> Failed:
    """Return a failure without a traceback, which would not help here."""
    data = Raw(_encode(error.data)) if error.data else NULL
    return Failed(task, seconds, output, error.code, encodable(message or error.message), data, None)


_only_one = msgspec.json.Decoder(tuple[Raw])
_PLAIN = frozenset({int, float, bool, type(None)})
"""Types whose JSON needs no check, since they cannot contain a `msgspec.Raw`."""


def _json(result: Any) -> bytes:
    """Encode a result as JSON, on one line. Raises if it cannot be encoded.

    A function may return a `msgspec.Raw`, which is copied as it is, so it is checked.
    """
    value = msgspec.json.encode(result)
    if type(result) in _PLAIN:
        return value
    _only_one.decode(b"[%b]" % value)
    if not value.isascii():
        value.decode("utf-8")
    return value.replace(b"\n", b" ") if b"\n" in value else value


def _encode(data: dict[str, Any]) -> bytes:
    return msgspec.json.encode(
        {key: encodable(value) if isinstance(value, str) else value for key, value in data.items()}
    )
