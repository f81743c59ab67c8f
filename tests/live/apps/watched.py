"""Durable functions whose progress the tests make."""

import time
from collections.abc import Iterator

from taskd import progress, task


@task(durable=True)
def steps(fifo: str) -> int:
    """Report each number that comes through a FIFO, and return the last one at the line "end"."""
    number = 0
    with open(fifo) as lines:
        for line in lines:
            if line == "end\n":
                break
            number = int(line)
            progress(number, 100)
    return number


@task(durable=True)
def long_text(size: int) -> str:
    return "x" * size


@task(durable=True)
def busy(reports: int, seconds: float) -> int:
    for number in range(reports):
        progress(number, reports)
        time.sleep(seconds)
    return reports


@task(durable=True)
def report() -> Iterator[str]:
    """Write a chapter for each line that comes through the FIFO "chapters", up to the line "end"."""
    with open("chapters") as lines:
        for number, line in enumerate(lines, 1):
            if line == "end\n":
                break
            progress(number, 10)
            yield f"Chapter {line.strip()}"
