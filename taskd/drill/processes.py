"""Processes below another one, from /proc."""

from __future__ import annotations

from pathlib import Path

__all__ = ["children_of", "family_of"]


def children_of(pid: int) -> list[int]:
    """Return the children of a process, none if it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def family_of(pid: int) -> list[int]:
    """Return a process and all those below it, parents first."""
    family = [pid]
    for member in family:  # which grows meanwhile
        family += children_of(member)
    return family
