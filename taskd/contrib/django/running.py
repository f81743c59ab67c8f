"""One attempt at a task of Django, in a worker: its signals, its context, and its connections."""

from __future__ import annotations

from collections.abc import Coroutine
from inspect import iscoroutinefunction
from traceback import format_exception
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache import close_caches
from django.db import close_old_connections, reset_queries
from django.utils import timezone

from taskd.contrib.django.order import Order
from taskd.contrib.django.results import attempts, ordered_task
from taskd.contrib.django.tasks_api import (
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
    task_finished,
    task_started,
)
from taskd.contrib.django.values import json_value, project_time
from taskd.functions.current import current_task

__all__ = ["run"]


def run(order: Order) -> Any:
    """Run a task: return its result as JSON, or, if it is ``async def``, the coroutine that does.

    Old connections are closed before and after, in the thread that uses them, as
    Django does before and after a request. Raises `UnknownTask`, and what the task raises.
    """
    attempt = _Attempt(order)
    if iscoroutinefunction(attempt.task.func):
        return _run_async(attempt)
    _freshen()
    try:
        attempt.begin()
        try:
            value = json_value(attempt.task.func(*attempt.arguments, **order.kwargs))
        except BaseException as error:  # a stop by taskd, too, which the signals must not miss
            attempt.fail(error)
            raise
        attempt.succeed(value)
        return value
    finally:
        _let_go()


async def _run_async(attempt: _Attempt) -> Any:
    # Django's synchronous code, and so its connections, belongs to one thread of the process.
    await sync_to_async(_freshen)()
    try:
        await sync_to_async(attempt.begin)()
        try:
            called: Coroutine[Any, Any, Any] = attempt.task.func(*attempt.arguments, **attempt.order.kwargs)
            value = json_value(await called)
        except BaseException as error:
            await sync_to_async(attempt.fail)(error)
            raise
        await sync_to_async(attempt.succeed)(value)
        return value
    finally:
        await sync_to_async(_let_go)()


class _Attempt:
    """An attempt at a task, and the `TaskResult` that its signals and its context have."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.task = ordered_task(order)
        this = current_task()
        self.result = TaskResult(
            task=self.task,
            id=this.id or "",
            status=TaskResultStatus.READY,
            enqueued_at=project_time(order.enqueued_at),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=order.args,
            kwargs=order.kwargs,
            backend=order.backend,
            errors=[],
            worker_ids=attempts(this.attempt),
        )
        context = (TaskContext(task_result=self.result),) if self.task.takes_context else ()
        self.arguments = (*context, *self.result.args)
        self._sender = type(self.task.get_backend())

    def begin(self) -> None:
        """Note the start, and send Django's signal of it."""
        now = timezone.now()
        self._set(status=TaskResultStatus.RUNNING, started_at=now, last_attempted_at=now)
        task_started.send(sender=self._sender, task_result=self.result)

    def succeed(self, value: Any) -> None:
        """Note the end, and send Django's signal of it."""
        self._set(_return_value=value, finished_at=timezone.now(), status=TaskResultStatus.SUCCESSFUL)
        task_finished.send(sender=self._sender, task_result=self.result)

    def fail(self, error: BaseException) -> None:
        """Note what the attempt has raised, and send Django's signal of its end."""
        kind = type(error)
        path = f"{kind.__module__}.{kind.__qualname__}"
        self.result.errors.append(
            TaskError(exception_class_path=path, traceback="".join(format_exception(error)))
        )
        self._set(finished_at=timezone.now(), status=TaskResultStatus.FAILED)
        task_finished.send(sender=self._sender, task_result=self.result)

    def _set(self, **members: Any) -> None:
        for name, value in members.items():
            object.__setattr__(self.result, name, value)  # it is frozen, as Django has it


def _freshen() -> None:
    reset_queries()
    close_old_connections()


def _let_go() -> None:
    close_old_connections()
    close_caches()
