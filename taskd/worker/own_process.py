"""The worker's own process, and how a copy of it that a task has forked leaves."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from os import getpid
from typing import NoReturn

from taskd.worker.tracebacks import traceback_of

__all__ = ["OwnProcess"]


class OwnProcess:
    """The process that is the worker. A child that the app's code forked finds that it is another one.

    Such a child comes back from a function or a hook into the worker's code: it
    would answer the caller a second time and take the worker's next tasks. There it
    leaves, as a script would that ends at this point.
    """

    def __init__(self) -> None:
        self._pid = getpid()
        self.was_forked = False
        """Whether Python has forked this process since `enter`: quickly seen, but forks of C code are not."""

    def enter(self) -> None:
        """Note that this process is the worker. Call it once."""
        self._pid = getpid()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.was_forked = True

    @property
    def is_ours(self) -> bool:
        """Whether this process is the worker, and not a copy of it."""
        return getpid() == self._pid

    def leave_if_forked(self, error: BaseException | None = None) -> None:
        """Return in the worker; end the process at once in a child, for which `error` was raised, if any.

        Its exit status is the one that it meant: 0 after a return, n after
        ``sys.exit(n)``, 1 after an exception, whose traceback goes to stderr. Exit
        handlers do not run, as they are the worker's.
        """
        if getpid() != self._pid:
            _leave(error)


def _leave(error: BaseException | None) -> NoReturn:
    status = 1
    try:
        status = _status_of(error)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # the child may have closed it
                stream.flush()
    except BaseException:  # printing it runs code of the app
        status = 1
    finally:
        os._exit(status)


def _status_of(error: BaseException | None) -> int:
    """Return the exit status of a script that ends with `error`, and print what it would print."""
    code = error.code if isinstance(error, SystemExit) else None
    if error is None or (isinstance(error, SystemExit) and code is None):
        return 0
    if isinstance(code, int):
        return code & 0xFF
    if isinstance(error, SystemExit):
        sys.stderr.write(f"{code}\n")
    else:
        sys.stderr.write(traceback_of(error, lambda _: False))
    return 1
