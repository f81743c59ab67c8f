"""The functions that the measurements call."""

import time

from taskd import task


@task
def echo(value: object) -> object:
    """Return what was given."""
    return value


@task
def nap(seconds: float) -> float:
    """Sleep, as a task does that waits for another server."""
    time.sleep(seconds)
    return seconds
