"""Durable functions whose effects are lines in a file: number, run, begun or ended."""

import os
import random
import time

from taskd import current_task, task

_EFFECTS = os.open(os.environ.get("SOAK_EFFECTS", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
_DAEMON = os.environ.get("SOAK_DAEMON", "0")
"""The number of the daemon of this soak that runs the tasks."""

KEEP = 86400.0

MOST_FAILURES = 10
"""Attempts of which any may fail: with more, the back-off, which doubles, would outlast the soak."""


def _run(number: int, seconds: float) -> list[str | int]:
    run = f"{_DAEMON}-{os.urandom(8).hex()}"
    os.write(_EFFECTS, f"{number} {run} begun\n".encode())
    if seconds:
        time.sleep(seconds)
    os.write(_EFFECTS, f"{number} {run} ended\n".encode())
    return [number, run]


@task(durable=True, keep=KEEP)
def mark(number: int, seconds: float = 0.0) -> list[str | int]:
    return _run(number, seconds)


@task(durable=True, once=True, keep=KEEP)
def mark_once(number: int, seconds: float = 0.0) -> list[str | int]:
    return _run(number, seconds)


@task(durable=True, retries=50, backoff=0.001, keep=KEEP)
def flaky(number: int, seconds: float = 0.0) -> list[str | int]:
    result = _run(number, seconds)
    if random.random() < 0.5 and current_task().attempt < MOST_FAILURES:
        raise RuntimeError("not this time")
    return result


@task(durable=True, keep=KEEP)
def closed(batch: str, done: int, failed: int, cancelled: int, total: int) -> list[str | int]:
    """Be called at the end of a batch."""
    return [batch, done, failed, cancelled, total]


@task(durable=True, keep=0.0)
def brief(number: int, seconds: float = 0.0) -> list[str | int]:
    """Be forgotten soon after the end."""
    return _run(number, seconds)
