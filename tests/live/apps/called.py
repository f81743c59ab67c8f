"""Functions for clients in other languages: of each kind one."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taskd import progress, task


@task
def echo(value: Any, from_: str = "") -> list[Any]:
    return [value, from_]


@task
def report(pages: int) -> int:
    for page in range(1, pages + 1):
        progress(page, pages, f"page {page}")
        time.sleep(0.06)  # reports that come faster replace each other
    return pages


@task
def linger(path: str) -> None:
    """Make a file, and wait to be cancelled."""
    Path(path).touch()
    time.sleep(600)


@task(durable=True)
def chapters(count: int) -> Iterator[str]:
    for number in range(1, count + 1):
        yield f"Chapter {number}"


@task(durable=True)
def fail_once(path: str) -> str:
    file = Path(path)
    if not file.exists():
        file.touch()
        raise ValueError("the first time")
    return "done"


@task(durable=True)
def last_in_batch(batch: str, done: int, failed: int, cancelled: int, total: int) -> int:
    return total
