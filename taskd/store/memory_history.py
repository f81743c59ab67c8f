"""The history of a store in memory."""

from __future__ import annotations

from collections.abc import Sequence

from taskd.store.history import ALL, KEPT_SECONDS, Figures, HistoryRow

__all__ = ["MemoryHistory"]

MAX_ROWS = 50_000
"""Rows that are kept, some 600 bytes each: with few functions that is all of them."""


class MemoryHistory:
    """Keeps the history in dictionaries. Implements `taskd.store.history.HistoryStore`."""

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        self._rows: dict[int, dict[tuple[int, str], Figures]] = {seconds: {} for seconds in KEPT_SECONDS}

    def add(self, rows: Sequence[HistoryRow], now: float) -> None:
        """Add figures, and forget what is too old or too much."""
        for row in rows:
            kept, key = self._rows[row.seconds], (row.at, row.function)
            known = kept.get(key)
            kept[key] = row.figures if known is None else known + row.figures
        for seconds, kept in self._rows.items():
            self._rows[seconds] = {
                key: figures for key, figures in kept.items() if key[0] >= now - KEPT_SECONDS[seconds]
            }
        while sum(map(len, self._rows.values())) > self._max_rows:
            largest = max(self._rows.values(), key=len)
            oldest = min(at for at, _ in largest)
            for key in [key for key in largest if key[0] == oldest]:
                del largest[key]

    def read(self, seconds: int, function: str | None, since: float, limit: int) -> list[HistoryRow]:
        """Return rows, the oldest first."""
        kept = self._rows[seconds]
        found = sorted(
            key
            for key in kept
            if key[0] >= since and (key[1] == function if function is not None else key[1] != ALL)
        )
        return [HistoryRow(seconds, *key, kept[key]) for key in found[-limit:]]

    def all(self) -> list[HistoryRow]:
        """Return all rows, by the length of their periods, their times and their functions."""
        return [
            HistoryRow(seconds, *key, kept[key])
            for seconds, kept in sorted(self._rows.items())
            for key in sorted(kept)
        ]

    def restore(self, row: HistoryRow) -> bool:
        """Keep a row, unless there is one of its period and function; return whether there was none."""
        kept, key = self._rows[row.seconds], (row.at, row.function)
        is_new = key not in kept
        if is_new:
            kept[key] = row.figures
        return is_new
