"""The subcommand ``taskd wait``: waits for the end of a stored task, and prints its result."""

from __future__ import annotations

import os
from typing import Any

import click

from taskd.cli.batch_view import batch_text
from taskd.cli.console import json_text, out
from taskd.cli.following import wait_for_end
from taskd.cli.options import json_option, server_options
from taskd.cli.running import FAILED, fail, report, run_with_client
from taskd.cli.stored_ids import find_target
from taskd.cli.stored_view import state_text
from taskd.client import TaskClient
from taskd.errors import exception_for
from taskd.net.reactor import Reactor

__all__ = ["NOT_YET", "is_over", "print_end", "wait", "why_ended"]

NOT_YET = os.EX_TEMPFAIL
"""The exit status if the task has not ended within the time that was given."""

_UNFINISHED = ("scheduled", "waiting", "running")


@click.command()
@click.argument("task", metavar="ID")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Wait no longer than that.")
@json_option
@server_options
def wait(task: str, timeout: float | None, server: str, *, as_json: bool) -> None:
    """Wait until the task ID has ended, and print its result as JSON; or until the batch ID has ended.

    The ID may be shortened to how it begins or ends. The exit status is 1
    if it has not succeeded, and 75 if it has not ended within the timeout. If the
    server is restarted meanwhile, this goes on when it is back.
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:
        target, answer = await find_target(client, task)
        if not is_over(answer):
            answer = await wait_for_end(reactor, client, target, timeout, _lost)
        print_end(answer, as_json=as_json)

    run_with_client(run, server)


def _lost(why: str) -> None:
    report(f"{why}; waiting for the server")


def is_over(answer: dict[str, Any]) -> bool:
    """Return whether a task or a batch has ended."""
    return answer["state"] not in _UNFINISHED


def print_end(answer: dict[str, Any], *, as_json: bool) -> None:
    """Print how a task or a batch has ended: a result on stdout, anything else on stderr.

    Raises `SystemExit` unless it has succeeded.
    """
    has_succeeded = answer["state"] == "succeeded"
    if as_json:
        click.echo(json_text(answer))
    elif "batch" in answer and "task" not in answer:
        out.print(batch_text(answer), markup=False, soft_wrap=True)
    elif has_succeeded:
        click.echo(json_text(answer.get("result")))
    elif is_over(answer):
        fail(why_ended(answer))
    if not is_over(answer):
        if not as_json:
            report(f"it has not ended yet: it is {state_text(answer)}")
        raise SystemExit(NOT_YET)
    if not has_succeeded:
        raise SystemExit(FAILED)


def why_ended(answer: dict[str, Any]) -> str:
    """Return why a task has not succeeded: ``task failed: ValueError: no paper``."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return f"the task is {state_text(answer)}"
    exception = exception_for(error["code"], error["message"], error.get("data"))
    aside = "the task is set aside: " if answer["state"] == "set_aside" else ""
    return f"{aside}{exception.name}: {exception.message}"
