"""A failed start: its whole reason where the operator looks, whatever twistd does with errors.

twistd in the background tells the shell no more than 100 bytes of an error, as
the `repr` of bytes, and a daemon that logs to a file has nothing on the
terminal at all. So the reason is written to the stderr that the command was
given, and the log has it too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from twisted.logger import Logger

from taskd.errors import StartError
from taskd.printable import printable
from taskd.settings.given import Source
from taskd.settings.settings import Settings

__all__ = [
    "Terminal",
    "check_log_file",
    "check_twistd_options",
    "interrupts_end_start",
    "interrupts_stop_reactor",
]

_log = Logger(namespace="taskd")

_STDERR = 2

INTERRUPTED = "taskd: interrupted at the start"

_REASON_IS_ABOVE = "the reason is above"


def interrupts_end_start() -> None:
    """Have Ctrl-C end the process with one line from now on, whatever it comes in the middle of.

    This holds until `interrupts_stop_reactor`. A handler of somebody else's stays.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_start)


def interrupts_stop_reactor() -> None:
    """Undo `interrupts_end_start`: the reactor, when it runs, replaces only Python's own handler."""
    if signal.getsignal(signal.SIGINT) is _end_start:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_start(*_: object) -> NoReturn:
    # Not a `StartError`: that is an `Exception`, and code that is interrupted may catch those.
    raise SystemExit(INTERRUPTED)


class Terminal:
    """The stderr with which the command was started, kept until the start has succeeded.

    Make it before twistd goes into the background. `log_name` names the log.
    `in_background` says whether twistd will also report an error itself.
    """

    def __init__(self, log_name: str, *, in_background: bool) -> None:
        self._log_name = log_name
        self._in_background = in_background
        self._descriptor: int | None = None
        with suppress(OSError):
            self._descriptor = os.dup(_STDERR)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report an error in the block, which is raised again; so is the exit because of Ctrl-C."""
        try:
            yield
        except SystemExit as error:
            self._fail(error)
        except Exception as error:
            self._write(f"taskd: {type(error).__name__}: {error}")
            raise

    def close(self) -> None:
        """Let go of stderr, since the start has succeeded. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _fail(self, error: SystemExit) -> NoReturn:
        self._write(str(error))
        if not self._in_background:
            raise error
        # twistd quotes the error on the terminal, cut to 100 bytes: give it one that fits.
        _log.critical("{reason}", reason=str(error))
        raise StartError(_REASON_IS_ABOVE) from error

    def _write(self, text: str) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                text = f"{printable(text).rstrip()}\ntaskd: not started; the log is {self._log_name}\n"
                os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))
        self.close()


def check_log_file(twistd: Mapping[str, Any], settings: Settings) -> None:
    """Raise `StartError` if both twistd's ``--logfile`` and our own option name a log file."""
    if twistd.get("logfile") and settings.source("log-file") is Source.COMMAND_LINE:
        raise StartError("taskd: --log-file and twistd's own --logfile: leave out one")


def check_twistd_options(twistd: Mapping[str, Any]) -> None:
    """Check those of twistd's options that it would use too late to say what is wrong with them.

    Raises `StartError` if the pid file cannot be written, the directory for
    ``--rundir`` does not exist, or ``--uid`` needs a privilege.
    """
    pidfile = twistd.get("pidfile")
    if pidfile and not twistd.get("chroot"):
        folder = os.path.dirname(os.path.abspath(pidfile))
        why = None
        if not os.path.isdir(folder):
            why = f"there is no directory {folder}"
        elif not os.access(pidfile if os.path.exists(pidfile) else folder, os.W_OK):
            why = f"{folder} is not writable by this user"
        elif os.path.isdir(pidfile):
            why = "it is a directory"
        if why is not None:
            raise StartError(
                f"taskd: cannot write the pid file {pidfile}: {why}; name another with twistd --pidfile=FILE "
                "taskd …, or none with --pidfile="
            )
    rundir = twistd.get("rundir")
    if rundir and not twistd.get("chroot") and not os.path.isdir(rundir):
        raise StartError(f"taskd: --rundir {rundir}: there is no such directory")
    uid = twistd.get("uid")
    if uid is not None and os.geteuid() not in (0, uid):
        raise StartError(f"taskd: --uid {uid}: only root can run a daemon as another user")
