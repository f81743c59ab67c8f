"""Log records of the app, marked with their level, on their way through the output pipe to the daemon.

What a process prints and what it logs go through one pipe, in their order. A
record is one line of it: `MARK`, a digit for the level, and the text, in which
`NEWLINE` stands for each end of a line. The line holds however much the record
has, and neither character can be part of its text.

`logging` is not imported here, since an app without it would pay for it in
every worker: `watch_logging` acts when somebody imports it.
"""

from __future__ import annotations

import os
import sys
import warnings
from _thread import LockType, allocate_lock
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, TextIO

from taskd.printable import printable

if TYPE_CHECKING:
    # At run time it would import a dozen modules into every worker.
    from importlib.abc import Loader

__all__ = ["MARK", "MAX_RECORD", "NEWLINE", "adopt_logging", "marked", "watch_logging", "write_record"]

MARK = "\x1e"
"""The character before a record (ASCII's record separator)."""

NEWLINE = "\x1f"
"""The character for an end of a line inside a record (ASCII's unit separator)."""

MAX_RECORD = 16384
"""Characters of a record's text, as of a traceback; of a longer one the middle is left out."""

_HEAD = MAX_RECORD // 4
"""Characters kept of the beginning of a text that is too long: a traceback ends with what matters."""

_STDERR = 2

_locks: dict[int, LockType] = {}
"""The lock of each process that has written, by its id: a fork may have copied one that is held."""

_WARNING = 30
"""`logging.WARNING`, without importing logging."""

_LOGGING = "logging"


def marked(level: int, text: str) -> str:
    """Return a record as one line, without its LF. `level` is a number of `logging`."""
    if len(text) > MAX_RECORD:
        left_out = len(text) - MAX_RECORD
        text = f"{text[:_HEAD]}\n({left_out} characters left out)\n{text[_HEAD - MAX_RECORD :]}"
    digit = min(max(level // 10, 1), 5)
    return f"{MARK}{digit}{printable(text.replace(chr(13) + chr(10), chr(10))).replace(chr(10), NEWLINE)}"


def write_record(level: int, text: str) -> None:
    """Write a record to the descriptor of stderr, whatever has become of `sys.stderr`.

    Records of several threads do not mix. Those of several processes do not
    either, unless they are longer than the kernel writes in one piece (4096 bytes).
    """
    data = f"{marked(level, text)}\n".encode()
    with _locks.setdefault(os.getpid(), allocate_lock()), suppress(OSError):
        # An error means that nobody reads it: there is no daemon, or stderr is closed.
        while data:
            data = data[os.write(_STDERR, data) :]


def watch_logging() -> None:
    """Have log records and warnings of this process, and of its children, pass on their level.

    Call this before the app is imported. If the app does not configure
    `logging`, its records from level INFO on are written by `write_record`.
    """
    warnings.showwarning = _show_warning
    if _LOGGING in sys.modules:
        _install()
    else:
        sys.meta_path.insert(0, _LoggingFinder())


def adopt_logging() -> None:
    """Respect how the app has configured `logging`, if it has. Call this after code that may do so."""
    if _LOGGING in sys.modules:
        from taskd.worker.log_handler import adopt

        adopt()


def _install() -> None:
    from taskd.worker.log_handler import install

    install()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning of the module `warnings` as a record (see `warnings.showwarning`)."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    if file is not None:
        file.write(text)
    else:
        write_record(_WARNING, text.rstrip("\n"))


class _LoggingFinder:
    """A finder (`importlib.abc.MetaPathFinder`) that waits for the import of `logging`."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of `logging`, with a loader that also installs; None for other modules."""
        if fullname != _LOGGING:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _LoggingLoader(spec.loader)  # type: ignore[assignment]  # not a Loader by its base
        return spec


class _LoggingLoader:
    """A loader of `logging` (`importlib.abc.Loader`) that then has its records pass on their level."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        _install()
