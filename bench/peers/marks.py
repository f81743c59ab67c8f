"""What stored tasks leave behind: how many have run, when the last one did, and how long each took to start.

Every process that runs tasks has a file of its own in the directory `MARKS`, which
all share memory with: a mark costs a microsecond, whatever the queue is.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path

HEAD = struct.Struct("=qdq")
"""Tasks, the time of the last one, and delays that follow; times are those of the monotonic clock."""

DELAY = struct.Struct("=d")
MOST = 20_000
"""Delays that a process can note."""

SIZE = HEAD.size + MOST * DELAY.size


class _File:
    """The marks of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        path = Path(os.environ["MARKS"], str(self.pid))
        path.write_bytes(bytes(SIZE))
        with path.open("r+b") as opened:
            self._map = mmap(opened.fileno(), SIZE)
        self._count = self._delays = 0
        self._lock = threading.Lock()

    def note(self, sent: float) -> None:
        now = time.monotonic()
        with self._lock:
            self._count += 1
            if sent and self._delays < MOST:
                DELAY.pack_into(self._map, HEAD.size + self._delays * DELAY.size, now - sent)
                self._delays += 1
            HEAD.pack_into(self._map, 0, self._count, now, self._delays)


_file: _File | None = None
_making = threading.Lock()


def note(sent: float) -> None:
    """Note that a task has started, which was submitted at `sent`; 0 if nobody asks for its delay."""
    global _file
    if _file is None or _file.pid != os.getpid():
        with _making:
            if _file is None or _file.pid != os.getpid():
                _file = _File()
    _file.note(sent)


@dataclass(slots=True)
class Marks:
    """All that is in a directory. `delays` are in seconds."""

    count: int = 0
    last: float = 0.0
    delays: list[float] = field(default_factory=list)


def read(directory: Path, *, only_heads: bool = False) -> Marks:
    """The marks of all processes so far; without their delays if `only_heads`."""
    found = Marks()
    for path in directory.iterdir():
        with path.open("rb") as opened:
            data = opened.read(HEAD.size if only_heads else SIZE)
        if len(data) < HEAD.size:
            continue  # which is just being made
        count, last, delays = HEAD.unpack_from(data)
        found.count += count
        found.last = max(found.last, last)
        if not only_heads:
            found.delays += struct.unpack_from(f"={delays}d", data, HEAD.size)
    return found


def wait_for(directory: Path, count: int, patience: float = 60.0, pause: float = 0.005) -> Marks:
    """Wait until so many tasks have run; returns without their delays. Raises `TimeoutError`.

    Looking costs so little that it takes nothing from whoever is measured.
    """
    ending = time.monotonic() + patience
    while (found := read(directory, only_heads=True)).count < count:
        if time.monotonic() > ending:
            raise TimeoutError(f"only {found.count} of {count} tasks have run")
        time.sleep(pause)
    return found
