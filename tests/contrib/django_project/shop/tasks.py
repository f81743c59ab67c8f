"""The tasks."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from shop.models import Note
from taskd import Retry

try:
    from django.tasks import signals, task
except ImportError:
    from django_tasks import signals, task

__all__ = ["signals", "task"]


class OutOfPaper(Exception):
    """The printer's fault."""


def plain() -> str:
    """Be a function that is no task."""
    return "ran"


def _other_name() -> None: ...


renamed = task(_other_name)


@task
def add(a: int, b: int = 0) -> int:
    return a + b


@task
def enqueue_add(a: int) -> str:
    return add.enqueue(a, b=2).id


@task
def echo(value: Any) -> Any:
    return value


@task
def result_of_a_type_that_json_lacks() -> object:
    return {1, 2}


@task
def result_that_is_no_number() -> float:
    return float("nan")


@task(queue_name="mail", priority=10)
def print_invoice(number: int) -> None:
    raise OutOfPaper(f"invoice {number}")


@task(takes_context=True)
def describe(context: Any, word: str) -> list[Any]:
    result = context.task_result
    return [word, context.attempt, result.id, str(result.status), result.task.queue_name, result.args]


@task(takes_context=True, backend="stubborn")
def fails_once(context: Any) -> int:
    if context.attempt == 1:
        raise OutOfPaper("the first time")
    return context.attempt


@task(takes_context=True, backend="stubborn")
def asks_for_another_attempt(context: Any) -> int:
    if context.attempt == 1:
        raise Retry("not yet", after=0)
    return context.attempt


@task(takes_context=True)
async def add_async(context: Any, a: int) -> list[Any]:
    await asyncio.sleep(0)
    count = await Note.objects.filter(key=context.task_result.id, text__startswith="started").acount()
    return [a, context.attempt, count]


@task
async def fail_async() -> None:
    raise OutOfPaper("async")


@task(backend="hasty")
def take_long() -> None:
    time.sleep(60)


@task(backend="hasty")
async def take_long_async() -> None:
    await asyncio.sleep(60)


@task
def end_the_process() -> None:
    os._exit(3)


@task
def wait_for(path: str) -> str:
    """Wait at a FIFO until somebody has opened it, written, and closed it."""
    return Path(path).read_text()


@task
def append(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


@task
def connection(alias: str) -> list[Any]:
    """Return whether the connection was open when the task began, and the process."""
    return _use(alias)


@task
async def connection_async(alias: str) -> list[Any]:
    return await sync_to_async(_use)(alias)


def _use(alias: str) -> list[Any]:
    database = connections[alias]
    was_open = database.connection is not None
    database.ensure_connection()
    return [was_open, os.getpid()]


@task
def leave_a_broken_transaction() -> None:
    with transaction.atomic():
        Note.objects.create(key="broken", text="never there")
        raise OutOfPaper("in a transaction")


@task
def backend_pid(alias: str) -> int:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]
