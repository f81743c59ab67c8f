"""The errors of SQLite: their meaning, and what can be done."""

from __future__ import annotations

import sqlite3

__all__ = ["explained"]

_ADVICE = {
    "NOTADB": "it is no SQLite file; name another file",
    "CORRUPT": "it is damaged: see `taskd store check`, or restore a copy",
    "FULL": "the disk is full",
    "READONLY": "the file or its directory is read-only",
    "CANTOPEN": "its directory must exist, and be writable",
    "IOERR": "the disk reports an error",
    "BUSY": "another program has locked it for writing",
}


def explained(error: sqlite3.Error) -> str:
    """Return an error of SQLite with what it means, or what to do."""
    text = str(error)
    advice = _ADVICE.get(getattr(error, "sqlite_errorname", "").removeprefix("SQLITE_").split("_")[0])
    return f"{text} ({advice})" if advice else text
