"""The tasks of the soak: most are short, and some misbehave.

The soak copies this file, with another `VERSION` for each reload, and breaks the copy for a moment if a
reload should fail.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import time

from taskd import TaskStopped, progress, task

VERSION = 0

GRACE = 0.3
"""Grace, in seconds, of a task that only a kill ends."""

FOR_EVER = 600.0
"""Seconds: far longer than any limit that the soak sets."""

MIB = 1024 * 1024

_hoard: list[bytearray] = []

# Opened here, once: all workers inherit the file, and append numbers to it.
_marks = os.open(os.environ["SOAK_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@task
def echo(value: object = None) -> object:
    return value


@task
def mark(number: int, seconds: float = 0.0) -> int:
    """Append a number to the file, which shows what was run, and how often."""
    os.write(_marks, number.to_bytes(8, "little"))
    if seconds:
        time.sleep(seconds)
    return number


@task
def version() -> int:
    return VERSION


@task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task
async def nap_async(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@task
def typed(count: int, names: list[str]) -> int:
    return count * len(names)


@task
def boom(message: str) -> None:
    raise ValueError(message)


@task
def steps(count: int) -> int:
    """Report progress faster than it is sent."""
    for number in range(count):
        progress(number + 1, count, f"step {number}")
        time.sleep(0.001)
    return count


@task
def say(text: str, lines: int) -> int:
    for number in range(lines):
        print(text, number)
    return lines


@task
def big(size: int) -> str:
    return "x" * size


@task
def stay() -> None:
    """Wait until the end of the connection cancels this."""
    time.sleep(FOR_EVER)


# --- over their time ---------------------------------------------------------


@task
def save() -> str:
    """Catch the time limit, and return a value."""
    try:
        time.sleep(FOR_EVER)
    except TaskStopped:
        time.sleep(0.01)
    return "saved"


@task(grace=GRACE)
def deaf() -> None:
    """Swallow every exception."""
    while True:
        try:  # noqa: SIM105
            time.sleep(FOR_EVER)
        except:  # noqa: E722
            pass


@task(grace=GRACE)
def deaf_to_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deaf()


@task
def spin() -> None:
    while True:
        pass


# --- memory ------------------------------------------------------------------


@task
def hog(mib: int) -> int:
    """Keep memory for good."""
    _hoard.append(bytearray(b"x") * (mib * MIB))
    return mib


@task
def glutton(mib: int) -> int:
    """Allocate more memory than is allowed."""
    return len(bytearray(mib * MIB))


# --- processes ---------------------------------------------------------------


@task
def litter() -> None:
    """Leave a child process behind."""
    subprocess.Popen(["sleep", str(FOR_EVER)])


@task
def vanish(number: int) -> None:
    mark(number)
    os._exit(7)


@task
def kill_itself(number: int) -> None:
    mark(number)
    os.kill(os.getpid(), signal.SIGKILL)


@task
def segfault(number: int) -> None:
    mark(number)
    ctypes.string_at(0)


# --- for the attackers -------------------------------------------------------


@task
def size(value: object) -> int:
    return len(str(value))


@task
def chatter(count: int, length: int) -> int:
    """Report long messages."""
    for number in range(count):
        progress(number + 1, count, "x" * length)
        time.sleep(0.01)
    return count


@task
def never() -> None:
    """Do nothing: nobody who is allowed to calls this."""
