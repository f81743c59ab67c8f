"""Whether the kernel has killed a process for lack of memory."""

from __future__ import annotations

from pathlib import Path

__all__ = ["OomWatch"]


class OomWatch:
    """Counts what the kernel's out-of-memory killer has done.

    It leaves no mark on the process that it kills, but it counts, for the
    whole machine and all its cgroups, in ``oom_kill`` of /proc/vmstat (since
    Linux 4.13). A kill elsewhere on the machine may be taken for one of ours.
    """

    def __init__(self, vmstat: Path = Path("/proc/vmstat")) -> None:
        self._vmstat = vmstat
        self._seen = self._read()

    def has_struck(self) -> bool | None:
        """Whether it has killed one process more than was told before; None where that cannot be known."""
        count = self._read()
        if count is None or self._seen is None:
            return None
        if count <= self._seen:
            return False
        self._seen += 1  # one for each process that is asked about: it may have taken several
        return True

    def _read(self) -> int | None:
        try:
            for line in self._vmstat.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        except (OSError, ValueError):
            pass
        return None
