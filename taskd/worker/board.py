"""The board: memory that the daemon shares with the workers of a fork server.

Each worker has a place there, where it writes the task that it begins and the
outcomes that it has not sent yet. So the daemon knows both however the worker
ends, and a killed process loses only the task that it was running.
"""

from __future__ import annotations

import mmap
import os

__all__ = ["Board"]

_WORD = 8  # a task's number, or a length, as 64 bits
_WORDS_PER_PLACE = 2

KEPT_BYTES = 4096 - _WORD * _WORDS_PER_PLACE
"""Bytes of a place for outcomes that have not been sent: together with the words, one page."""

_PLACE = KEPT_BYTES + _WORD * _WORDS_PER_PLACE


class Board:
    """The board in the memory file `descriptor`, which is mapped and may be closed afterwards.

    Each place belongs to one worker, which alone writes there. The daemon reads
    the place, and clears it before it assigns it to another worker.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, 0)
        self._words = memoryview(self._map).cast("Q")

    @staticmethod
    def create(places: int) -> int:
        """Create the memory for a board of `places`; return its descriptor, which the caller closes."""
        descriptor = os.memfd_create("taskd-board")
        os.ftruncate(descriptor, places * _PLACE)
        return descriptor

    def close(self) -> None:
        """Release the memory and the descriptor that `mmap` keeps. The board must not be used afterwards."""
        self._words.release()
        self._map.close()

    def clear(self, place: int) -> None:
        """Clear a place, for another worker."""
        self._words[place * _PLACE // _WORD] = 0
        self.sent(place)

    # --- the worker ---

    def begin(self, place: int, task: int) -> None:
        """Record that the worker is about to call the function of this task."""
        self._words[place * _PLACE // _WORD] = task

    def keep(self, place: int, lines: bytes) -> bool:
        """Keep lines that will be sent later; return False if there is not enough room."""
        word = place * _PLACE // _WORD + 1
        length = self._words[word]
        if length + len(lines) > KEPT_BYTES:
            return False
        start = place * _PLACE + _WORD * _WORDS_PER_PLACE + length
        self._map[start : start + len(lines)] = lines
        self._words[word] = length + len(lines)  # last, so that half-written lines do not count
        return True

    def sent(self, place: int) -> None:
        """Drop the kept lines, which have been sent."""
        self._words[place * _PLACE // _WORD + 1] = 0

    # --- the daemon ---

    def begun(self, place: int) -> int:
        """Return the number of the task that the worker began last, 0 for none."""
        return self._words[place * _PLACE // _WORD]

    def kept(self, place: int) -> bytes:
        """Return the kept lines; they may also have been sent, if the worker ended just then."""
        start = place * _PLACE + _WORD * _WORDS_PER_PLACE
        return self._map[start : start + self._words[place * _PLACE // _WORD + 1]]
