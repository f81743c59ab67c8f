"""Generator functions, and functions that ask about their own task."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from taskd import Retry, TaskStopped, current_task, progress, task

MARKS = Path(os.environ.get("MARKS", "/dev/null"))


def _note(text: str) -> None:
    with MARKS.open("a") as file:
        file.write(f"{text}\n")


@task
def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@task
async def async_numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


@task
def endless(text: str) -> Iterator[str]:
    """Yield for ever; note how that ends."""
    try:
        while True:
            yield text
    except (TaskStopped, GeneratorExit) as error:
        _note(type(error).__name__)
        raise
    finally:
        _note("cleaned up")


@task(timeout=0.5)
async def slow() -> AsyncIterator[int]:
    try:
        yield 1
        await asyncio.sleep(60)
    finally:
        _note("cleaned up")


@task
def waiting() -> Iterator[int]:
    try:
        yield 1
        progress(1)
        time.sleep(60)
    finally:
        _note("cleaned up")


@task(durable=True)
def stored_numbers(count: int) -> Iterator[int]:
    yield from range(count)
    return count


@task(durable=True, retries=1)
def long_values(count: int, length: int) -> Iterator[str]:
    for _ in range(count):
        yield "x" * length


@task(durable=True, retries=2, backoff=60, retry_for=KeyError)
def about_itself() -> list[Any]:
    """Die in the first attempt, ask for another one in the second, and describe the task in the third."""
    current = current_task()
    _note(f"{current.id}")
    if current.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if current.attempt == 2:
        raise Retry(after=0.01) from ValueError("no luck")
    return [current.id, current.attempt, current.deadline, current.was_interrupted]


@task(durable=True, retries=2, backoff=60, retry_for=KeyError)
def wrong() -> None:
    raise ValueError("wrong for ever")
