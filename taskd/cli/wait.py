"""The subcommand ``taskd wait``: waits for the end of a stored task, and prints its result."""

from __future__ import annotations

import os
from typing import Any

import click

from taskd.cli.console import json_text
from taskd.cli.options import json_option, server_options
from taskd.cli.running import FAILED, fail, run_with_client
from taskd.cli.stored_ids import full_id
from taskd.cli.stored_view import state_text
from taskd.client import TaskClient
from taskd.errors import exception_for
from taskd.net.reactor import Reactor
from taskd.protocol.stored_methods import WAIT

__all__ = ["NOT_YET", "print_end", "wait", "why_ended"]

NOT_YET = os.EX_TEMPFAIL
"""The exit status if the task has not ended within the time that was given."""

_UNFINISHED = ("scheduled", "waiting", "running")


@click.command()
@click.argument("task", metavar="ID")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Wait no longer than that.")
@json_option
@server_options
def wait(task: str, timeout: float | None, server: str, *, as_json: bool) -> None:
    """Wait until the task ID has ended, and print its result as JSON.

    The ID may be shortened to how it begins or ends. The exit status is 1 if the
    task has not succeeded, and 75 if it has not ended within the timeout.
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        request: dict[str, Any] = {"task": await full_id(client, task)}
        if timeout is not None:
            request["timeout"] = timeout
        answer = await client.request(WAIT, request)
        print_end(answer, as_json=as_json)

    run_with_client(run, server)


def print_end(answer: dict[str, Any], *, as_json: bool) -> None:
    """Print how a task has ended: its result on stdout, anything else on stderr. Exit unless it succeeded."""
    is_unfinished = answer["state"] in _UNFINISHED
    if as_json:
        click.echo(json_text(answer))
        if answer["state"] != "succeeded":
            raise SystemExit(NOT_YET if is_unfinished else FAILED)
        return
    if answer["state"] == "succeeded":
        click.echo(json_text(answer.get("result")))
        return
    if is_unfinished:
        fail(f"the task has not ended yet: it is {state_text(answer)}", NOT_YET)
    fail(why_ended(answer))


def why_ended(answer: dict[str, Any]) -> str:
    """Return why a task has not succeeded: ``task failed: ValueError: no paper``."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return f"the task is {state_text(answer)}"
    exception = exception_for(error["code"], error["message"], error.get("data"))
    aside = "the task is set aside: " if answer["state"] == "set_aside" else ""
    return f"{aside}{exception.name}: {exception.message}"
