"""The server's knowledge of a task, as Django's `TaskResult`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from taskd.client.answers import task_result
from taskd.contrib.django.lookup import UnknownTask, find_task
from taskd.contrib.django.order import FUNCTION, Order
from taskd.contrib.django.tasks_api import (
    Task,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
)
from taskd.contrib.django.values import project_time
from taskd.errors import TaskdError, TaskFailed, exception_for

__all__ = ["attempts", "ordered_task", "result_of"]

_STATUS = {
    "scheduled": TaskResultStatus.READY,
    "waiting": TaskResultStatus.READY,
    "running": TaskResultStatus.RUNNING,
    "succeeded": TaskResultStatus.SUCCESSFUL,
    "failed": TaskResultStatus.FAILED,
    "cancelled": TaskResultStatus.FAILED,
    "expired": TaskResultStatus.FAILED,
    "set_aside": TaskResultStatus.FAILED,
}


def result_of(view: Mapping[str, Any], events: Iterable[Mapping[str, Any]], alias: str) -> TaskResult:
    """Return the result of a task, of the answers to ``taskd.get`` and ``taskd.events``.

    `alias` is the backend that was asked. Raises Django's `TaskResultDoesNotExist` if the task is none of
    Django's, or is not in the code of this process.
    """
    if view["function"] != FUNCTION:
        raise TaskResultDoesNotExist(f"{view['task']} is a task of {view['function']}, not of Django")
    try:
        order = msgspec.convert(view["args"], Order)
        task = ordered_task(order)
    except (msgspec.ValidationError, UnknownTask) as error:
        raise TaskResultDoesNotExist(f"{view['task']}: {error}") from error
    events = list(events)
    starts = [each["at"] for each in events if each["event"] == "started"]
    result = TaskResult(
        task=task,
        id=view["task"],
        status=_STATUS[view["state"]],
        enqueued_at=project_time(order.enqueued_at) or _moment(view["created"]),
        started_at=_moment(starts[0]) if starts else None,
        last_attempted_at=_moment(starts[-1]) if starts else None,
        finished_at=_moment(view.get("ended")),
        args=order.args,
        kwargs=order.kwargs,
        backend=alias,
        errors=_errors(view, events),
        worker_ids=attempts(len(starts)),
    )
    object.__setattr__(result, "_return_value", view.get("result"))
    return result


def ordered_task(order: Order) -> Task:
    """Return the task that was enqueued, with its settings then. Raises `UnknownTask`."""
    return find_task(order.task).using(
        priority=order.priority,
        queue_name=order.queue_name,
        backend=order.backend,
        run_after=project_time(order.run_after),
    )


def attempts(count: int) -> list[str]:
    """Return the ``worker_ids`` after so many attempts: Django counts these by them.

    The server remembers when an attempt began, not which of its processes had it.
    """
    return [f"attempt {number}" for number in range(1, count + 1)]


def _errors(view: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> list[TaskError]:
    """Return the errors of a task's attempts, and, if it was ended without one, the reason for that."""
    failed = [each for each in events if "error" in each]
    errors = [_error_of_attempt(each["error"], each.get("traceback")) for each in failed]
    if _STATUS[view["state"]] == TaskResultStatus.FAILED and all(
        each["event"] != view["state"] for each in failed
    ):
        try:
            task_result(view)
        except TaskdError as error:
            errors.append(_task_error(error, error.message))
    return errors


def _error_of_attempt(error: Mapping[str, Any], traceback: str | None) -> TaskError:
    """Return the error of an attempt. Its class is the task's own, or, if the task did not raise, taskd's."""
    text = traceback or error["message"]
    data = error.get("data")
    if error["code"] == TaskFailed.code and isinstance(data, dict) and "type" in data:
        name = str(data["type"])
        return TaskError(exception_class_path=name if "." in name else f"builtins.{name}", traceback=text)
    return _task_error(exception_for(error["code"], error["message"], data), text)


def _task_error(error: TaskdError, text: str) -> TaskError:
    kind = type(error)
    return TaskError(exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback=text)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else project_time(datetime.fromtimestamp(seconds, UTC))
