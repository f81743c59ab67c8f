"""Durable functions that settle their own tasks, in a transaction that also writes a row."""

import os
import time
from typing import Any

import psycopg

from taskd import task
from taskd.contrib.postgres import settle, submit


def _connect() -> Any:
    return psycopg.connect(os.environ["RECORD"])


@task(durable=True)
def pay(number: int, seconds: float = 0.0, fail: bool = False) -> str:
    with _connect() as connection:
        connection.execute("INSERT INTO paid (number) VALUES (%s)", [number])
        settle(connection, {"paid": number})
    time.sleep(seconds)
    if fail:
        raise RuntimeError("after the commit")
    return "not this"


@task(durable=True, retries=1, backoff=0.01)
def pay_at_the_second_attempt(number: int) -> None:
    from taskd import current_task

    with _connect() as connection:
        connection.execute("INSERT INTO paid (number) VALUES (%s)", [number])
        settle(connection)
        if current_task().attempt == 1:
            raise RuntimeError("before the commit")


@task(durable=True)
def pay_late(path: str) -> None:
    """Wait at a FIFO between the settle and the commit."""
    with _connect() as connection:
        connection.execute("INSERT INTO paid (number) VALUES (0)")
        with open(path) as fifo:
            fifo.read()
        settle(connection)


@task(durable=True, keep=7.0, concurrency=1, concurrency_key="user")
def serve(user: str) -> str:
    return f"served {user}"


@task(durable=True)
def hand_over(number: int) -> None:
    """Submit the next task with the row, and be done with both."""
    with _connect() as connection:
        connection.execute("INSERT INTO paid (number) VALUES (%s)", [number])
        submit(connection, pay, [number + 1])
        settle(connection)
