"""The private messages between the daemon, the fork server and the workers.

Text framing as everywhere (docs/protocol.md); a message is a JSON array, so
that it is small and quick to read. `Run` goes to a worker, `FromWorker` comes
back; `Config` and `Fork` and `Kill` go to the fork server, `FromForkServer`
comes back. With each number of a `Fork` go two descriptors (SCM_RIGHTS): the
worker's end of its channel, and the one that becomes its stdout and stderr.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Raw

from taskd.task import FunctionInfo

__all__ = [
    "CONTROL",
    "MAX_LINE",
    "NULL",
    "Config",
    "Done",
    "Exited",
    "Failed",
    "Fork",
    "Forked",
    "FromForkServer",
    "FromWorker",
    "Kill",
    "LoadFailed",
    "Loaded",
    "Ready",
    "Reported",
    "Run",
    "ToForkServer",
    "decode_config",
    "decode_from_fork_server",
    "decode_from_worker",
    "decode_run",
    "decode_to_fork_server",
    "encode",
]

CONTROL = 3
"""The descriptor at which the fork server finds its control socket."""

MAX_LINE = 2**31
"""Bytes: both ends are ours, and what they pass on was limited where it came in."""


NULL = Raw(b"null")


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Run a function; `progress` tells whether anybody wants to hear of it.

    `args` is `NULL` for none (msgspec knows no optional `Raw`).
    """

    job: int
    function: str
    args: Raw
    progress: bool


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The worker's start hooks have run."""


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The function returned. `output`: it wrote what may still be in the pipe."""

    job: int
    seconds: float
    output: bool
    value: Raw


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The function could not be called, or raised, or returned what is no JSON.

    `traceback` is for the log; None where the caller's arguments were at fault.
    `data` is `NULL` for none.
    """

    job: int
    seconds: float
    output: bool
    code: int
    message: str
    data: Raw
    traceback: str | None


class Reported(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """How far the function is."""

    job: int
    done: int | float
    total: int | float | None
    message: str | None


FromWorker: TypeAlias = Ready | Done | Failed | Reported


class Config(msgspec.Struct, frozen=True):
    """What the fork server and its workers need to know.

    `apps` are modules or file paths, `directory` is importable, `name` is
    shown in process titles, `max_result` is in bytes of JSON.
    """

    apps: list[str]
    directory: str
    name: str
    max_result: int
    tracebacks: bool


class Fork(msgspec.Struct, frozen=True, array_like=True, tag="fork"):
    """Fork workers of these numbers, one right after the other."""

    numbers: list[int]


class Kill(msgspec.Struct, frozen=True, array_like=True, tag="kill"):
    """Send `signal` to the process group of worker `number`, if it still is."""

    number: int
    signal: int


ToForkServer: TypeAlias = Fork | Kill


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    """The app is imported."""

    functions: list[FunctionInfo]


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag="load-failed"):
    """The app cannot be imported; `reason` has the traceback."""

    reason: str


class Forked(msgspec.Struct, frozen=True, array_like=True, tag="forked"):
    """Worker `number` is process `pid`; None where fork failed, for `reason`."""

    number: int
    pid: int | None
    reason: str = ""


class Exited(msgspec.Struct, frozen=True, array_like=True, tag="exited"):
    """Worker `number` has ended: `code` is its exit status, or minus the signal.

    `peak_kib` is the most memory it had resident, in KiB.
    """

    number: int
    code: int
    peak_kib: int


FromForkServer: TypeAlias = Loaded | LoadFailed | Forked | Exited

_encoder = msgspec.json.Encoder()
decode_run = msgspec.json.Decoder(Run).decode
decode_from_worker = msgspec.json.Decoder(FromWorker).decode
decode_config = msgspec.json.Decoder(Config).decode
decode_to_fork_server = msgspec.json.Decoder(ToForkServer).decode
decode_from_fork_server = msgspec.json.Decoder(FromForkServer).decode


def encode(message: FromWorker | FromForkServer | ToForkServer | Run | Config) -> bytes:
    """One message as one line, LF included."""
    return _encoder.encode(message) + b"\n"
