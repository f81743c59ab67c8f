"""A report that takes a while, for the page beside this file."""

from __future__ import annotations

import time
from collections.abc import Iterator

from taskd import progress, task


@task(durable=True)
def report(chapters: int = 10) -> Iterator[str]:
    """Write a report; each chapter is shown as soon as it is written."""
    for number in range(1, chapters + 1):
        time.sleep(1)
        progress(number, chapters)
        yield f"Chapter {number}"
