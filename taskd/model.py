"""The data types that all rooms share: calls and their options, outcomes, progress.

All are frozen. Arguments, results and ids remain the JSON text that they
arrived as (`msgspec.Raw`): what is only passed on is never decoded and encoded
again.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw

from taskd.errors import TaskdError, exception_for

__all__ = [
    "ANONYMOUS",
    "MAX_MESSAGE",
    "NO_OPTIONS",
    "NO_SUBMIT_OPTIONS",
    "OPERATOR",
    "PRIORITY",
    "Call",
    "Failure",
    "Grant",
    "Options",
    "Outcome",
    "Pattern",
    "Progress",
    "Raised",
    "Result",
    "Role",
    "StoredCall",
    "SubmitOptions",
    "Token",
    "Traceparent",
]


MAX_OWNER = 200
"""Characters of the name of an owner: as many as those of an e-mail address, a UUID or a URL need."""

MAX_CALLER = 300
"""Characters of the name of a caller: more than any party and the number of a websocket need."""

MAX_MESSAGE = 10 * 1024 * 1024
"""Bytes of the longest message, LF included: Workerman's default, on which its clients rely."""

PRIORITY = 5
"""The default priority, in the middle of 0 (first) to 9 (last)."""


Traceparent = Annotated[
    str, Meta(min_length=55, max_length=55, pattern="^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
]
"""A place in a trace, as W3C's Trace Context writes it: version, trace, span and flags."""


Owner = Annotated[str, Meta(min_length=1, max_length=MAX_OWNER, pattern="^[^\\x00-\\x1f\\x7f]*$")]
"""The name of whom tasks belong to: the `sub` of a signed token, or the name of a token of the file."""

Role = Literal["watch", "submit", "operate"]
"""What a caller may do: see its own tasks; and submit and cancel them; and do that with everybody's."""

Pattern = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x20\[\]\x7f]*$")]
"""A pattern of function names, with ``*`` and ``?``; brackets would mean sets, which nobody expects here."""

MAX_PATTERNS = 1000
"""Patterns of one token: more than most apps have functions."""

_RANKS: dict[Role, int] = {"watch": 0, "submit": 1, "operate": 2}


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The rights of a caller, as far as a task server needs to know them and a gateway passes them on.

    `owner` is whom its tasks belong to, "" for nobody in particular. At most so many of the
    owner's tasks may be `waiting` or `running`, and so many `bytes` of their arguments may wait;
    None stands for no limit. `args` are arguments that every function which takes them gets, as JSON
    text: the caller cannot give others. `functions` are patterns of the names of the functions that the
    caller may have run; None stands for all.
    """

    owner: Annotated[str, Meta(max_length=MAX_OWNER)] = ""
    role: Role = "submit"
    waiting: Annotated[int, Meta(ge=0)] | None = None
    running: Annotated[int, Meta(ge=1)] | None = None
    bytes: Annotated[int, Meta(ge=0)] | None = None
    args: dict[str, Raw] | None = None
    functions: Annotated[tuple[Pattern, ...], Meta(max_length=MAX_PATTERNS)] | None = None

    def covers(self, function: str) -> bool:
        """Return whether the caller may have a function run, as far as its name goes."""
        if self.functions is None:
            return True
        return any(fnmatchcase(function, pattern) for pattern in self.functions)

    @property
    def is_narrow(self) -> bool:
        """Whether the caller is held to some functions, or to some arguments."""
        return self.functions is not None or bool(self.args)

    @property
    def has_limits(self) -> bool:
        """Whether there is any limit."""
        return self.waiting is not None or self.running is not None or self.bytes is not None

    def has(self, role: Role) -> bool:
        """Return whether the caller may do what a role may."""
        return _RANKS[self.role] >= _RANKS[role]

    def sees(self, owner: str) -> bool:
        """Return whether the caller may see the tasks of an owner."""
        return owner == self.owner or self.has("operate")

    def changes(self, owner: str) -> bool:
        """Return whether the caller may cancel the tasks of an owner, or put them back."""
        return self.has("submit") and self.sees(owner)


ANONYMOUS = Grant()
"""The grant of callers that nobody knows: websockets and HTTP clients, where no tokens are asked for."""

OPERATOR = Grant(role="operate")
"""The grant of callers that are trusted for where they are: on this machine, or with a client certificate."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The options of a call: how to run it. An unknown option is an error, never ignored.

    `timeout` is in seconds of run time. `deadline` is in seconds from receipt:
    a call that is still waiting then is not started. `priority` is 0 (first)
    to 9 (last). `progress` asks for progress notifications. `on_disconnect`
    says what happens to the task when its caller disconnects. `track` stores the
    task, and has its id for an answer, as `taskd.submit` does. `caller` is for
    gateways: whose call it is that they pass on, as party, space, connection; and so is
    `grant`: what that caller may do. `owner` is for those who may speak for others: whom a stored
    task belongs to, if not to its caller. `traceparent` is the place in a trace that the task belongs to.
    """

    timeout: Annotated[float, Meta(gt=0)] | None = None
    deadline: Annotated[float, Meta(gt=0)] | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] = PRIORITY
    progress: bool = False
    on_disconnect: Literal["finish", "cancel"] = "finish"
    track: bool = False
    caller: Annotated[str, Meta(min_length=1, max_length=MAX_CALLER)] | None = None
    traceparent: Traceparent | None = None
    grant: Grant | None = None
    owner: Owner | None = None


NO_OPTIONS = Options()


MAX_AHEAD = 100 * 365 * 86400
"""Seconds to the latest time that may be named: a century, so that every time has a date."""


class SubmitOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The options of a task that is submitted: when and how to run it.

    `timeout`, `priority`, `traceparent` and `owner` are as for a call. The task is started `delay`
    seconds after it was submitted at the earliest, or `at` a time (RFC 3339,
    with its zone), and not at all if it has not started `deadline` seconds after it
    could. Of the unfinished tasks of a function only one has the same `key`: a
    second submit joins it. `retries` and `keep` take the place of the function's own.
    """

    timeout: Annotated[float, Meta(gt=0)] | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] = PRIORITY
    delay: Annotated[float, Meta(ge=0, le=MAX_AHEAD)] = 0.0
    at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | None = None
    deadline: Annotated[float, Meta(gt=0, le=MAX_AHEAD)] | None = None
    key: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    retries: Annotated[int, Meta(ge=0)] | None = None
    keep: Annotated[float, Meta(ge=0, le=MAX_AHEAD)] | None = None
    traceparent: Traceparent | None = None
    owner: Owner | None = None


NO_SUBMIT_OPTIONS = SubmitOptions()


Token = Annotated[str, Meta(min_length=1, max_length=200)]
"""What makes a submit known: as long as a hash in any notation, since the store keeps an index of them."""


class Call(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A function's name, its arguments, and the options for running it.

    `args` is the JSON text of an object or an array, None if there are none.
    """

    function: str
    args: Raw | None = None
    options: Options = NO_OPTIONS

    @property
    def size(self) -> int:
        """The approximate size of the call in bytes: its function's name and its arguments."""
        return len(self.function) + (0 if self.args is None else memoryview(self.args).nbytes)


class Raised(msgspec.Struct, frozen=True):
    """A report on a failed attempt, besides the reply, for stored tasks.

    `traceback` is None if there is none. `may_retry` is False if nothing will
    change by trying again, or the function does not want it. `after` is the number of
    seconds that the function has asked for, None if it has not. `printed` is the tail of the
    attempt's output, and `peak_kib` the memory, in KiB, of which its process has had most resident
    since that began, 0 if that is not known.
    """

    traceback: str | None
    may_retry: bool = True
    after: float | None = None
    printed: str = ""
    peak_kib: int = 0


class StoredCall(Call, frozen=True, eq=False, gc=False):
    """A call of a stored task, whose options are never `NO_OPTIONS` itself.

    `started` notes its start; `raised` comes before an outcome that is a failure of
    its function, `yielded` with each value that a generator function yields. `id`,
    `attempt`, `was_interrupted` and `node` are what the function may ask for.
    """

    started: Callable[[], object] = bool  # which does nothing
    raised: Callable[[Raised], object] = bool
    yielded: Callable[[Raw], object] = bool
    id: str | None = None
    attempt: int = 1
    was_interrupted: bool = False
    node: int | None = None


class Result(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a function that returned: `value` is the returned value as JSON text."""

    value: Raw


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of a call that failed: the error object of docs/protocol.md."""

    code: int
    message: str
    data: Any = None

    @classmethod
    def of(cls, error: TaskdError) -> Failure:
        """Return the failure that reports `error` on the wire."""
        return cls(error.code, error.message, error.data or None)

    def exception(self) -> TaskdError:
        """Return the exception that a client raises for this failure."""
        return exception_for(self.code, self.message, self.data)


Outcome: TypeAlias = Result | Failure
"""The way in which a call ended."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The progress of a running task: `done` of `total`, in a unit of the task's own."""

    done: float
    total: float | None = None
    message: str | None = None
