"""Detecting kills by the kernel's out-of-memory killer."""

from __future__ import annotations

from pathlib import Path

__all__ = ["OomWatch"]


class OomWatch:
    """A watch on the kills of the kernel's out-of-memory killer.

    The killer leaves no mark on a killed process, but the kernel counts kills, for
    the whole machine and all its cgroups, in ``oom_kill`` of /proc/vmstat (since
    Linux 4.13). A kill elsewhere on the machine may be mistaken for a worker's.
    """

    def __init__(self, vmstat: Path = Path("/proc/vmstat")) -> None:
        self._vmstat = vmstat
        self._seen = self._read()

    def has_struck(self) -> bool | None:
        """Return whether a kill has happened that was not returned before; None if that is unknown."""
        count = self._read()
        if count is None or self._seen is None:
            return None
        if count <= self._seen:
            return False
        self._seen += 1  # one for each call, since several processes may have been killed
        return True

    def _read(self) -> int | None:
        try:
            for line in self._vmstat.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        except (OSError, ValueError):
            pass
        return None
