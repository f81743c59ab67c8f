"""The table of a daemon's options, from which every way to set one is made.

`twistd taskd`, `taskd serve`, configuration files and environment variables take
these options by these names, and refuse the same values.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from taskd.net.backpressure import MAX_UNSENT
from taskd.protocol.framing import MAX_MESSAGE
from taskd.protocol.session import MAX_OUTSTANDING
from taskd.scheduler.config import IDLE_SECONDS, MAX_QUEUE
from taskd.settings.kinds import (
    APP,
    ENDPOINT,
    ERROR_DETAILS,
    FILE,
    FLAG,
    HOSTNAME,
    LABEL,
    LINK,
    MEMORY,
    ORIGIN,
    OWN,
    PER_MESSAGE,
    SECONDS_ABOVE_ZERO,
    SHARED,
    STORE,
    TEXT,
    WORKERS,
    Kind,
    at_least,
    one_of,
)

__all__ = [
    "BY_NAME",
    "DEFAULT_APP",
    "JSON",
    "SETTINGS",
    "WORKERS_PER_CPU",
    "Setting",
    "default_workers",
    "nearest",
]

DEFAULT_APP = "taskd.apps.mail"
"""The app that is served if none is named."""

WORKERS_PER_CPU = 10
"""Workers for each CPU by default: heavy work mostly waits (for mail servers, databases,
disks), and Workerman's example advises ten processes for each CPU."""

JSON = "json"
"""The value of --log-format for a log that a program reads."""


def default_workers() -> int:
    """Return `WORKERS_PER_CPU` for each CPU that this process may use."""
    return WORKERS_PER_CPU * len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Setting:
    """One option: its name as on the command line, without the dashes, and what its value may be.

    A `default` of None means that nothing is set, or that the value follows from other
    things, which `help` names then. The value of a `repeatable` option is a list.
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    repeatable: bool = False
    is_twistds: bool = False
    """Whether twistd itself has the option, before the word taskd."""

    @property
    def variable(self) -> str:
        """The environment variable that sets the option."""
        return f"TASKD_{self.name.upper().replace('-', '_')}"

    @property
    def is_flag(self) -> bool:
        """Whether the option takes no value on the command line."""
        return not self.kind.metavar


SETTINGS = (
    Setting(
        "app",
        APP,
        "A module or a file whose @task functions can be called; repeatable. Default: taskd.apps.mail.",
        repeatable=True,
    ),
    Setting(
        "listen",
        ENDPOINT,
        "Where the task server listens, or none; repeatable. Default: tcp:12345:interface=127.0.0.1.",
        repeatable=True,
    ),
    Setting(
        "websocket",
        ENDPOINT,
        "Where the gateway listens, or none; repeatable. Default: tcp:8080:interface=127.0.0.1.",
        repeatable=True,
    ),
    Setting(
        "task-server",
        ENDPOINT,
        "Where the gateway's calls go, a client endpoint string; repeatable. Default: the first --listen.",
        repeatable=True,
    ),
    Setting(
        "task-server-token",
        FILE,
        "File with the token that the gateway shows its task servers. Read again at SIGHUP.",
    ),
    Setting(
        "allow-origin",
        ORIGIN,
        "Pages that may connect, as https://*.example.com; repeatable. Own and loopback pages always may.",
        repeatable=True,
    ),
    Setting(
        "hostname",
        HOSTNAME,
        "A name by which browsers reach the gateway, whose pages may then connect; repeatable.",
        repeatable=True,
    ),
    Setting(
        "tokens",
        FILE,
        "File of tokens (taskd token new): callers must then show one. Read again at SIGHUP.",
    ),
    Setting(
        "jwt-key",
        FILE,
        "File with a secret, a public key (PEM) or a JWKS, which signs tokens; repeatable.",
        repeatable=True,
    ),
    Setting("jwt-audience", TEXT, "The audience (aud) that signed tokens must name."),
    Setting(
        "insecure-public",
        FLAG,
        "Listen for other machines without tokens and client certificates: anybody there is let in.",
        False,
    ),
    Setting(
        "secret-key",
        FILE,
        "File with keys, one a line, that seal stored secrets: the first seals. Read again at SIGHUP.",
    ),
    Setting(
        "workers",
        WORKERS,
        "Worker processes: a number, or MIN:MAX to run as many as are needed. Default: ten for each CPU.",
    ),
    Setting("idle", SECONDS_ABOVE_ZERO, "Seconds after which an idle worker above MIN ends.", IDLE_SECONDS),
    Setting(
        "timeout",
        SECONDS_ABOVE_ZERO,
        "Seconds that a task may run for, if its function sets no limit of its own.",
    ),
    Setting("max-tasks", at_least(1, int, "NUMBER"), "Tasks after which a worker is replaced."),
    Setting("max-memory", MEMORY, "Memory, like 500M, above which a worker is replaced after its task."),
    Setting("hard-memory", MEMORY, "Memory, like 2G, that a worker cannot exceed: its task fails instead."),
    Setting(
        "label",
        LABEL,
        "A label of this server, such as gpu, for the functions that need it (@task(needs=…)); repeatable.",
        repeatable=True,
    ),
    Setting("name", TEXT, "Name of the pool, shown in the titles of its processes.", "TaskWorker"),
    Setting(
        "link",
        LINK,
        "How the gateway calls task servers: per-message, pooled, or local (its own, without a socket).",
        PER_MESSAGE,
    ),
    Setting(
        "store",
        STORE,
        "Where tasks are kept: memory, sqlite:PATH or postgres:DATABASE. Default: sqlite:taskd.db if a function "
        "is durable.",
    ),
    Setting(
        "stop-timeout",
        at_least(0, float, "SECONDS"),
        "Seconds that tasks have, at a stop, to end by themselves.",
        30.0,
    ),
    Setting(
        "drain-time",
        at_least(0, float, "SECONDS"),
        "Seconds, before a stop, in which all is served while health checks send new clients elsewhere.",
        0.0,
    ),
    Setting(
        "max-message",
        at_least(64, int, "BYTES"),
        "Bytes of the longest message, and of the longest result.",
        MAX_MESSAGE,
    ),
    Setting(
        "max-queue",
        at_least(0, int, "NUMBER"),
        "Tasks that may wait; callers beyond it get the error 'busy'.",
        MAX_QUEUE,
    ),
    Setting(
        "max-buffered",
        MEMORY,
        "Memory, like 256M, for what is held for clients. Default: 256M, or 10 longest messages.",
    ),
    Setting(
        "priorities",
        one_of(OWN, SHARED),
        "Whom urgent tasks may overtake: own (those of the same address or user) or shared (anybody's).",
        OWN,
    ),
    Setting(
        "max-outstanding",
        at_least(1, int, "NUMBER"),
        "Requests of one connection that may be in flight at once.",
        MAX_OUTSTANDING,
    ),
    Setting(
        "max-unsent",
        at_least(1, int, "BYTES"),
        "Bytes of replies that a client may leave unread.",
        MAX_UNSENT,
    ),
    Setting(
        "max-connections",
        at_least(1, int, "NUMBER"),
        "Connections that may be open at once, in all. Default: as many as ulimit -n permits.",
    ),
    Setting(
        "max-per-address",
        at_least(1, int, "NUMBER"),
        "Connections from one address, or /64 network, to one port; not behind a proxy, which has one.",
    ),
    Setting(
        "message-rate",
        at_least(0.1, float, "NUMBER"),
        "Messages a second that are read from one connection; what comes faster waits.",
    ),
    Setting(
        "compression",
        FLAG,
        "Compress long messages on websockets whose clients want it, at some cost of time.",
        False,
    ),
    Setting(
        "error-details",
        one_of(*ERROR_DETAILS),
        "What callers get of an exception: type, message (the default) or traceback. The log has all.",
    ),
    Setting("log-file", TEXT, "File that the log is appended to; - for standard output."),
    Setting(
        "log-format",
        one_of("text", JSON),
        "How the log is written: text, or json (one object a line) for programs.",
        "text",
    ),
    Setting(
        "reload", FLAG, "Import the app again whenever one of its files changes; for development.", False
    ),
    Setting(
        "reactor",
        TEXT,
        "Twisted's event loop, such as epoll or asyncio. Default: the best one of the system.",
        is_twistds=True,
    ),
)
"""Every option, in the order of the help."""

BY_NAME = {setting.name: setting for setting in SETTINGS}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that was probably meant by `name`, None if nothing is like it."""
    folded = {each.lower().replace("_", "-"): each for each in known}
    found = difflib.get_close_matches(name.lower().replace("_", "-"), list(folded), 1)
    return folded[found[0]] if found else None
