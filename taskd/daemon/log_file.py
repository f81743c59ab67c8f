"""The log file: appended to, reopened when somebody has moved it, and kept from growing without end."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

__all__ = ["KEPT_FILES", "ROTATE_BYTES", "LogFile"]

ROTATE_BYTES = 10_000_000
"""Bytes after which a log file is put aside, if nobody else does that: an editor still opens it."""

KEPT_FILES = 9
"""Old log files that are kept then, so that a log takes 100 MB at most."""


class LogFile:
    """A log file: what a `taskd.daemon.log_writer.TextSink` writes to.

    It is opened for appending, so that it can be truncated by others. `reopen`
    opens the path again. A file of `ROTATE_BYTES` is put aside as ``PATH.1``, the
    one before as ``PATH.2``, and so on up to `KEPT_FILES`. That ends for good
    as soon as somebody else is seen to rotate the file, by moving or
    truncating it, or by old files with other names beside it, as of logrotate.
    Raises `OSError` if the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size
        self._is_rotated_here = not self._has_foreign_old_files()

    def write(self, data: bytes) -> int:
        """Append some of `data`, and return how many bytes. Raises `OSError`, as when the disk is full."""
        if self._size >= ROTATE_BYTES and self._is_rotated_here:
            self._rotate()
        written = os.write(self._descriptor, data)
        self._size += written
        return written

    def reopen(self) -> None:
        """Open the path again. Raises `OSError` if that fails; then the old file remains in use."""
        if self._is_elsewhere():
            self._is_rotated_here = False
        self._replace(self._open(self._mode()))

    def close(self) -> None:
        """Close the descriptor; nothing is buffered, so nothing is lost."""
        os.close(self._descriptor)

    def _open(self, mode: int | None = None) -> int:
        """Open the path; a new file gets `mode`, None for what the umask leaves."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        with suppress(FileExistsError):
            descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            if mode is not None:
                os.fchmod(descriptor, mode)
            return descriptor
        return os.open(self.path, flags | os.O_CREAT, 0o666)

    def _replace(self, descriptor: int) -> None:
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    def _mode(self) -> int:
        return os.fstat(self._descriptor).st_mode & 0o777

    def _is_elsewhere(self) -> bool:
        """Return whether the path does not lead to the open file any more."""
        with suppress(OSError):
            return not os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        return True

    def _has_foreign_old_files(self) -> bool:
        """Return whether there are old log files whose names are not those given here."""
        own = re.compile(re.escape(self.path.name) + r"\.[1-9]")
        old = re.compile(re.escape(self.path.name) + r"[.-]\d.*")
        with suppress(OSError):
            return any(
                old.fullmatch(name) and not own.fullmatch(name) for name in os.listdir(self.path.parent)
            )
        return False

    def _rotate(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if size < self._size or self._is_elsewhere():
            self._is_rotated_here = False  # somebody else has truncated or moved it
            return
        if not os.path.isfile(self.path):
            self._is_rotated_here = False  # /dev/null, a FIFO
            return
        try:
            for number in range(KEPT_FILES - 1, 0, -1):
                with suppress(FileNotFoundError):
                    os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
            os.replace(self.path, f"{self.path}.1")
            self._replace(self._open(self._mode()))
        except OSError:
            self._size = 0  # the directory is not writable: go on here, and try again later
