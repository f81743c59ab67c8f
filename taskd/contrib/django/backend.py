"""`TaskdBackend`: Django's Tasks on a task server."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from django.utils import timezone

from taskd.contrib.django.clients import ask, client_for, submit
from taskd.contrib.django.options import BackendOptions
from taskd.contrib.django.order import Order, server_priority
from taskd.contrib.django.results import result_of
from taskd.contrib.django.tasks_api import (
    BaseTaskBackend,
    InvalidTask,
    InvalidTaskBackend,
    Task,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from taskd.contrib.django.transactions import submit_within
from taskd.contrib.django.values import aware, json_value
from taskd.errors import InvalidParams

__all__ = ["TaskdBackend"]


class TaskdBackend(BaseTaskBackend):  # type: ignore[misc]  # Django has no types
    """The backend ``taskd.contrib.django.TaskdBackend`` of Django's Tasks.

    With the option ``database`` a task is submitted by that database, in its transaction. Otherwise
    it is accepted once the server has stored it; `enqueue` raises the classes of
    `taskd.errors` if it could not be: `Unreachable` without a server, `Busy` if that has no room.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        try:
            self.checked_options = BackendOptions.of(alias, self.options)
            self._client = client_for(self.checked_options.server, self.checked_options.token)
        except ValueError as error:
            raise InvalidTaskBackend(str(error)) from error

    def enqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """Have the server store a task, and return its result as it is then: ready.

        Raises `InvalidTask` if no worker could find or run the task, `TypeError` or `ValueError` if
        its arguments are not JSON.
        """
        self.validate_task(task)
        _check_findable(task)
        order = Order(
            task=task.module_path,
            args=json_value(list(args)),
            kwargs=json_value(dict(kwargs)),
            backend=self.alias,
            queue_name=task.queue_name,
            priority=task.priority,
            run_after=task.run_after,
            enqueued_at=timezone.now(),
        )
        options = self.checked_options.submit_options()
        options["priority"] = server_priority(task.priority)
        due = None if task.run_after is None else aware(task.run_after)
        database = self.checked_options.database
        if database is not None:
            accepted = submit_within(database, order, at=due, **options)
        else:
            if due is not None:
                options["at"] = due.isoformat()
            accepted = submit(self._client, order, **options)
        result = TaskResult(
            task=task,
            id=accepted,
            status=TaskResultStatus.READY,
            enqueued_at=order.enqueued_at,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=order.args,
            kwargs=order.kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """Return what the server knows of a task now. Raises Django's `TaskResultDoesNotExist`."""
        try:
            view = ask(self._client, "taskd.get", task=result_id, with_args=True)
            events = self._events(result_id) if view["attempts"] or "error" in view else []
        except InvalidParams as error:
            raise TaskResultDoesNotExist(error.message) from error
        return result_of(view, events, self.alias)

    def _events(self, task: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        after = 0
        while page := ask(self._client, "taskd.events", task=task, after=after):
            events += page
            after = page[-1]["seq"]
        return events


def _check_findable(task: Task) -> None:
    """Raise `InvalidTask` if a worker would not find the task by its path."""
    module = sys.modules.get(task.func.__module__)
    found = getattr(module, task.func.__qualname__, None)
    if task.func.__module__ == "__main__" or not isinstance(found, Task) or found.func is not task.func:
        raise InvalidTask(
            f"a worker would not find {task.module_path}: a task is a function of a module "
            "(not of the program itself), and has the name there under which it was defined."
        )
