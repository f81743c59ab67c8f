"""The daemon's log: where it goes by twistd's own options, made printable, and reopened at SIGUSR1.

twistd takes the observer of the application before its own (`TaskdService`
sets it). That is the one place through which everything comes that is logged.
"""

from __future__ import annotations

import os
import signal
import sys
import syslog
from collections.abc import Mapping
from dataclasses import dataclass
from errno import EACCES, EPERM, EROFS
from io import TextIOWrapper
from typing import Any, TextIO, cast

from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEventAsClassicLogText,
    formatTime,
)
from zope.interface import implementer, provider

from taskd.daemon.log_file import LogFile
from taskd.errors import StartError
from taskd.net.reactor import Reactor
from taskd.printable import printable

__all__ = ["STANDARD_OUTPUT", "LogOutput", "open_log", "reopen_at_usr1"]

_log = Logger(namespace="taskd")

DEFAULT_FILE = "twistd.log"
"""The log file of a daemon in the background, if twistd's --logfile names no other."""

STANDARD_OUTPUT = "standard output"

_PRIORITIES = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}


@dataclass(frozen=True, slots=True)
class LogOutput:
    """An open log: its `observer`, its `file` if it has one, and its name for the operator."""

    observer: ILogObserver
    name: str
    file: LogFile | None = None


def open_log(twistd: Mapping[str, Any]) -> LogOutput | None:
    """Open the log that twistd's options ask for; None if they name an observer of the operator's own.

    Raises `StartError` if the log file cannot be written.
    """
    if twistd.get("logger") is not None:
        return None
    if twistd.get("syslog"):
        syslog.openlog(twistd.get("prefix") or "twisted", 0, syslog.LOG_USER)
        return LogOutput(_to_syslog, "syslog")
    in_foreground = bool(twistd.get("nodaemon") or twistd.get("debug"))
    path = twistd.get("logfile") or ("-" if in_foreground else DEFAULT_FILE)
    if path == "-":
        if not in_foreground:
            raise StartError(
                "taskd: a daemon in the background cannot log to standard output: use --nodaemon"
            )
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # otherwise a line with an é is lost in ASCII
        return LogOutput(_Filtered(FileLogObserver(sys.stdout, _format)), STANDARD_OUTPUT)
    try:
        file = LogFile(path)
    except OSError as error:
        raise StartError(
            f"taskd: cannot write the log file {os.path.abspath(path)}: {error.strerror}; "
            "name another with twistd --logfile=FILE taskd …"
        ) from error
    observer = _Filtered(FileLogObserver(cast(TextIO, file), _format))
    return LogOutput(observer, str(file.path), file)


def reopen_at_usr1(reactor: Reactor, output: LogOutput | None) -> None:
    """Reopen the log file at every SIGUSR1; a log without a file only mentions the signal.

    Without a handler, the signal would end the process. A handler that is
    there already stays.
    """
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(_reopen, output))


def _reopen(output: LogOutput | None) -> None:
    if output is None or output.file is None:
        name = output.name if output else "an observer of its own"
        _log.info("SIGUSR1: the log goes to {name}, so there is no file to reopen", name=name)
        return
    try:
        output.file.reopen()
    except OSError as error:
        _log.error(
            "SIGUSR1: cannot reopen {path} ({why}): the log goes on in the old file",
            path=output.name,
            why=error.strerror,
        )
    else:
        _log.info("SIGUSR1: reopened {path}", path=output.name)


def _format(event: LogEvent) -> str | None:
    text = formatEventAsClassicLogText(event, formatTime)
    return None if text is None else f"{printable(text[:-1])}\n"  # without its LF: that is quicker


@implementer(ILogObserver)
class _Filtered:
    """An observer that leaves out what is of no use to an operator."""

    def __init__(self, observer: ILogObserver) -> None:
        self._observer = observer

    def __call__(self, event: LogEvent) -> None:
        if not _is_about_plugin_cache(event):
            self._observer(event)


@provider(ILogObserver)
def _to_syslog(event: LogEvent) -> None:
    """Send an event to syslog, with a priority according to its level; one message for each line."""
    text = formatEventAsClassicLogText(event, lambda _: "")
    if text is None or _is_about_plugin_cache(event):
        return
    priority = _PRIORITIES.get(cast(Any, event.get("log_level")), syslog.LOG_INFO)
    for line in printable(text).strip().split("\n"):
        syslog.syslog(priority, line)


def _is_about_plugin_cache(event: LogEvent) -> bool:
    """Return whether an event says that Twisted may not write its cache of plugins.

    twistd then looks at the plugins themselves, which takes a moment and changes
    nothing: as usual if taskd was installed by somebody else.
    """
    return str(event.get("format")).startswith("Unable to write to plugin cache") and event.get("errno") in (
        EACCES,
        EPERM,
        EROFS,
    )
