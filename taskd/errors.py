"""The exceptions of taskd, each with its error code on the wire.

The codes are those of docs/protocol.md: JSON-RPC 2.0's own, and taskd's from
-32000 down. Every `TaskdError` becomes an error object in a reply.
`StateError` is different: it means a bug in taskd. `ImpossibleMessage` is a
worker's fault, and never leaves the server.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "Busy",
    "Cancelled",
    "ImpossibleMessage",
    "InternalError",
    "InvalidParams",
    "InvalidRequest",
    "MethodNotFound",
    "NotAllowed",
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
    "error_name",
    "exception_for",
    "quoted",
]


MAX_QUOTED = 100
"""Characters of a caller's own text that an error quotes: enough to recognise it."""


def quoted(text: str, limit: int = MAX_QUOTED) -> str:
    """Shorten a caller's text for an error: the text may be as long as a message, the reply must not."""
    return text if len(text) <= limit else f"{text[:limit]}…"


class TaskdError(Exception):
    """The base of all errors that a request can get for its reply.

    `message` is one sentence for a person. `data` holds details for programs,
    a JSON object; the table of errors in docs/protocol.md lists its members.
    """

    code: ClassVar[int] = -32603
    name: ClassVar[str] = "internal error"

    def __init__(self, message: str | None = None, /, **data: Any) -> None:
        self.message = message or self.name
        self.data = data
        super().__init__(self.message)


class ParseError(TaskdError):
    """The message is not JSON, or not UTF-8. Data: ``at``, the byte offset, if known."""

    code = -32700
    name = "parse error"


class InvalidRequest(TaskdError):
    """The message is JSON but not a request: neither dialect, or an unknown member or option.

    Data: ``member``, the offending one.
    """

    code = -32600
    name = "invalid request"


class MethodNotFound(TaskdError):
    """No function with the requested name is registered."""

    code = -32601
    name = "method not found"


class InvalidParams(TaskdError):
    """The arguments do not fit the function. Data: ``argument``, ``expected``, ``got``."""

    code = -32602
    name = "invalid params"


class InternalError(TaskdError):
    """A bug in taskd. Data: ``reference``, which finds the traceback in the server's log."""

    code = -32603
    name = "internal error"


class TaskFailed(TaskdError):
    """The function raised an exception. Data: ``type``, ``message``, and possibly ``traceback``."""

    code = -32000
    name = "task failed"


class TimedOut(TaskdError):
    """The task exceeded its time. Data: ``limit`` (``"timeout"`` or ``"deadline"``) and ``seconds``."""

    code = -32001
    name = "timed out"


class Cancelled(TaskdError):
    """A caller cancelled the task. Data: ``was`` (``"waiting"`` or ``"running"``) and how it stopped."""

    code = -32002
    name = "cancelled"


class WorkerLost(TaskdError):
    """The worker process ended while it ran the task. Data: ``signal`` or ``status``, and more if known."""

    code = -32003
    name = "worker lost"


class Busy(TaskdError):
    """The queue is full. Data: ``retry_after``, in seconds."""

    code = -32004
    name = "busy"


class ShuttingDown(TaskdError):
    """The server is stopping and accepts no more tasks."""

    code = -32005
    name = "shutting down"


class TooLarge(TaskdError):
    """The message, or the result, is over the limit. Data: ``limit``, in bytes."""

    code = -32006
    name = "too large"


class Unreachable(TaskdError):
    """No task server could be reached, or the connection to one was lost.

    Data: ``server``, and ``sent``: whether the request had been sent, in
    which case the task may have run.
    """

    code = -32007
    name = "unreachable"


class NotAllowed(TaskdError):
    """The caller may not do this to a task that is somebody else's."""

    code = -32008
    name = "not allowed"


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
        NotAllowed,
    )
}


def error_name(code: int) -> str:
    """Return the name of an error on the wire, as docs/protocol.md has it."""
    kind = _BY_CODE.get(code)
    return kind.name if kind is not None else "other error"


def exception_for(code: int, message: str, data: Any) -> TaskdError:
    """Return the exception that stands for an error on the wire.

    An unknown code (another server's) gives a plain `TaskdError`, whose
    ``code`` is set on the instance. `data` that is not a JSON object becomes
    the member ``data``.
    """
    details = data if isinstance(data, dict) else {} if data is None else {"data": data}
    kind = _BY_CODE.get(code)
    if kind is not None:
        return kind(message, **details)
    error = TaskdError(message, **details)
    error.code = code  # type: ignore[misc]  # a class constant, except for foreign codes
    return error


class WaitTimeout(TaskdError, TimeoutError):
    """The client stopped waiting and asked the server to cancel the task. Data: ``seconds``."""

    name = "no answer in time"


class StartError(SystemExit, Exception):
    """The server cannot start; the text is for the operator, the exit status is 1.

    Both bases are needed: `Exception`, so that twistd removes its pid file and
    informs the process that waits for the daemon; `SystemExit`, so that the
    operator reads this text and not a traceback through twistd.
    """


class StateError(Exception):
    """A step that its table of states does not list: a bug in taskd."""


class ImpossibleMessage(Exception):
    """A message that no worker sends by rights; the text says what it was, as a phrase.

    It comes from a process that the app has damaged, and ends that worker alone.
    """
