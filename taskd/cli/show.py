"""The subcommand ``taskd show``: prints a stored task with its log and the errors of all its attempts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from taskd.cli.batch_view import batch_lines, batch_text
from taskd.cli.console import duration, json_text, out
from taskd.cli.following import fetch_events
from taskd.cli.options import json_option, server_options
from taskd.cli.progress_view import progress_text
from taskd.cli.running import run_with_client
from taskd.cli.stored_ids import find_target
from taskd.cli.stored_view import error_text, moment, state_text
from taskd.client import TaskClient
from taskd.model import Progress
from taskd.net.reactor import Reactor
from taskd.printable import printable

__all__ = ["event_lines", "show", "task_lines"]

INDENT = " " * 4


@click.command()
@click.argument("task", metavar="ID")
@json_option
@server_options
def show(task: str, server: str, *, as_json: bool) -> None:
    """Show the task ID: its state, its log, and the error of every attempt; or the batch ID.

    The ID may be shortened to how it begins or ends.
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        target, answer = await find_target(client, task)
        events = await fetch_events(client, target)
        if as_json:
            click.echo(json_text({**answer, "events": events}))
            return
        head = task_lines(answer) if target.kind == "task" else batch_lines(answer)
        for line in (*head, *(line for event in events for line in event_lines(event))):
            out.print(line, markup=False, soft_wrap=True)

    run_with_client(run, server)


def task_lines(task: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about a task as a whole."""
    yield f"{task['task']}  {printable(task['function'])}: {state_text(task)}"
    yield f"submitted {moment(task['created'])}"
    if task["state"] == "scheduled":
        yield f"due {moment(task['due'])}"
    if task.get("ended") is not None:
        yield f"ended {moment(task['ended'])}, after {duration(task['ended'] - task['created'])}"
    counts = [_count(task["attempts"], "attempt", "attempts")]
    counts += [
        _count(task[many], one, many) for one, many in (("error", "errors"), ("loss", "losses")) if task[many]
    ]
    yield ", ".join(counts)
    for name in ("key", "batch"):
        if task.get(name) is not None:
            yield f"{name} {printable(str(task[name]))}"
    if "result" in task:
        yield f"result {json_text(task['result'])}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def event_lines(event: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of one event of a log: when, what, and what is known of an attempt that failed."""
    at = datetime.fromtimestamp(event["at"]).astimezone()
    details = _details(event)
    name = str(event["event"]).replace("_", " ")
    yield f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}  {name}{f': {details}' if details else ''}"
    if isinstance(traceback := event.get("traceback"), str):
        for line in printable(traceback).rstrip().splitlines():
            yield INDENT + line
    if isinstance(output := event.get("output"), str):
        yield f"{INDENT}The last of its output:"
        for line in printable(output).splitlines():
            yield INDENT * 2 + line
    if isinstance(memory := event.get("memory"), int):
        yield f"{INDENT}Its process has had {memory / 1024:.0f} MiB resident at most."


def _details(event: dict[str, Any]) -> str:
    """Return what an event has, on one line."""
    kind = event["event"]
    if kind == "started":
        worker = f", worker {event['worker']}" if event.get("worker") is not None else ""
        return f"attempt {event.get('attempt')}{worker}"
    if kind == "progress" and "failed" not in event:
        return progress_text(Progress(event.get("done", 0), event.get("total"), event.get("message")))
    if kind == "partial":
        return json_text(event.get("value"))
    if event.get("total") is not None:
        return batch_text(event)
    details = error_text(event.get("error"))
    if kind == "retrying" and event.get("due") is not None:
        return f"{details}; again at {moment(event['due'])}"
    return details
