"""Durable functions that note each run in a table: which were lost, or done twice, is seen there.

`$RECORD` is the URL of the database, `$NODE` the name of the server that runs them. With `$EACH_SECOND` one
is run each second, with the number -1. The table is made by `tests.live.runs`.
A note is repeated while the database cannot be reached, and is there once all the same.
"""

import os
import signal
import time
import uuid
from typing import Any

import psycopg

from taskd import current_task, task

PATIENCE = 60.0
"""Seconds in which the database must be back."""

PAUSE = 0.05
"""Seconds between two attempts to reach it."""

_connection: psycopg.Connection | None = None


def _execute(statement: str, *values: Any) -> None:
    global _connection
    ending = time.monotonic() + PATIENCE
    while True:
        try:
            if _connection is None:
                _connection = psycopg.connect(os.environ["RECORD"], autocommit=True, connect_timeout=5)
            _connection.execute(statement, values)
        except psycopg.OperationalError:
            if _connection is not None:
                _connection.close()
                _connection = None
            if time.monotonic() > ending:
                raise
            time.sleep(PAUSE)
        else:
            return


def _begin(number: int) -> uuid.UUID:
    run, current = uuid.uuid4(), current_task()
    _execute(
        "INSERT INTO run (run, id, attempt, node, pid, number) VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (run) DO NOTHING",
        run, current.id, current.attempt, os.environ.get("NODE"), os.getpid(), number,
    )  # fmt: skip
    return run


def _end(run: uuid.UUID) -> None:
    _execute("UPDATE run SET ended = coalesce(ended, clock_timestamp()) WHERE run = %s", run)


@task(durable=True)
def record(number: int = 0, seconds: float = 0.0) -> int:
    run = _begin(number)
    if seconds:
        time.sleep(seconds)
    _end(run)
    return number


@task(durable=True, once=True)
def record_once(number: int = 0, seconds: float = 0.0) -> int:
    return record(number, seconds)


@task(durable=True)
def record_at(path: str, number: int = 0) -> str:
    """Wait at a FIFO until the test opens and closes it, and return what it wrote."""
    run = _begin(number)
    with open(path) as fifo:
        text = fifo.read()
    _end(run)
    return text


@task(durable=True, retries=3, backoff=0.01)
def record_third_time(number: int = 0) -> int:
    run = _begin(number)
    if current_task().attempt < 3:
        raise RuntimeError("not yet")
    _end(run)
    return number


@task(durable=True)
def record_second_time(number: int = 0) -> int:
    """Kill the process the first time."""
    run = _begin(number)
    if current_task().attempt < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    _end(run)
    return number


@task(durable=True, concurrency=2)
def record_two(number: int = 0, seconds: float = 0.0) -> int:
    return record(number, seconds)


@task(durable=True, concurrency=2, concurrency_key="account")
def record_two_of(account: str, number: int = 0, seconds: float = 0.0) -> int:
    return record(number, seconds)


@task(durable=True, rate="20/s")
def record_at_rate() -> float:
    """Return when it began, by the machine's monotonic clock."""
    return time.monotonic()


@task(durable=True)
def record_alive(seconds: float = 0.0, stubborn: bool = False) -> None:
    """Note again and again, in the first attempt, that the process lives.

    If it is `stubborn`, it ends only with its process.
    """
    run = _begin(0)
    ending = time.monotonic() + (seconds if current_task().attempt < 2 else 0.0)
    while time.monotonic() < ending:
        try:
            _execute("UPDATE run SET alive = clock_timestamp() WHERE run = %s", run)
            time.sleep(PAUSE)
        except BaseException:
            if not stubborn:
                raise
    _end(run)


if "EACH_SECOND" in os.environ:

    @task(durable=True, every=1)
    def record_each_second() -> None:
        _end(_begin(-1))
