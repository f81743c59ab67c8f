"""The functions that a drill calls. Each notes in a file when it begins, and when it ends by itself."""

from __future__ import annotations

import os
import time
from random import random

from taskd.drill.runs import BEGUN, ENDED, LIFE, Run, mark_line, open_marks
from taskd.functions.current import current_task
from taskd.functions.decorators import task

__all__ = ["closed", "flaky", "nap", "once", "quick"]

KEEP = 30 * 86400.0
"""Seconds for which ended tasks are kept: longer than any drill, which looks at all of them at its end."""

MOST_FAILURES = 4
"""Attempts of `flaky` of which any may fail. With more, the back-off would outlast a short drill."""

_marks = open_marks()  # once, in the fork server: the workers inherit it
_life = os.environ.get(LIFE, "0.0")

Answer = list[str | int]


def _run(number: int, seconds: float = 0.0, *, may_fail: bool = False) -> Answer:
    present = current_task()
    name = os.urandom(8).hex()
    run = Run(number, present.id or "-", present.attempt, _life, os.getpid(), name, time.time())
    os.write(_marks, mark_line(BEGUN, run, run.begun))
    if seconds:
        time.sleep(seconds)
    fails = may_fail and present.attempt <= MOST_FAILURES and random() < 0.5  # noqa: S311
    os.write(_marks, mark_line(ENDED, run, time.time()))
    if fails:
        raise RuntimeError("this attempt fails, as planned")
    return [number, name]


@task(durable=True, keep=KEEP)
def quick(number: int) -> Answer:
    """Return at once."""
    return _run(number)


@task(durable=True, keep=KEEP)
def nap(number: int, seconds: float) -> Answer:
    """Take some time."""
    return _run(number, seconds)


@task(durable=True, once=True, keep=KEEP)
def once(number: int, seconds: float) -> Answer:
    """Run once at most."""
    return _run(number, seconds)


@task(durable=True, retries=50, backoff=0.05, keep=KEEP)
def flaky(number: int) -> Answer:
    """Fail a few times, and be tried again."""
    return _run(number, may_fail=True)


@task(durable=True, keep=KEEP)
def closed(batch: str, done: int, failed: int, cancelled: int, total: int) -> list[str | int]:
    """Be called at the end of a batch."""
    return [batch, done, failed, cancelled, total]
