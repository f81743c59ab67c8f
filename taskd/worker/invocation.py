"""Calling one function in a worker: from the `Attempt` to the message with its outcome."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from types import AsyncGeneratorType, GeneratorType
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from taskd.errors import InvalidParams, TaskdError, TaskFailed, TooLarge
from taskd.functions.awaitables import NEVER_AWAITABLE, must_await, settled
from taskd.functions.hiding import Hide, hider, unhidden
from taskd.functions.raised import encodable, text_of, type_name
from taskd.functions.registry import Function, Registry
from taskd.functions.retries import Verdict, verdict_on
from taskd.functions.signatures import explain_misfit
from taskd.functions.stops import TaskStopped
from taskd.worker.clean_start import CleanStart
from taskd.worker.generators import UnfitValue, Yields, consume, consume_async
from taskd.worker.interrupts import Interrupter
from taskd.worker.memory import peak_kib
from taskd.worker.messages import (
    IS_SHORT,
    NULL,
    Attempt,
    DescribedAttempt,
    Done,
    Failed,
    Stopped,
    WorkerConfig,
    Yielded,
)
from taskd.worker.results import NotJSON, encode_result
from taskd.worker.tracebacks import traceback_of

__all__ = ["Invoker"]

Refusal = TypeVar("Refusal", bound=TaskdError)

_ABOVE_THE_FUNCTION = (os.path.dirname(__file__), os.path.join(os.path.dirname(os.__file__), "asyncio"))
"""The folders of the code that calls functions, whose frames are left out of tracebacks."""


class Invoker:
    """Calls the functions of a registry, and turns their outcomes into messages.

    Each is called in a context of its own, a copy of the current one, so that its
    context variables end with it. `clean_start` puts back what it has changed.
    What stored tasks yield is sent with `send`.
    """

    def __init__(
        self,
        registry: Registry,
        config: WorkerConfig,
        interrupter: Interrupter,
        clean_start: CleanStart,
        send: Callable[[Yielded], object],
    ) -> None:
        self._registry = registry
        self._config = config
        self._interrupter = interrupter
        self._clean_start = clean_start
        self._send = send
        self._has_output = clean_start.has_output
        self._process = clean_start.process
        self._event_loop = clean_start.event_loop

    def invoke(self, attempt: Attempt, started: float) -> Done | Failed | Stopped:
        """Call the function, and return the message with its outcome, whatever it raises.

        `started` is `time.perf_counter()` now.
        """
        function = self._registry[attempt.function]
        try:
            args, kwargs = function.parameters.bind(attempt.args)
        except InvalidParams as misfit:
            return self._misfit(attempt, misfit, self._hider(attempt))
        except BaseException as raised:  # a type of the app, whose checks may even call sys.exit()
            seconds = time.perf_counter() - started
            return self._raised(attempt.task, seconds, raised, None, self._hider(attempt))
        interrupter = self._interrupter
        error: BaseException | None = None
        stop = result = None
        try:
            try:
                interrupter.begin(attempt, is_async=function.is_async)
                result = self._call(attempt, function, args, kwargs)
            finally:
                stop = interrupter.end()
        except BaseException as raised:  # SystemExit too: it ends the task, not the worker
            # Again, since `end` has not run if the stop was raised inside that `finally`.
            stop = interrupter.end()
            error = raised
            explain_misfit(function.callable, raised)
        seconds = time.perf_counter() - started
        if not attempt.flags & IS_SHORT:
            self._process.leave_if_forked(error)
            self._clean_start.settle()
        else:
            if self._process.was_forked:
                self._process.leave_if_forked(error)
            if self._event_loop.has_run:
                self._event_loop.settle(is_short=True)
        if stop is not None:
            trace = None
            if error is not None and not _is_only_a_stop(error):
                trace = traceback_of(error, _is_above, self._hider(attempt))
            return Stopped(attempt.task, seconds, self._has_output(), trace, peak_kib())
        if error is not None:
            verdict = verdict_on(error, function.retry_for)
            return self._raised(attempt.task, seconds, error, verdict, self._hider(attempt))
        return self._returned(attempt, seconds, result)

    def _hider(self, attempt: Attempt) -> Hide:
        """Return what masks the secret arguments of an attempt in texts."""
        secrets = self._registry[attempt.function].secrets
        return hider(secrets.values(attempt.args)) if secrets else unhidden

    def hider_of_running(self) -> Hide:
        """Return what masks the secret arguments of the attempt that runs in texts."""
        running = self._interrupter.running
        return unhidden if running is None else self._hider(running)

    def _call(self, attempt: Attempt, function: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        context = copy_context()
        if function.is_async:
            return self._event_loop.run(self._await(attempt, function, args, kwargs), context)
        run = context.run
        result = run(function.callable, *args, **kwargs) if kwargs else run(function.callable, *args)
        if type(result) in NEVER_AWAITABLE:
            return result
        if type(result) is GeneratorType:
            return run(consume, result, self._yields(attempt))
        if type(result) is not AsyncGeneratorType and not must_await(result):
            return result
        # From here on, a stop cancels what is awaited; it is not raised inside of asyncio.
        self._interrupter.expect_async_task()
        return self._event_loop.run(self._settle(attempt, result), context)

    def _yields(self, attempt: Attempt) -> Yields:
        is_stored = type(attempt) is DescribedAttempt and attempt.id is not None
        interrupter = self._interrupter

        def send(message: Yielded) -> None:
            self._process.leave_if_forked()
            self._send(message)

        return Yields(
            attempt.task,
            self._config.max_result,
            send if is_stored else None,
            interrupter.shield,
            lambda: interrupter.is_stopped,
        )

    async def _await(
        self, attempt: Attempt, function: Function, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        return await self._settle(attempt, function.callable(*args, **kwargs))

    async def _settle(self, attempt: Attempt, result: Any) -> Any:
        from asyncio import current_task

        self._interrupter.set_async_task(current_task())
        try:
            value = await settled(result)
            if type(value) is AsyncGeneratorType:
                value = await consume_async(value, self._yields(attempt))
        except BaseException as error:
            self._process.leave_if_forked(error)  # here, since the loop's descriptors are the worker's
            raise
        finally:
            self._interrupter.set_async_task(None)
        self._process.leave_if_forked()
        return value

    def _returned(self, attempt: Attempt, seconds: float, result: Any) -> Done | Failed:
        task, has_output = attempt.task, self._has_output()
        try:
            value = encode_result(result)
        except NotJSON as error:
            return self._unfit(task, seconds, error, self._hider(attempt), output=has_output)
        limit = self._config.max_result
        if len(value) >= limit:
            size = f"the result is {len(value)} bytes of JSON; the limit is {limit}, with its LF"
            return _refused(task, seconds, TooLarge(size, limit=limit), output=has_output)
        return Done(task, seconds, has_output, Raw(value))

    def _unfit(
        self, task: int, seconds: float, reason: NotJSON | TooLarge, hide: Hide, *, output: bool
    ) -> Failed:
        """Return the failure for a result, or a value that was yielded, which cannot be sent."""
        if isinstance(reason, TooLarge):
            return _refused(task, seconds, reason, output=output)
        failure = _without_secrets(reason.failure(), hide)
        if self._config.error_details == "type":
            return _hidden(task, seconds, failure, "the result is not JSON", output=output)
        return _refused(task, seconds, failure, output=output)

    def _misfit(self, attempt: Attempt, misfit: InvalidParams, hide: Hide) -> Failed:
        """Return the failure for arguments that do not fit."""
        raised = misfit.__cause__
        misfit = _without_secrets(misfit, hide)
        message = f"{attempt.function}: {misfit.message}"
        if raised is None or self._config.error_details != "type":
            return _refused(attempt.task, 0.0, misfit, message)
        argument = misfit.data["argument"]
        name = type_name(type(raised))
        hidden = InvalidParams(message, argument=argument, type=name)
        return _hidden(attempt.task, 0.0, hidden, f"{attempt.function}: argument {argument!r} does not fit")

    def _raised(
        self, task: int, seconds: float, error: BaseException, verdict: Verdict | None, hide: Hide
    ) -> Failed:
        if type(error) is UnfitValue:
            return self._unfit(task, seconds, error.reason, hide, output=self._has_output())
        name, text = type_name(type(error)), text_of(error, hide)
        trace = traceback_of(error, _is_above, hide)
        limit = self._config.hard_memory
        over_limit = limit is not None and issubclass(type(error), MemoryError)
        if over_limit:
            text = text or f"the task wanted more memory than --hard-memory allows, {limit} bytes"
        if self._config.error_details == "type":
            data: dict[str, Any] = {"type": name, "task": task}
            message = f"{name}: {_in_log(task)}"
        else:
            data = {"type": name, "message": text}
            message = f"{name}: {text}" if text else name
        if self._config.error_details == "traceback":
            data["traceback"] = trace
        if over_limit:
            data["hard_memory"] = limit
        return Failed(
            task,
            seconds,
            self._has_output(),
            TaskFailed.code,
            message,
            Raw(msgspec.json.encode(data)),
            trace,
            leaving=over_limit,  # the remaining memory is fragmented: another process should go on
            verdict=verdict,
            peak_kib=peak_kib(),
        )


def _is_only_a_stop(error: BaseException) -> bool:
    """Return whether an interrupted function raised only the stop itself."""
    kind = type(error)  # not its `__class__`, which may be the app's code
    return issubclass(kind, TaskStopped) or type_name(kind).rpartition(".")[2] == "CancelledError"


def _is_above(filename: str) -> bool:
    return filename.startswith(_ABOVE_THE_FUNCTION)


def _refused(
    task: int, seconds: float, error: TaskdError, message: str | None = None, *, output: bool = False
) -> Failed:
    """Return a failure without a traceback, which would not help here."""
    data = Raw(_encode(error.data)) if error.data else NULL
    text = encodable(message or error.message)
    return Failed(task, seconds, output, error.code, text, data, None, peak_kib=peak_kib())


def _hidden(task: int, seconds: float, error: TaskdError, what: str, *, output: bool = False) -> Failed:
    """Return a failure of which the caller learns `what` it is and the type; the log gets its message."""
    data = {key: value for key, value in error.data.items() if key != "message"} | {"task": task}
    message = encodable(f"{what}: {data['type']}: {_in_log(task)}")
    reason = encodable(error.message)
    encoded = Raw(_encode(data))
    return Failed(task, seconds, output, error.code, message, encoded, reason, peak_kib=peak_kib())


def _without_secrets(error: Refusal, hide: Hide) -> Refusal:
    """Return an error with the secrets in its texts masked."""
    if hide is unhidden:
        return error
    data = {key: hide(value) if isinstance(value, str) else value for key, value in error.data.items()}
    return type(error)(hide(error.message), **data)


def _in_log(task: int) -> str:
    """Return the place where all of a failure is, for a caller who does not get it."""
    return f"see #{task} in the server's log"


def _encode(data: dict[str, Any]) -> bytes:
    return msgspec.json.encode(
        {key: encodable(value) if isinstance(value, str) else value for key, value in data.items()}
    )
