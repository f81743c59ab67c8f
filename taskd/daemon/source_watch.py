"""A watch on an app's source files, which has the app reloaded when one of them changes.

It looks at them a few times a second. That works on every file system, those of
containers and networks included, and needs nothing that must be installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeAlias

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.pool.timer import Timer

__all__ = ["LOOK_SECONDS", "SourceWatch"]

_log = Logger(namespace="taskd.reload")

LOOK_SECONDS = 0.25
"""Seconds between two looks: a reload begins after the first one that sees nothing new, so half a second
after the file was saved, at most. A look at a hundred files takes less than a millisecond."""

NAMED_FILES = 3
"""Changed files that the log names; more would fill the line."""

FileState: TypeAlias = tuple[int, int, int]
"""When a file was changed (nanoseconds), its size, and which file it is: editors replace files."""


class SourceWatch:
    """A watch on the ``.py`` files in certain folders, those of their subfolders excluded.

    `add` begins to watch folders. `start` begins to look, and has `reload` called when files
    have changed, appeared or gone, and nothing has happened to them since the last look.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._timer = Timer(clock, self._look)
        self._folders: set[str] = set()
        self._known: dict[str, FileState] = {}
        self._changed: set[str] = set()
        self._reload: Callable[[], object] | None = None

    def add(self, folders: Iterable[str]) -> None:
        """Watch these folders, too, from their present state on. Others stay watched."""
        for folder in set(folders) - self._folders:
            self._folders.add(folder)
            self._known.update(_states(folder))

    def start(self, reload: Callable[[], object]) -> None:
        """Begin to look; call this once."""
        self._reload = reload
        self._timer.start(LOOK_SECONDS)

    def stop(self) -> None:
        """Look no more. Idempotent."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer.start(LOOK_SECONDS)
        present = {path: state for folder in self._folders for path, state in _states(folder)}
        news = {
            path for path in present.keys() | self._known.keys() if present.get(path) != self._known.get(path)
        }
        self._known = present
        if news:
            self._changed |= news
        elif self._changed and self._reload is not None:
            changed, self._changed = sorted(self._changed), set()
            _log.info("{files} changed: the app is imported again", files=_named(changed))
            self._reload()


def _states(folder: str) -> Iterator[tuple[str, FileState]]:
    """Yield the path and the state of each source file in a folder; nothing if it cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py") and not entry.name.startswith("."):
                with suppress(OSError):  # it is gone again
                    stat = entry.stat()
                    yield entry.path, (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _named(files: list[str]) -> str:
    names = ", ".join(files[:NAMED_FILES])
    return f"{names} and {len(files) - NAMED_FILES} more" if len(files) > NAMED_FILES else names
