"""The functions that the measurements call."""

import time

from taskd import task


@task
def echo(value: object) -> object:
    """Return what was given."""
    return value


@task
def nap(number: int, seconds: float) -> int:
    """Sleep, as a task does that waits for another server, and return the number that was given."""
    time.sleep(seconds)
    return number
