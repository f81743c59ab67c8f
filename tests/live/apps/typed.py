"""Functions that clients are given themselves, with their types."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

from taskd import progress, task


@task
def report(pages: int, paper: str = "A4", *, color: bool = False) -> str:
    """Describe a report."""
    return f"{pages} pages of {paper}{' in color' if color else ''}"


@task(name="text.length")
async def length(text: str) -> int:
    await asyncio.sleep(0)
    return len(text)


@task
def squares(upto: int) -> Iterator[int]:
    for number in range(upto):
        yield number * number


@task
async def halves(upto: int) -> AsyncIterator[float]:
    for number in range(upto):
        yield number / 2


@task
def sent(from_: str) -> str:
    return from_


@task
def slow(seconds: float, mark: str = "") -> float:
    """Sleep, and leave the text `cancelled` in a file if it is interrupted."""
    try:
        time.sleep(seconds)
    except BaseException:
        if mark:
            with open(mark, "w") as file:
                file.write("cancelled")
        raise
    return seconds


@task
def steps(number: int, seconds: float = 0.0) -> int:
    for step in range(number):
        progress(step + 1, number)
        time.sleep(seconds)
    return number


@task
def fail(text: str = "no paper") -> None:
    raise ValueError(text)


def unregistered() -> None:
    """Be no task."""


@task
def steps_until_cancelled(mark: str) -> None:
    """Report progress until it is cancelled, and write that into a file."""
    number = 0
    try:
        while True:
            progress(number := number + 1)
            time.sleep(0.05)
    finally:
        with open(mark, "w") as file:
            file.write("cancelled")


@task
def enter(path: str, mark: str = "") -> str:
    """Wait until the test has opened this FIFO for writing and closed it; do nothing without one.

    The text `cancelled` is left in the file `mark` if that is interrupted.
    """
    if not path:
        return ""
    try:
        with open(path) as fifo:
            return fifo.read()
    except BaseException:
        if mark:
            with open(mark, "w") as file:
                file.write("cancelled")
        raise
