"""The daemon's log: where it goes by twistd's own options, made printable, and reopened at SIGUSR1.

`taskd.daemon.log_writer` does the writing.

twistd takes the observer of the application before its own (`TaskdService`
sets it). That is the one place through which everything comes that is logged.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import syslog
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import EACCES, EPERM, EROFS
from functools import partial
from typing import Any, cast

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEventAsClassicLogText,
    formatTime,
)
from zope.interface import implementer

from taskd.daemon.log_file import LogFile
from taskd.daemon.log_json import as_json
from taskd.daemon.log_writer import Entry, LogWriter, Sink, SyslogSink, TextSink
from taskd.errors import StartError
from taskd.net.reactor import Reactor
from taskd.printable import printable
from taskd.settings.table import JSON

__all__ = ["STANDARD_OUTPUT", "LogOutput", "open_log", "reopen_at_usr1"]

_log = Logger(namespace="taskd")

DEFAULT_FILE = "twistd.log"
"""The log file of a daemon in the background, if twistd's --logfile names no other."""

STANDARD_OUTPUT = "standard output"

UTF_8 = "utf-8"
"""The encoding of JSON, whatever that of standard output is (RFC 8259)."""

_PRIORITIES = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}


_NONE: Mapping[str, Any] = {}

LOST = "{lines} lines of the log were lost: {why}"


@dataclass(frozen=True, slots=True)
class LogOutput:
    """An open log: its `observer`, its `writer`, its name for the operator, and its `file` if it has one."""

    observer: ILogObserver
    writer: LogWriter
    name: str
    file: LogFile | None = None

    def lines_lost(self) -> int:
        """Return how many lines of the log were lost, because it was not read or could not be written."""
        return self.writer.lost


def open_log(twistd: Mapping[str, Any], settings: Mapping[str, Any] = _NONE) -> LogOutput | None:
    """Open the log that twistd's options and ours ask for; None for an observer of the operator's own.

    Raises `StartError` if the log file cannot be written.
    """
    if twistd.get("logger") is not None:
        return None
    is_json = settings.get("log-format") == JSON
    if twistd.get("syslog"):
        syslog.openlog(twistd.get("prefix") or "twisted", 0, syslog.LOG_USER)
        return _output(SyslogSink(), "syslog", as_json if is_json else _without_time)
    format_event = as_json if is_json else _with_time
    in_foreground = bool(twistd.get("nodaemon") or twistd.get("debug"))
    path = twistd.get("logfile") or settings.get("log-file") or ("-" if in_foreground else DEFAULT_FILE)
    if path == "-":
        if not in_foreground:
            raise StartError(
                "taskd: a daemon in the background cannot log to standard output: use --nodaemon"
            )
        return _output(_standard_output(UTF_8 if is_json else None), STANDARD_OUTPUT, format_event)
    try:
        file = LogFile(path)
    except OSError as error:
        raise StartError(
            f"taskd: cannot write the log file {os.path.abspath(path)}: {error.strerror}; "
            "name another with --log-file=FILE"
        ) from error
    return _output(TextSink(file.write), str(file.path), format_event, file)


def _standard_output(encoding: str | None) -> TextSink:
    """Return a sink for standard output, by a descriptor that nobody else closes or uses.

    Without an `encoding`, that of standard output is used.
    """
    stdout = sys.stdout
    if stdout is None:  # it was closed before the start
        return TextSink(partial(os.write, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)))
    stdout.flush()
    descriptor = fcntl.fcntl(stdout.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)
    return TextSink(partial(os.write, descriptor), descriptor, encoding or stdout.encoding)


def _output(
    sink: Sink, name: str, format_event: Callable[[LogEvent], str | None], file: LogFile | None = None
) -> LogOutput:
    def lost_notice(lines: int, why: str) -> Entry:
        event: LogEvent = {
            "log_namespace": "taskd",
            "log_level": LogLevel.warn,
            "log_time": time.time(),
            "log_format": LOST,
            "lines": lines,
            "why": why,
        }
        return syslog.LOG_WARNING, format_event(event) or ""

    writer = LogWriter(sink, lost_notice)
    return LogOutput(_Observer(writer, format_event), writer, name, file)


def reopen_at_usr1(reactor: Reactor, output: LogOutput | None) -> None:
    """Reopen the log file at every SIGUSR1; a log without a file only mentions the signal.

    Without a handler, the signal would end the process. A handler that is
    there already stays.
    """
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(_reopen, reactor, output))


def _reopen(reactor: Reactor, output: LogOutput | None) -> None:
    if output is None or output.file is None:
        name = output.name if output else "an observer of its own"
        _log.info("SIGUSR1: the log goes to {name}, so there is no file to reopen", name=name)
        return
    file = output.file

    def reopen() -> None:
        try:
            file.reopen()
        except OSError as error:
            reactor.callFromThread(
                _log.error,
                "SIGUSR1: cannot reopen {path} ({why}): the log goes on in the old file",
                path=output.name,
                why=error.strerror,
            )
        else:
            reactor.callFromThread(_log.info, "SIGUSR1: reopened {path}", path=output.name)

    output.writer.run_between_writes(reopen)  # to open a FIFO or a file on a slow disk may block


def _with_time(event: LogEvent) -> str | None:
    text = formatEventAsClassicLogText(event, formatTime)
    return None if text is None else f"{printable(text[:-1])}\n"  # without its LF: that is quicker


def _without_time(event: LogEvent) -> str | None:
    text = formatEventAsClassicLogText(event, lambda _: "")
    return None if text is None else f"{printable(text).strip()}\n"


@implementer(ILogObserver)
class _Observer:
    """An observer that passes events to the writer, except for what is of no use to an operator."""

    def __init__(self, writer: LogWriter, format_event: Callable[[LogEvent], str | None]) -> None:
        self._write = writer.write
        self._format = format_event

    def __call__(self, event: LogEvent) -> None:
        if not _is_about_plugin_cache(event):
            text = self._format(event)
            if text is not None:
                self._write(text, _PRIORITIES.get(cast(Any, event.get("log_level")), syslog.LOG_INFO))


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
