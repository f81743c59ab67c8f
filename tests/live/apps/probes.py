"""Functions that show what a task can see and do; served together with those of `plain`."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from taskd import progress, task


def stand_at(path: str) -> str:
    """Wait until the test opens and closes this FIFO, and return what it wrote."""
    with open(path) as fifo:
        return fifo.read()


@task
def pass_on(path: str, target: str) -> None:
    """Wait at one FIFO, then write what it received into another."""
    text = stand_at(path)
    with open(target, "w") as fifo:
        fifo.write(text)


@task
def drop_into(target: str, text: str = "") -> None:
    with open(target, "w") as fifo:
        fifo.write(text)


@task
def report_and_stand(path: str) -> None:
    """Report twice in a row, and then nothing for a long time."""
    progress(1, 2)
    progress(2, 2, "both")
    stand_at(path)


@task
def sleeper_and_stand(path: str) -> int:
    """Start a child process, and wait while it lives."""
    child = subprocess.Popen(["sleep", "600"])
    stand_at(path)
    child.kill()
    return child.wait()


@task
def write_and_stand(path: str, text: str) -> None:
    """Print, and keep running."""
    print(text, flush=True)
    stand_at(path)


@task
def describe(path: str) -> dict:
    """Wait at a FIFO, and then describe this worker."""
    drawn = random.random()
    stand_at(path)
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "pid": os.getpid(),
        "group": os.getpgrp(),
        "stdin": os.readlink("/proc/self/fd/0"),
        "oom": Path("/proc/self/oom_score_adj").read_text().strip(),
        "random": drawn,
        "caught": int(status["SigCgt"], 16),
        "blocked": int(status["SigBlk"], 16),
        "ignored": sorted(
            number.name for number in signal.Signals if int(status["SigIgn"], 16) >> (number - 1) & 1
        ),
        "files": sorted(
            os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if is_open(fd)
        ),
        "twisted": any(name.partition(".")[0] == "twisted" for name in sys.modules),
    }


def is_open(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


@task
def total(numbers: list[int], *, times: int = 1) -> int:
    return sum(numbers) * times


@task
async def async_boom() -> None:
    raise KeyError("async")


@task
def odd(kind: str) -> object:
    """Return a result that JSON cannot express, or that is hard to encode."""
    itself: list = []
    itself.append(itself)
    return {
        "set of objects": {object()},
        "lone surrogate": "\ud800",
        "itself": itself,
        "complex": 1j,
        "module": sys,
    }[kind]
