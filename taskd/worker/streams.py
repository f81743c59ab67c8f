"""The standard streams of a worker, put back after a task that closed, replaced or redirected them."""

from __future__ import annotations

import fcntl
import io
import os
import sys
import termios
from array import array
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

__all__ = ["StandardStreams"]


@dataclass(frozen=True, slots=True)
class _Stream:
    """One standard stream as it was before the first task.

    `kept` is what ``sys.stdout`` was; `plain` is Python's own stream over
    `descriptor`, usually the same object; `settings` are its encoding, how it
    handles what that cannot encode, and whether it writes each line at once.
    `spare` is a duplicate of the descriptor, -1 if that was closed.
    """

    name: str
    descriptor: int
    kept: Any
    plain: Any
    settings: tuple[str, str | None, bool]
    spare: int
    identity: tuple[int, int] | None


class StandardStreams:
    """Stdout and stderr, whose descriptors are `output` and `errors`, as they were before the first task.

    A stream that a task has closed is opened again as the same object, so that
    whoever holds it (a logging handler, say) can go on with it.
    """

    def __init__(self, output: int, errors: int) -> None:
        self._output = output
        self._errors = errors
        self._in_pipe = array("i", [0])
        self._streams: list[_Stream] = []
        self._stdout: TextIO | None = None
        self._stderr: TextIO | None = None

    def keep(self) -> None:
        """Note what must be put back. `close` must follow."""
        self._streams = [_noted("stdout", self._output), _noted("stderr", self._errors)]
        self._stdout, self._stderr = (stream.kept for stream in self._streams)

    def close(self) -> None:
        """Release the spare descriptors."""
        for stream in self._streams:
            if stream.spare >= 0:
                with suppress(OSError):  # a task may have closed every descriptor that it found
                    os.close(stream.spare)
        self._streams = []

    def has_output(self) -> bool:
        """Flush the streams, after putting them back; return whether output is left in the pipe."""
        stdout, stderr = self._stdout, self._stderr
        try:
            if sys.stdout is not stdout or sys.stderr is not stderr:
                self._put_back()
            if stdout is not None:
                stdout.flush()
            if stderr is not None:
                stderr.flush()
        except BaseException:  # it is closed, or not a stream at all; a flush may run code of the app
            self._put_back()
        try:
            fcntl.ioctl(self._output, termios.FIONREAD, self._in_pipe, True)
        except OSError:
            self.put_back_descriptors()
            return False
        return self._in_pipe[0] > 0

    def put_back_descriptors(self) -> None:
        """Have the descriptors refer again to what they did before the first task, in the same encoding."""
        for stream in self._streams:
            if isinstance(stream.plain, io.TextIOWrapper):
                with suppress(ValueError):  # it is closed or detached: `has_output` opens it again
                    if _settings_of(stream.plain) != stream.settings:
                        encoding, errors, line_buffering = stream.settings
                        stream.plain.reconfigure(
                            encoding=encoding, errors=errors, line_buffering=line_buffering
                        )
            if stream.spare >= 0 and _identity(stream.descriptor) != stream.identity:
                with suppress(OSError):
                    os.dup2(stream.spare, stream.descriptor)

    def _put_back(self) -> None:
        self.put_back_descriptors()
        for stream in self._streams:
            current = getattr(sys, stream.name, None)
            if current is not stream.kept:
                _flush(current)
                setattr(sys, stream.name, stream.kept)
            if _flush(stream.kept):
                continue
            if not _flush(stream.plain):
                _open_again(stream)
            if not _flush(stream.kept):
                # The app's own stream cannot be used any more; Python's can.
                setattr(sys, stream.name, stream.plain)
        self._stdout, self._stderr = sys.stdout, sys.stderr


def _noted(name: str, descriptor: int) -> _Stream:
    kept, plain = getattr(sys, name, None), getattr(sys, f"__{name}__", None)
    settings: tuple[str, str | None, bool] = ("utf-8", "backslashreplace", True)
    if isinstance(plain, io.TextIOWrapper):
        with suppress(ValueError):  # it is detached
            settings = _settings_of(plain)
    identity = _identity(descriptor)
    spare = -1
    if identity is not None:
        with suppress(OSError):
            spare = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _SPARE_FROM)
    return _Stream(name, descriptor, kept, plain, settings, spare, identity)


def _settings_of(stream: io.TextIOWrapper) -> tuple[str, str | None, bool]:
    return stream.encoding, stream.errors, stream.line_buffering


_SPARE_FROM = 32
"""The lowest descriptor for a spare: above those that programs name by number, such as 3 to 9 in shells."""


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return what identifies the file behind a descriptor; None if the descriptor is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _flush(stream: Any) -> bool:
    """Flush a stream of the app; return whether it can be used."""
    try:
        if stream is not None:
            stream.flush()
    except BaseException:
        return False
    return True


def _open_again(stream: _Stream) -> None:
    """Open Python's own stream again, as the same object."""
    if isinstance(stream.plain, io.TextIOWrapper):
        with suppress(OSError, ValueError):
            buffer = open(stream.descriptor, "wb", closefd=False)  # noqa: SIM115  # as Python's own
            encoding, errors, line_buffering = stream.settings
            io.TextIOWrapper.__init__(
                stream.plain, buffer, encoding=encoding, errors=errors, line_buffering=line_buffering
            )
