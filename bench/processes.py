"""What the operating system knows of processes: who belongs together, what they weigh, what they use."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from subprocess import Popen

TICK = os.sysconf("SC_CLK_TCK")
PAUSE = 0.005
"""Seconds between two looks at something that will be there soon."""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, …; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def tree(root: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(path.name))
        if fields and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(path.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def leaves(root: int) -> list[int]:
    """Those of the tree that have no children of their own: the workers."""
    pids = tree(root)
    parents = {int(fields[1]) for pid in pids if (fields := _stat(pid))}
    return [pid for pid in pids if pid not in parents]


def pss_kib(pid: int) -> int:
    """The proportional set size in KiB, which counts once over all what they share; 0 if it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def cpu_seconds(pids: list[int]) -> float:
    """Processor time that processes have used so far."""
    return sum((int(fields[11]) + int(fields[12])) / TICK for pid in pids if (fields := _stat(pid)))


def wait_until_quiet(root: int, patience: float = 90.0) -> None:
    """Wait until a tree of processes is up: for half a second it has used nearly no processor time."""
    ending = time.monotonic() + patience
    while time.monotonic() < ending:
        pids = tree(root)
        before = cpu_seconds(pids)
        time.sleep(0.5)
        if tree(root) == pids and cpu_seconds(pids) - before < 0.05:
            return
    raise TimeoutError("the processes do not come to rest")


def end(process: Popen[bytes], how: signal.Signals = signal.SIGTERM, patience: float = 20.0) -> None:
    """End a child and all that descends from it; what is left after `patience` seconds is killed."""
    family = {pid: _stat(pid)[19:20] for pid in tree(process.pid)}

    def left() -> list[int]:
        process.poll()  # so that it is no zombie
        return [
            pid
            for pid, born in family.items()
            if (now := _stat(pid)) and now[0] != "Z" and now[19:20] == born
        ]

    if process.poll() is None:
        process.send_signal(how)
    ending = time.monotonic() + patience
    while left() and time.monotonic() < ending:
        time.sleep(PAUSE)
    for pid in left():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def wait_for_port(port: int, process: Popen[bytes], patience: float = 60.0) -> None:
    """Wait until somebody listens there. Raises `TimeoutError`, at once where the process has ended."""
    ending = time.monotonic() + patience
    while time.monotonic() < ending and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(PAUSE)
    raise TimeoutError(f"nobody listens on port {port}")
