"""The private messages between the daemon, the fork server and the workers: types and encoding.

They use Text framing (docs/protocol.md); each message is a JSON array, which is
small and quick to read. `ToWorker` goes to a worker, `FromWorker` comes back;
`WorkerConfig` and `ToForkServer` go to the fork server, `FromForkServer` comes
back. With each worker of a `Fork` go two descriptors (SCM_RIGHTS): the worker's
end of its channel, and the one that becomes its stdout and stderr.

Besides messages there is the board (`taskd.worker.board`): shared memory in which
each worker records the task that it begins, so that the daemon knows it without
a message, whatever happens to the worker.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import Raw

from taskd.functions.registry import FunctionInfo
from taskd.functions.retries import Verdict

__all__ = [
    "IS_DESCRIBED",
    "IS_SHORT",
    "LOGGED_BYTES",
    "MAX_LINE",
    "NULL",
    "POKE",
    "RECEIVE_SIZE",
    "STACKS",
    "WANTS_PROGRESS",
    "Attempt",
    "DescribedAttempt",
    "Done",
    "Dropped",
    "ErrorDetails",
    "Exited",
    "Failed",
    "Fork",
    "Forked",
    "FromForkServer",
    "FromWorker",
    "Grown",
    "Interrupt",
    "LoadFailed",
    "Loaded",
    "Probe",
    "Ready",
    "Reclaim",
    "Reported",
    "Returned",
    "Signal",
    "Stopped",
    "Suspended",
    "ToForkServer",
    "ToWorker",
    "WholeLines",
    "WorkerConfig",
    "Yielded",
    "decode_config",
    "decode_from_fork_server",
    "decode_from_worker",
    "decode_to_fork_server",
    "decode_to_worker",
    "encode",
    "encode_all",
    "encode_in_pieces",
]

POKE = 23
"""SIGURG, which makes a worker read its channel while a function runs. A process without a handler
ignores it, and hardly any program uses it (Go preempts its threads with it, for the same reasons)."""

STACKS = 28
"""SIGWINCH, at which a worker prints the stacks of its threads. A process without a handler ignores it, and
no terminal sends it to a worker."""

MAX_LINE = 2**31
"""Bytes of a line, practically unlimited: both ends are internal, and what they pass on has been limited."""

RECEIVE_SIZE = 65536
"""Bytes that either end asks for in one read: more than nearly every task's arguments or result."""

LOGGED_BYTES = 200
"""Bytes logged of a message that cannot be decoded: enough to recognise it."""

NULL = Raw(b"null")

WANTS_PROGRESS = 1
"""A flag of `Attempt`: the caller asked for the task's progress."""

IS_SHORT = 2
"""A flag of `Attempt`: the function is known to be short; its process title is not worth setting."""


IS_DESCRIBED = 4
"""A flag of `Attempt`: it is a `DescribedAttempt`."""


class Attempt(msgspec.Struct, frozen=True, array_like=True, tag="attempt", gc=False):
    """One attempt at a task: the order to run its function.

    `number` counts the task's attempts, from 1. `args` is `NULL` for none
    (msgspec has no optional `Raw`). `flags` is a sum of `WANTS_PROGRESS`, `IS_SHORT` and others.
    """

    task: int
    number: int
    function: str
    args: Raw
    flags: int


class DescribedAttempt(Attempt, frozen=True, array_like=True, tag="described", gc=False):
    """An attempt with what its function may ask about its task. Its `flags` have `IS_DESCRIBED`.

    `limit` is in seconds of run time, None for none. `id`, `attempt`, `was_interrupted`
    and `node` are those of a stored task, as `taskd.current_task` has them;
    `traceparent` is that of the call.
    """

    limit: float | None = None
    id: str | None = None
    attempt: int = 1
    was_interrupted: bool = False
    traceparent: str | None = None
    node: int | None = None


class Interrupt(msgspec.Struct, frozen=True, array_like=True, tag="interrupt"):
    """The order to interrupt the function of an attempt, or to return the task if it has not begun.

    `attempt` is the `number` of an `Attempt`; the worker ignores the order if it
    no longer has that one. `cancelled` is True if a caller cancelled the task,
    False if its time limit has passed.
    """

    task: int
    attempt: int
    cancelled: bool


class Reclaim(msgspec.Struct, frozen=True, array_like=True, tag="reclaim"):
    """The order to return every task that has not begun."""


ToWorker: TypeAlias = Attempt | DescribedAttempt | Interrupt | Reclaim


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The report that the worker's start hooks have run."""


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done", gc=False):
    """The report that the function returned `value`, after `seconds`.

    `output` says that output of the function may still be in the pipe.
    """

    task: int
    seconds: float
    output: bool
    value: Raw


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The report that the function could not be called, raised, or returned what is not JSON.

    `code`, `message` and `data` (`NULL` for none) are the failure for the
    caller. `traceback` is for the log, None if the caller's arguments were at
    fault. `output` is as for `Done`. `leaving` says that the worker must get no
    further task. `verdict` is for stored tasks: whether what the function raised
    is a reason to try again; None if it was not the function that failed, but its
    arguments or its result, which nothing will change. `peak_kib` is the memory, in KiB, of
    which the process has had most resident so far. The daemon adds the tail of what the task has `printed`.
    """

    task: int
    seconds: float
    output: bool
    code: int
    message: str
    data: Raw
    traceback: str | None
    leaving: bool = False
    verdict: Verdict | None = None
    peak_kib: int = 0
    printed: str = ""


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag="dropped"):
    """The replacement that the daemon makes of a `Done` whose value is too long to be held."""

    task: int
    seconds: float
    output: bool


class Stopped(msgspec.Struct, frozen=True, array_like=True, tag="stopped"):
    """The report that the function has ended after an interrupt.

    `traceback` is set if its cleaning up raised. `output` is as for `Done`, `peak_kib` and
    `printed` are as for `Failed`.
    """

    task: int
    seconds: float
    output: bool
    traceback: str | None
    peak_kib: int = 0
    printed: str = ""


class Returned(msgspec.Struct, frozen=True, array_like=True, tag="returned"):
    """The report that these tasks have not begun, and that the worker will not run them."""

    tasks: list[int]


class Reported(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """The progress of the running function."""

    task: int
    done: int | float
    total: int | float | None
    message: str | None


class Yielded(msgspec.Struct, frozen=True, array_like=True, tag="yielded"):
    """A value that the running function, a generator, has yielded; of stored tasks alone."""

    task: int
    value: Raw


class Grown(msgspec.Struct, frozen=True, array_like=True, tag="grown"):
    """The report, before the outcome of a task, that the worker has `kib` KiB resident, too many."""

    kib: int


FromWorker: TypeAlias = Ready | Done | Dropped | Failed | Stopped | Returned | Reported | Yielded | Grown


ErrorDetails: TypeAlias = Literal["type", "message", "traceback"]
"""What callers get of an exception: its type; its message, too; or its traceback as well."""


class WorkerConfig(msgspec.Struct, frozen=True):
    """The configuration of the fork server and its workers.

    `apps` are names of modules or paths of files; `directory` is put on the
    import path; `name` is shown in process titles. `max_result` is in bytes of
    JSON. `error_details` says what callers are sent of an exception.
    `hard_memory` is in bytes of a worker's private writable memory, None
    for no limit. `version` is the daemon's version of taskd, which the fork server
    must have as well; "" for any. `max_memory` is in bytes of what a worker may have
    resident after a task, None for no limit. With `reports_folders` the fork server reports
    where the app's code lies.
    """

    apps: list[str]
    directory: str
    name: str
    max_result: int
    error_details: ErrorDetails = "message"
    hard_memory: int | None = None
    version: str = ""
    max_memory: int | None = None
    reports_folders: bool = False


class Fork(msgspec.Struct, frozen=True, array_like=True, tag="fork"):
    """The order to fork workers, one directly after the other: numbers, and places on the board."""

    workers: list[tuple[int, int]]


class Signal(msgspec.Struct, frozen=True, array_like=True, tag="signal"):
    """The order to send `signal` to worker `number`, if it still exists, or to its whole `group`."""

    number: int
    signal: int
    group: bool


class Probe(msgspec.Struct, frozen=True, array_like=True, tag="probe"):
    """The order to do nothing: the daemon sees from outside whether it is read."""


ToForkServer: TypeAlias = Fork | Signal | Probe


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    """The report that the app is imported, with its functions.

    `files` has the file that each app was loaded from; `warnings` are for the log;
    `folders` are those of the app's code, if they were asked for.
    """

    functions: list[FunctionInfo]
    files: dict[str, str] = {}
    warnings: list[str] = []
    folders: list[str] = []


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag="load-failed"):
    """The report that the app cannot be imported; `reason` contains the traceback.

    `folders` are those of the code that was loaded before, if they were asked for.
    """

    reason: str
    folders: list[str] = []


class Forked(msgspec.Struct, frozen=True, array_like=True, tag="forked"):
    """The report that worker `number` is process `pid`, or None if the fork failed for `reason`."""

    number: int
    pid: int | None
    reason: str = ""


class Exited(msgspec.Struct, frozen=True, array_like=True, tag="exited"):
    """The report that worker `number` has ended, with its exit status or minus its signal as `code`.

    `peak_kib` is its peak resident memory, in KiB. For SIGKILL, `out_of_memory`
    says whether the kernel sent it for lack of memory; None if that is unknown.
    """

    number: int
    code: int
    peak_kib: int
    out_of_memory: bool | None = None


class Suspended(msgspec.Struct, frozen=True, array_like=True, tag="suspended"):
    """The report that worker `number` was stopped by a signal (SIGSTOP), or goes on again (SIGCONT)."""

    number: int
    is_suspended: bool


FromForkServer: TypeAlias = Loaded | LoadFailed | Forked | Exited | Suspended

_encoder = msgspec.json.Encoder()
decode_to_worker = msgspec.json.Decoder(ToWorker).decode_lines
decode_from_worker = msgspec.json.Decoder(FromWorker).decode_lines
decode_config = msgspec.json.Decoder(WorkerConfig).decode
decode_to_fork_server = msgspec.json.Decoder(ToForkServer).decode
decode_from_fork_server = msgspec.json.Decoder(FromForkServer).decode


def encode(message: FromWorker | FromForkServer | ToForkServer | ToWorker | WorkerConfig) -> bytes:
    """Encode one message as one line, LF included."""
    return _encoder.encode(message) + b"\n"


encode_all = _encoder.encode_lines
"""Encode several messages, each as one line."""


def encode_in_pieces(attempt: Attempt) -> list[bytes | memoryview]:
    """Encode an attempt as one line, without a copy of its arguments."""
    head, tail = _encoder.encode(msgspec.structs.replace(attempt, args=_MARK)).split(b"[[[]]]")
    return [head, memoryview(attempt.args), tail + b"\n"]


_MARK = Raw(b"[[[]]]")


class WholeLines:
    """A stream of bytes, cut after the last LF received, so that many lines can be decoded together."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def rest(self) -> bytearray:
        """The bytes of a line that is not complete."""
        return self._rest

    def drop_rest(self) -> None:
        """Forget the incomplete line."""
        self._rest = bytearray()

    def receive(self, data: bytes) -> bytes:
        """Return the lines that `data` completes, b"" if there are none. Takes time linear in the input."""
        end = data.rfind(b"\n") + 1
        rest = self._rest
        if not end:
            rest += data
            return b""
        whole = data if end == len(data) else data[:end]
        if rest:
            whole = bytes(rest) + whole
            self._rest = rest = bytearray()
        if end < len(data):
            rest += data[end:]
        return whole
