"""The command line of ``twistd taskd``: every option, its default and its checks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from math import inf
from typing import get_args

from twisted.python import usage

from taskd.daemon.default_app import DEFAULT_APP
from taskd.net.backpressure import MAX_UNSENT
from taskd.protocol.framing import MAX_MESSAGE
from taskd.protocol.session import MAX_OUTSTANDING
from taskd.scheduler.budget import MAX_BUFFERED, MIN_MESSAGES, least_limit
from taskd.scheduler.config import IDLE_SECONDS, MAX_QUEUE
from taskd.worker.messages import ErrorDetails

__all__ = ["SHARED", "DaemonOptions", "memory_size", "worker_bounds"]

WORKERS_PER_CPU = 10
"""Workers for each CPU by default: heavy work mostly waits (for mail servers, databases,
disks), and Workerman's example advises ten processes for each CPU."""

ERROR_DETAILS: tuple[str, ...] = get_args(ErrorDetails)
"""The values of --error-details."""

NONE = "none"
PER_MESSAGE, LOCAL = "per-message", "local"
OWN, SHARED = "own", "shared"


def default_workers() -> int:
    """Return `WORKERS_PER_CPU` for each CPU that this process may use."""
    return WORKERS_PER_CPU * len(os.sched_getaffinity(0))


def worker_bounds(text: str) -> tuple[int, int]:
    """Parse ``MIN:MAX``, or one number for both, as numbers of workers. Raises `ValueError`."""
    least, colon, most = str(text).partition(":")
    bounds = (int(least), int(most)) if colon else (int(least), int(least))
    if not 0 <= bounds[0] <= bounds[1] or bounds[1] < 1:
        raise ValueError(text)
    return bounds


def _workers(text: str) -> tuple[int, int]:
    try:
        return worker_bounds(text)
    except ValueError:
        raise usage.UsageError(
            f"--workers is a number of at least 1, or MIN:MAX with 0 <= MIN <= MAX, not {text!r}"
        ) from None


_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def memory_size(text: str) -> int:
    """Parse an amount of memory like ``500M`` and return its bytes. Raises `ValueError`.

    K, M and G are powers of 1024.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = 0 if match is None else int(float(match[1]) * _SIZES[match[2].upper()])
    if not size:
        raise ValueError(text)
    return size


def _size(option: str) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            return memory_size(text)
        except ValueError:
            raise usage.UsageError(f"{option} is an amount of memory like 500M or 2G, not {text!r}") from None

    return convert


def _above_zero(option: str) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0
        if not 0 < value < inf:  # NaN is refused too
            raise usage.UsageError(f"{option} is a number of seconds above 0, not {text!r}")
        return value

    return convert


def _number(option: str, kind: type[int] | type[float], minimum: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = -1
        if not value >= minimum:
            raise usage.UsageError(f"{option} is a number of at least {minimum:g}, not {text!r}")
        return value

    return convert


def _error_details(text: str) -> str:
    if text not in ERROR_DETAILS:
        raise usage.UsageError(f"--error-details is one of {', '.join(ERROR_DETAILS)}, not {text!r}")
    return text


def _priorities(text: str) -> str:
    if text not in (OWN, SHARED):
        raise usage.UsageError(f"--priorities is {OWN} or {SHARED}, not {text!r}")
    return text


class DaemonOptions(usage.Options):
    """The command line of ``twistd taskd``; endpoints are Twisted endpoint strings."""

    longdesc = (
        "Runs the functions of an app module in a pool of processes. They are called over TCP "
        "(one JSON message, one line) and over websockets, and each result is pushed back when it is ready."
    )
    optParameters = [
        [
            "workers",
            None,
            None,
            "Worker processes: a number, or MIN:MAX to run as many as are needed. Default: ten for each CPU.",
            _workers,
        ],
        [
            "idle",
            None,
            IDLE_SECONDS,
            "Seconds after which an idle worker above MIN ends.",
            _above_zero("--idle"),
        ],
        [
            "timeout",
            None,
            None,
            "Seconds that a task may run for, if its function sets no limit of its own.",
            _above_zero("--timeout"),
        ],
        ["max-tasks", None, None, "Tasks after which a worker is replaced.", _number("--max-tasks", int, 1)],
        [
            "max-memory",
            None,
            None,
            "Memory, like 500M, above which a worker is replaced after its task.",
            _size("--max-memory"),
        ],
        [
            "hard-memory",
            None,
            None,
            "Memory, like 2G, that a worker cannot exceed: its task fails instead.",
            _size("--hard-memory"),
        ],
        ["name", None, "TaskWorker", "Name of the pool, shown in the titles of its processes."],
        [
            "link",
            None,
            PER_MESSAGE,
            "How the gateway calls task servers: per-message, pooled, or local (its own, without a socket).",
        ],
        [
            "store",
            None,
            None,
            "Where tasks are kept: memory or sqlite:PATH. Default: sqlite:taskd.db if a function is durable.",
        ],
        [
            "stop-timeout",
            None,
            30.0,
            "Seconds that tasks have, at a stop, to end by themselves.",
            _number("--stop-timeout", float, 0),
        ],
        [
            "max-message",
            None,
            MAX_MESSAGE,
            "Bytes of the longest message, and of the longest result.",
            _number("--max-message", int, 64),
        ],
        [
            "max-queue",
            None,
            MAX_QUEUE,
            "Tasks that may wait; callers beyond it get the error 'busy'.",
            _number("--max-queue", int, 0),
        ],
        [
            "max-buffered",
            None,
            None,
            "Memory, like 256M, for what is held for clients. Default: 256M, or 10 longest messages.",
            _size("--max-buffered"),
        ],
        [
            "priorities",
            None,
            OWN,
            "Whom urgent tasks may overtake: own (those of the same address or user) or shared (anybody's).",
            _priorities,
        ],
        [
            "max-outstanding",
            None,
            MAX_OUTSTANDING,
            "Requests of one connection that may be in flight at once.",
            _number("--max-outstanding", int, 1),
        ],
        [
            "max-unsent",
            None,
            MAX_UNSENT,
            "Bytes of replies that a client may leave unread.",
            _number("--max-unsent", int, 1),
        ],
        [
            "error-details",
            None,
            None,
            "What callers get of an exception: type, message (the default) or traceback. The log has all.",
            _error_details,
        ],
    ]
    optFlags = [["tracebacks", None, "The same as --error-details traceback."]]

    def __init__(self) -> None:
        super().__init__()
        self.is_default_app = True
        """Whether the default app is served, because none was named."""
        for name in ("app", "listen", "websocket", "task-server", "allow-origin", "hostname"):
            self[name] = []

    def opt_app(self, app: str) -> None:
        """A module or a file whose @task functions can be called; repeatable. Default: taskd.apps.mail."""
        self.is_default_app = False
        self["app"].append(app)

    def opt_listen(self, endpoint: str) -> None:
        """Where the task server listens, or none; repeatable. Default: tcp:12345:interface=127.0.0.1."""
        self["listen"].append(endpoint)

    def opt_websocket(self, endpoint: str) -> None:
        """Where the gateway listens, or none; repeatable. Default: tcp:8080:interface=127.0.0.1."""
        self["websocket"].append(endpoint)

    def opt_task_server(self, endpoint: str) -> None:
        """Where the gateway's calls go, a client endpoint string; repeatable. Default: the first --listen."""
        self["task-server"].append(endpoint)

    def opt_allow_origin(self, origin: str) -> None:
        """Pages that may connect, as https://*.example.com; repeatable. Own and loopback pages always may."""
        self["allow-origin"].append(origin)

    def opt_hostname(self, name: str) -> None:
        """A name by which browsers reach the gateway, whose pages may then connect; repeatable."""
        self["hostname"].append(name)

    def postOptions(self) -> None:
        """Fill in the defaults, and refuse options that cannot work together."""
        self["app"] = self["app"] or [DEFAULT_APP]
        self["workers"] = self["workers"] or (default_workers(), default_workers())
        self["listen"] = _endpoints("--listen", self["listen"] or ["tcp:12345:interface=127.0.0.1"])
        self["websocket"] = _endpoints("--websocket", self["websocket"] or ["tcp:8080:interface=127.0.0.1"])
        self["link"] = _link(self["link"])
        _check_origins("--allow-origin", patterns=self["allow-origin"])
        _check_origins("--hostname", names=self["hostname"])
        if not self["listen"] and not self["websocket"]:
            raise usage.UsageError("--listen none and --websocket none: there is nothing left to run")
        if self["link"] == LOCAL:
            self._check_local_link()
        if self["websocket"] and not self["listen"] and not self["task-server"]:
            raise usage.UsageError("--listen none: name with --task-server where the gateway's calls go")

        self._settle_error_details()
        self._check_memory()

    def _check_memory(self) -> None:
        least = least_limit(self["max-message"])
        given = self["max-buffered"]
        if given is None:
            self["max-buffered"] = max(MAX_BUFFERED, least)
        elif given < least:
            raise usage.UsageError(
                f"--max-buffered is {given} bytes, and must be at least {least}: {MIN_MESSAGES} messages of "
                f"--max-message ({self['max-message']} bytes), and 16M in any case"
            )

    def _settle_error_details(self) -> None:
        given = self["error-details"]
        if self["tracebacks"] and given not in (None, "traceback"):
            raise usage.UsageError(
                f"--tracebacks means --error-details traceback, not {given}: leave out one"
            )
        if not self["listen"] and (given or self["tracebacks"]):
            raise usage.UsageError(
                "--error-details and --listen none: what callers get of an exception is decided by the task "
                "servers, which run the tasks; give them the option"
            )
        self["error-details"] = "traceback" if self["tracebacks"] else given or "message"

    def _check_local_link(self) -> None:
        if not self["listen"]:
            raise usage.UsageError(
                "--link local and --listen none: a local link calls the task server of its own daemon, "
                "and this daemon has none; use --link per-message or --link pooled"
            )
        if self["task-server"]:
            raise usage.UsageError(
                "--link local and --task-server: a local link calls the task server of its own daemon "
                "and no other; leave out one of the two"
            )


def _link(text: str) -> str:
    if text == PER_MESSAGE:
        return text  # without importing the gateway, which a task server alone does not need
    from taskd.listeners.gateway import link_kind

    try:
        return link_kind(text)
    except ValueError as error:
        raise usage.UsageError(f"--link: {error}") from None


def _check_origins(option: str, patterns: Sequence[str] = (), names: Sequence[str] = ()) -> None:
    if not patterns and not names:
        return  # without importing what only a gateway needs
    from taskd.listeners.origins import Origins

    try:
        Origins(patterns, names)
    except ValueError as error:
        raise usage.UsageError(f"{option}: {error}") from None


def _endpoints(option: str, given: list[str]) -> list[str]:
    if NONE not in given:
        return given
    if len(given) > 1:
        raise usage.UsageError(f"{option} none cannot be combined with another {option}")
    return []
