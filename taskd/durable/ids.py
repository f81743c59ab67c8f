"""Ids of stored tasks: UUIDs of version 7 (RFC 9562), which sort by the time at which they were made."""

from __future__ import annotations

import os

__all__ = ["Ids"]


class Ids:
    """Makes ids, each greater than those before, even if the clock goes back."""

    def __init__(self) -> None:
        self._last = 0

    def make(self, now: float) -> str:
        """Return a new id; `now` is in seconds since 1970."""
        random = int.from_bytes(os.urandom(9), "big") & ((1 << 62) - 1)
        stamp = (int(now * 1_000_000) * (1 << 12) // 1000) & ((1 << 60) - 1)  # ms, and 12 bits of a fraction
        value = stamp if stamp > self._last else self._last + 1
        self._last = value
        milliseconds, fraction = value >> 12, value & 0xFFF
        text = f"{(milliseconds << 80) | (7 << 76) | (fraction << 64) | (2 << 62) | random:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
