"""What passes between the parts of taskd: frozen, and in wire terms.

Arguments, results and ids stay the JSON text that they came in as
(`msgspec.Raw`): what is only passed on is never decoded or encoded again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw

from taskd.errors import TaskdError, exception_for

__all__ = ["NO_OPTIONS", "PRIORITY", "Call", "Failure", "Options", "Outcome", "Progress", "Result"]


PRIORITY = 5
"""What a call that asks for none has, of 0 (first) to 9."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a call is to be run. An unknown option is an error, never ignored.

    `timeout` is in seconds of run time, `deadline` in seconds from receipt,
    after which a call that still waits is not started. `priority` is 0 (first)
    to 9. `on_disconnect` says what becomes of the task when its caller goes.
    """

    timeout: Annotated[float, Meta(gt=0)] | None = None
    deadline: Annotated[float, Meta(gt=0)] | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] = PRIORITY
    progress: bool = False
    on_disconnect: Literal["finish", "cancel"] = "finish"


NO_OPTIONS = Options()


class Call(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A function's name, its arguments and how to run it.

    `args` is the JSON text of an object or an array, or None for none.
    """

    function: str
    args: Raw | None = None
    options: Options = NO_OPTIONS

    @property
    def size(self) -> int:
        """Return about how many bytes the call takes: its name and its arguments."""
        return len(self.function) + (0 if self.args is None else memoryview(self.args).nbytes)


class Result(msgspec.Struct, frozen=True, gc=False):
    """The function returned: `value` is the JSON text of what."""

    value: Raw


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The request failed: the error object of docs/protocol.md."""

    code: int
    message: str
    data: Any = None

    @classmethod
    def of(cls, error: TaskdError) -> Failure:
        """The failure that `error` is on the wire."""
        return cls(error.code, error.message, error.data or None)

    def exception(self) -> TaskdError:
        """The exception that this failure is in a client."""
        return exception_for(self.code, self.message, self.data)


Outcome: TypeAlias = Result | Failure
"""How a request ended."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a running task is: `done` of `total`, in units of its own."""

    done: float
    total: float | None = None
    message: str | None = None
