"""What can go wrong, each with the code that it has on the wire.

The codes are those of docs/protocol.md: JSON-RPC 2.0's own, and from -32000
down the ones of taskd. An exception of this tree is somebody's mistake or
misfortune, and is answered on the wire; `StateError` alone is a bug of ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "Busy",
    "Cancelled",
    "InternalError",
    "InvalidParams",
    "InvalidRequest",
    "MethodNotFound",
    "ParseError",
    "ShuttingDown",
    "StartError",
    "StateError",
    "TaskFailed",
    "TaskdError",
    "TimedOut",
    "TooLarge",
    "Unreachable",
    "WaitTimeout",
    "WorkerLost",
    "exception_for",
    "quoted",
]


MAX_QUOTED = 100
"""Characters of a caller's own text that an error quotes: enough to know it again."""


def quoted(text: str, limit: int = MAX_QUOTED) -> str:
    """A caller's text as an error quotes it: it may be as long as a message, the answer must not."""
    return text if len(text) <= limit else f"{text[:limit]}…"


class TaskdError(Exception):
    """A request that got an error for its answer.

    `message` is one sentence for a person; `data` says more for a program,
    as the table of errors in docs/protocol.md lists it.
    """

    code: ClassVar[int] = -32603
    name: ClassVar[str] = "internal error"

    def __init__(self, message: str | None = None, /, **data: Any) -> None:
        self.message = message or self.name
        self.data = data
        super().__init__(self.message)


class ParseError(TaskdError):
    """The message is not JSON, or not UTF-8. Data: ``at``, the byte offset, where known."""

    code = -32700
    name = "parse error"


class InvalidRequest(TaskdError):
    """JSON, but no request: neither dialect, or with an unknown member or option.

    Data: ``member``, the offending one.
    """

    code = -32600
    name = "invalid request"


class MethodNotFound(TaskdError):
    """No function of that name is registered."""

    code = -32601
    name = "method not found"


class InvalidParams(TaskdError):
    """The arguments do not fit. Data: ``argument``, ``expected``, ``got``."""

    code = -32602
    name = "invalid params"


class InternalError(TaskdError):
    """A bug of taskd. Data: ``reference``, to be looked up in the server's log."""

    code = -32603
    name = "internal error"


class TaskFailed(TaskdError):
    """The function raised. Data: ``type``, ``message``, and maybe ``traceback``."""

    code = -32000
    name = "task failed"


class TimedOut(TaskdError):
    """The task was over its time. Data: ``limit`` (which) and ``seconds``."""

    code = -32001
    name = "timed out"


class Cancelled(TaskdError):
    """The task was cancelled."""

    code = -32002
    name = "cancelled"


class WorkerLost(TaskdError):
    """The process died under the task. Data: ``signal`` or ``status``, and what is known."""

    code = -32003
    name = "worker lost"


class Busy(TaskdError):
    """The queue is full. Data: ``retry_after``, seconds."""

    code = -32004
    name = "busy"


class ShuttingDown(TaskdError):
    """The server is stopping and takes no more tasks."""

    code = -32005
    name = "shutting down"


class TooLarge(TaskdError):
    """The message, or the result, is over the limit. Data: ``limit``, bytes."""

    code = -32006
    name = "too large"


class Unreachable(TaskdError):
    """No task server could be reached, or the one that was has gone.

    Data: ``server``, and ``sent``: whether the request had been sent, in
    which case the task may have run.
    """

    code = -32007
    name = "unreachable"


_BY_CODE: dict[int, type[TaskdError]] = {
    kind.code: kind
    for kind in (
        ParseError,
        InvalidRequest,
        MethodNotFound,
        InvalidParams,
        InternalError,
        TaskFailed,
        TimedOut,
        Cancelled,
        WorkerLost,
        Busy,
        ShuttingDown,
        TooLarge,
        Unreachable,
    )
}


def exception_for(code: int, message: str, data: Any) -> TaskdError:
    """The exception that an error on the wire stands for.

    A code that is not in the table (another server's) gives a plain
    `TaskdError`, whose ``code`` is set on the instance.
    """
    details = data if isinstance(data, dict) else {} if data is None else {"data": data}
    kind = _BY_CODE.get(code)
    if kind is not None:
        return kind(message, **details)
    error = TaskdError(message, **details)
    error.code = code  # type: ignore[misc]  # the class's constant, but for a foreign code
    return error


class WaitTimeout(TaskdError, TimeoutError):
    """The client stopped waiting, and asked for the task to be cancelled. Data: ``seconds``."""

    name = "no answer in time"


class StartError(SystemExit, Exception):
    """The server cannot start; the text is for the operator, the exit status is 1.

    Both bases are needed. `Exception`, so that twistd removes its pid file
    and tells the process that waits for the daemon; `SystemExit`, so that the
    operator reads our sentence and not a traceback through twistd.
    """


class StateError(Exception):
    """A step that its table of states does not list: a bug in taskd."""
