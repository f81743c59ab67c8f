"""The limits of the store in memory, so that a daemon without a file does not grow with each task."""

from __future__ import annotations

import re

import msgspec

from taskd.store.base import StoreError

__all__ = ["MemoryLimits", "size_of"]

ENDED = 10_000
"""Ended tasks that are kept: enough to ask for the outcomes of a busy minute or a quiet day."""

SECONDS = 3600.0
"""Seconds for which an ended task is kept at most, whatever its function asks for."""

BYTES = 256 * 1024 * 1024
"""Bytes of everything that is kept, as many as the daemon holds for its clients."""

RECORD_BYTES = 600
"""Bytes that a task takes besides its arguments, its options and its outcome (measured)."""

EVENT_BYTES = 200
"""Bytes that an event takes besides its data."""

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


class MemoryLimits(msgspec.Struct, frozen=True):
    """The limits of a store in memory.

    At most `ended` ended tasks are kept, each for `seconds` at most, and
    everything together takes about `bytes`: beyond that the oldest ended tasks
    are forgotten and, if there are none, new tasks are refused.
    """

    ended: int = ENDED
    seconds: float = SECONDS
    bytes: int = BYTES

    @classmethod
    def parse(cls, text: str) -> MemoryLimits:
        """Return the limits of a text like ``ended=1000,seconds=60,bytes=64M``. Raises `StoreError`."""
        limits: dict[str, float] = {}
        for part in text.split(",") if text else ():
            match = re.fullmatch(r"(ended|seconds|bytes)=(\d{1,15})([KMG]?)", part.strip())
            if match is None or (match[3] and match[1] != "bytes") or not int(match[2]):
                raise StoreError(
                    "limits of memory are like memory:ended=10000,seconds=3600,bytes=256M, "
                    f"each a number above 0, not {part!r}"
                )
            limits[match[1]] = int(match[2]) * _UNITS[match[3]]
        return msgspec.structs.replace(cls(), **limits)


def size_of(*texts: bytes | None) -> int:
    """Return the bytes of these texts together."""
    return sum(len(text) for text in texts if text is not None)
