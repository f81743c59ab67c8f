"""What runs in a worker process: one task at a time, in a plain blocking loop."""

from __future__ import annotations

import fcntl
import math
import numbers
import os
import socket
import sys
import termios
import time
import traceback
from _socket import SocketType
from _thread import allocate_lock
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from taskd.errors import InvalidParams, TaskdError, TaskFailed, TooLarge
from taskd.pool.channel import (
    MAX_LINE,
    NULL,
    Config,
    Done,
    Failed,
    FromWorker,
    Ready,
    Reported,
    Run,
    decode_run,
    encode,
)
from taskd.pool.title import setproctitle
from taskd.task import Registry, Task, report_progress_to
from taskd.wire.framing import LineSplitter

if TYPE_CHECKING:
    import threading
    from asyncio import Runner

__all__ = ["ProgressReporter", "Worker", "rehearse"]

RECEIVE_SIZE = 65536
"""Bytes asked for at once: more than nearly every task's arguments."""

PROGRESS_INTERVAL = 0.05
"""Seconds between two reports of a task: 20 a second look smooth to a person."""

MAX_TEXT = 16_384
"""Characters kept of an exception's message and of a traceback: more than
anybody reads, and far below the longest message."""

REHEARSALS = 20
"""Python specialises a function's code at its eighth call; what these send fits into a socket's buffers."""

_NOT_THE_TASKS = (__file__, os.path.join(os.path.dirname(os.__file__), "asyncio"))
"""Where the frames above a task's own are: they are left out of its traceback."""

_OUTPUT = 1
"""The descriptor whose pipe the daemon reads: stdout, and stderr is the same."""


class ProgressReporter:
    """Sends the progress of the running task, at most every `PROGRESS_INTERVAL`.

    A report that comes too soon is kept, and the next one replaces it. A
    thread, started when first needed, sends what is kept when its time has
    come, since the task itself may not report again for minutes.
    """

    def __init__(self, send: Callable[[Reported], None]) -> None:
        self._send = send
        self._lock = allocate_lock()
        self._changed: threading.Condition | None = None
        self._job: int | None = None
        self._kept: Reported | None = None
        self._next_at = 0.0

    def begin(self, job: int) -> None:
        """The reports are of `job` from now on."""
        self._job = job
        self._next_at = 0.0

    def end(self) -> None:
        """The job is over: what is kept goes out now, and nothing after it."""
        with self._lock:
            if self._kept is not None:
                self._send(self._kept)
            self._kept = self._job = None

    def report(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """What `taskd.progress` does in a worker; raises `TypeError` or `ValueError` for nonsense."""
        if message is not None and not isinstance(message, str):
            raise TypeError(f"progress takes a str for its message, not {type(message).__name__}")
        done = _number(done)
        total = None if total is None else _number(total)
        message = None if message is None else _encodable(message[:MAX_TEXT])
        with self._lock:
            if self._job is None:
                return
            report = Reported(self._job, done, total, message)
            now = time.monotonic()
            if now >= self._next_at:
                self._kept = None
                self._next_at = now + PROGRESS_INTERVAL
                self._send(report)
                return
            self._kept = report
            if self._changed is None:
                # Here, and not in the fork server: what it does in every
                # process that is forked costs each worker 0.4 MiB.
                import threading

                self._changed = threading.Condition(self._lock)
                threading.Thread(
                    target=self._send_kept, args=(self._changed,), name="progress", daemon=True
                ).start()
            self._changed.notify()

    def _send_kept(self, changed: threading.Condition) -> None:
        with changed:
            while True:
                if self._kept is None:
                    changed.wait()
                elif (left := self._next_at - time.monotonic()) > 0:
                    changed.wait(left)
                else:
                    self._next_at = time.monotonic() + PROGRESS_INTERVAL
                    self._send(self._kept)
                    self._kept = None


_READY = encode(Ready())


class Worker:
    """Runs what comes over a channel until the daemon closes it.

    Made once, by the fork server, which is why it begins with nothing open.
    """

    _channel: SocketType

    def __init__(self, registry: Registry, config: Config) -> None:
        self._registry = registry
        self._config = config
        self._sending = allocate_lock()
        self._progress = ProgressReporter(self._send)
        self._event_loop: Runner | None = None
        self._in_pipe = array("i", [0])
        # Whatever each worker would make alike is made here: it shares it.
        self._splitter = LineSplitter(MAX_LINE)
        self._idle = f"{config.name}: idle"
        report_progress_to(self._progress.report)

    def run(self, channel: SocketType) -> None:
        """Serve until there is no more to do. What a hook raises goes through."""
        self._channel = channel
        for hook in self._registry.start_hooks:
            hook()
        splitter = self._splitter
        try:
            setproctitle(self._idle)
            channel.sendall(_READY)
            while data := channel.recv(RECEIVE_SIZE):
                for line in splitter.receive(data):
                    self._serve(decode_run(line))
        except (BrokenPipeError, ConnectionResetError):
            pass  # The daemon is gone, and nobody waits for us any more.
        self._show("stopping")
        if self._event_loop is not None:
            self._event_loop.close()
        for hook in self._registry.stop_hooks:
            hook()

    def _serve(self, run: Run) -> None:
        self._show(f"{run.function} #{run.job}")
        if run.progress:
            self._progress.begin(run.job)
        started = time.perf_counter()
        outcome = self._outcome(run, started)
        if run.progress:
            self._progress.end()
        self._send(outcome)
        setproctitle(self._idle)

    def _outcome(self, run: Run, started: float) -> Done | Failed:
        task = self._registry[run.function]
        try:
            args, kwargs = task.parameters.bind(run.args)
        except InvalidParams as error:
            return _refused(run.job, 0.0, error, f"{run.function}: {error.message}")
        try:
            result = self._call(task, args, kwargs)
        except BaseException as error:  # SystemExit too: a task ends, not its worker.
            return self._raised(run.job, time.perf_counter() - started, error)
        seconds = time.perf_counter() - started
        wrote = self._wrote()
        try:
            value = _json(result)
        except Exception as error:
            kind = type(result).__name__
            bad = TaskFailed(f"the result is not JSON ({kind}): {error}", type=kind, message=str(error))
            return _refused(run.job, seconds, bad, output=wrote)
        if len(value) >= self._config.max_result:
            limit = self._config.max_result
            size = f"the result is {len(value)} bytes of JSON; the limit is {limit}, with its LF"
            return _refused(run.job, seconds, TooLarge(size, limit=limit), output=wrote)
        return Done(run.job, seconds, wrote, Raw(value))

    def _call(self, task: Task, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if not task.is_async:
            return task.function(*args, **kwargs)
        if self._event_loop is None:
            from asyncio import Runner  # a third of a worker's memory, where no task needs it

            self._event_loop = Runner()
        return self._event_loop.run(task.function(*args, **kwargs))

    def _raised(self, job: int, seconds: float, error: BaseException) -> Failed:
        kind = type(error)
        name = (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
        try:
            text = str(error)[:MAX_TEXT]
        except Exception as broken:
            text = f"(its text cannot be had: {broken!r})"
        frame = error.__traceback__
        while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_NOT_THE_TASKS):
            frame = frame.tb_next
        trace = "".join(traceback.format_exception(kind, error, frame))[-MAX_TEXT:]
        data = {"type": name, "message": text}
        if self._config.tracebacks:
            data["traceback"] = trace
        message = f"{name}: {text}" if text else name
        return Failed(
            job,
            seconds,
            self._wrote(),
            TaskFailed.code,
            _encodable(message),
            Raw(_encode(data)),
            _encodable(trace),
        )

    def _wrote(self) -> bool:
        """Whether the daemon has output of this task still to read."""
        for stream in (sys.stdout, sys.stderr):
            try:  # noqa: SIM105  # suppress() touches more of what workers share
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass  # The task may have closed or replaced it, or the pipe is gone.
        try:
            fcntl.ioctl(_OUTPUT, termios.FIONREAD, self._in_pipe, True)
        except OSError:
            return False
        return self._in_pipe[0] > 0

    def _send(self, message: FromWorker) -> None:
        with self._sending:
            self._channel.sendall(encode(message))

    def _show(self, doing: str) -> None:
        setproctitle(f"{self._config.name}: {doing}")


def rehearse(config: Config) -> None:
    """Have a worker, here in the fork server, run a function that does nothing.

    What Python notes at the first runs of a piece of code (specialised
    instructions, found attributes) is then noted in memory that all workers
    share, and not by each of them in its own copy.
    """
    own = Registry()
    own.add(_nothing)
    own.compile()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for job in range(REHEARSALS):
            ours.sendall(encode(Run(job, _nothing.__name__, Raw(b"[null]"), progress=False)))
        ours.shutdown(socket.SHUT_WR)
        Worker(own, config).run(theirs)


def _nothing(value: object) -> object:
    return value


def _refused(
    job: int, seconds: float, error: TaskdError, message: str | None = None, *, output: bool = False
) -> Failed:
    """A failure that has no traceback which would help anybody."""
    data = Raw(_encode(error.data)) if error.data else NULL
    return Failed(job, seconds, output, error.code, _encodable(message or error.message), data, None)


_only_one = msgspec.json.Decoder(tuple[Raw])


def _json(result: Any) -> bytes:
    """The JSON of a result, on one line. Raises where there is none.

    A task may return a `msgspec.Raw`, which is encoded as it is.
    """
    value = msgspec.json.encode(result)
    _only_one.decode(b"[%b]" % value)
    if not value.isascii():
        value.decode("utf-8")
    return value.replace(b"\n", b" ") if b"\n" in value else value


def _number(value: Any) -> int | float:
    """A number of any library as one that JSON has. Raises `TypeError` or `ValueError` for what is none."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"progress is told in numbers, not in {type(value).__name__}")
    if isinstance(value, numbers.Integral) and -(2**53) < int(value) < 2**53:
        return int(value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"progress is told in finite numbers, not in {number}")
    return number


def _encodable(text: str) -> str:
    """The text with what UTF-8 cannot hold (lone surrogates) written as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _encode(data: dict[str, Any]) -> bytes:
    return msgspec.json.encode(
        {key: _encodable(value) if isinstance(value, str) else value for key, value in data.items()}
    )
