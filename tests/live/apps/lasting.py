"""Durable functions, whose effects are lines in a file."""

import os
import signal
import time
from pathlib import Path

from taskd import task

MARKS = Path(os.environ.get("MARKS", "/dev/null"))


def _note(number: int) -> None:
    with MARKS.open("a") as file:
        file.write(f"{number}\n")


@task(durable=True)
def mark(number: int, seconds: float = 0.0) -> int:
    if seconds:
        time.sleep(seconds)
    _note(number)
    return number


@task(durable=True, retries=3, backoff=0.01)
def third_time(number: int) -> str:
    _note(number)
    if MARKS.read_text().count(f"{number}\n") < 3:
        raise RuntimeError("not yet")
    return "done"


@task(durable=True)
def poison() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(durable=True, once=True)
def poison_once() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task
def plain(number: int) -> int:
    _note(number)
    return number


@task(durable=True)
def count(batch: str, done: int, failed: int, cancelled: int, total: int) -> list[int]:
    _note(-1)
    return [done, failed, cancelled, total]
