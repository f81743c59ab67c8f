"""One call in a worker: from the message that asks for it to the one that tells how it ended."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from taskd.errors import InvalidParams, TaskdError, TaskFailed, TooLarge
from taskd.functions.registry import Function, Registry
from taskd.functions.stops import TaskStopped
from taskd.worker.interrupts import Interrupter
from taskd.worker.messages import NULL, Attempt, Done, Failed, Stopped, WorkerConfig
from taskd.worker.progress import MAX_TEXT, encodable

if TYPE_CHECKING:
    from asyncio import Runner

__all__ = ["FunctionCaller"]

_NOT_THE_TASKS = (os.path.dirname(__file__), os.path.join(os.path.dirname(os.__file__), "asyncio"))
"""Where the frames above a task's own are: they are left out of its traceback."""


class FunctionCaller:
    """Calls the functions of a registry, and makes messages of how they end.

    `wrote` tells whether there is output of the function that the daemon has
    still to read.
    """

    def __init__(
        self, registry: Registry, config: WorkerConfig, interrupter: Interrupter, wrote: Callable[[], bool]
    ) -> None:
        self._registry = registry
        self._config = config
        self._interrupter = interrupter
        self._wrote = wrote
        self._event_loop: Runner | None = None

    def call(self, run: Attempt, started: float) -> Done | Failed | Stopped:
        """Call the function; what it raises is in the message. `started` is now (`time.perf_counter`)."""
        function = self._registry[run.function]
        try:
            args, kwargs = function.parameters.bind(run.args)
        except InvalidParams as misfit:
            return _refused(run.task, 0.0, misfit, f"{run.function}: {misfit.message}")
        interrupter = self._interrupter
        error: BaseException | None = None
        stop = result = None
        try:
            try:
                interrupter.begin(run, is_async=function.is_async)
                result = self._call(function, args, kwargs)
            finally:
                stop = interrupter.end()
        except BaseException as raised:  # SystemExit too: a task ends, not its worker.
            # Once more: where the stop was raised inside that `finally`, it is not done.
            stop = interrupter.end()
            error = raised
        seconds = time.perf_counter() - started
        if stop is not None:
            trace = None if error is None or _is_only_a_stop(error) else encodable(_traceback(error))
            return Stopped(run.task, seconds, self._wrote(), trace)
        if error is not None:
            return self._raised(run.task, seconds, error)
        return self._returned(run.task, seconds, result)

    def close(self) -> None:
        """Nothing is called any more."""
        if self._event_loop is not None:
            self._event_loop.close()

    def _call(self, function: Function, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if not function.is_async:
            return function.callable(*args, **kwargs)
        if self._event_loop is None:
            from asyncio import Runner  # a third of a worker's memory, where no task needs it

            self._event_loop = Runner()
        return self._event_loop.run(self._await(function, args, kwargs))

    async def _await(self, function: Function, args: list[Any], kwargs: dict[str, Any]) -> Any:
        from asyncio import current_task

        self._interrupter.run_as(current_task())
        try:
            return await function.callable(*args, **kwargs)
        finally:
            self._interrupter.run_as(None)

    def _returned(self, task: int, seconds: float, result: Any) -> Done | Failed:
        wrote = self._wrote()
        try:
            value = _json(result)
        except Exception as error:
            kind = type(result).__name__
            bad = TaskFailed(f"the result is not JSON ({kind}): {error}", type=kind, message=str(error))
            return _refused(task, seconds, bad, output=wrote)
        limit = self._config.max_result
        if len(value) >= limit:
            size = f"the result is {len(value)} bytes of JSON; the limit is {limit}, with its LF"
            return _refused(task, seconds, TooLarge(size, limit=limit), output=wrote)
        return Done(task, seconds, wrote, Raw(value))

    def _raised(self, task: int, seconds: float, error: BaseException) -> Failed:
        kind = type(error)
        name = (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
        try:
            text = str(error)[:MAX_TEXT]
        except Exception as broken:
            text = f"(its text cannot be had: {broken!r})"
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
            self._wrote(),
            TaskFailed.code,
            encodable(message),
            Raw(_encode(data)),
            encodable(trace),
            leaving=over_limit,  # what it has left is in pieces: let another process go on
        )


def _is_only_a_stop(error: BaseException) -> bool:
    """Whether an interrupted function raised nothing but what it was interrupted by."""
    return isinstance(error, TaskStopped) or type(error).__name__ == "CancelledError"


def _traceback(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_NOT_THE_TASKS):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame))[-MAX_TEXT:]


def _refused(
    task: int, seconds: float, error: TaskdError, message: str | None = None, *, output: bool = False
) -> Failed:
    """A failure that has no traceback which would help anybody."""
    data = Raw(_encode(error.data)) if error.data else NULL
    return Failed(task, seconds, output, error.code, encodable(message or error.message), data, None)


_only_one = msgspec.json.Decoder(tuple[Raw])
_PLAIN = frozenset({int, float, bool, type(None)})
"""Types whose JSON is right as it is, and in which no `msgspec.Raw` can be."""


def _json(result: Any) -> bytes:
    """The JSON of a result, on one line. Raises where there is none.

    A task may return a `msgspec.Raw`, which is encoded as it is.
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
