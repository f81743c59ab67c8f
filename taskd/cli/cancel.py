"""The subcommand ``taskd cancel``: cancels tasks by their numbers or their ids."""

from __future__ import annotations

from typing import Any

import click

from taskd.cli.console import json_text
from taskd.cli.options import json_option, server_options
from taskd.cli.running import FAILED, fail, run_with_client
from taskd.cli.stored_ids import full_id
from taskd.client import TaskClient
from taskd.errors import NotAllowed
from taskd.net.reactor import Reactor
from taskd.protocol.method_names import CANCEL

__all__ = ["cancel"]


@click.command()
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@json_option
@server_options
def cancel(tasks: tuple[str, ...], server: str, *, as_json: bool) -> None:
    """Cancel each TASK: a number, as `taskd status` and the log show it, or the id of a stored task or batch.

    A number needs the address of the task server itself (`--server`): a gateway
    (`--via`) lets nobody cancel the tasks of others by it. An id may be shortened
    to how it begins or ends, unless that is digits alone. A task that runs is
    interrupted, and killed if it does not end within its grace. The exit status
    is 1 if any task was not in flight (any more).
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        named = [await _named(client, task) for task in tasks]
        requests = [client.request(CANCEL, {"task": task}) for task in named]
        try:
            answers = [(task, await request) for task, request in zip(named, requests, strict=True)]
        except NotAllowed as error:
            numbers = " ".join(tasks)
            fail(f"{error.name}: {error.message}, as with: taskd cancel {numbers} --server ADDRESS")
        if as_json:
            click.echo(json_text([{"task": task, **answer} for task, answer in answers]))
        for task, answer in () if as_json else answers:
            click.echo(f"{f'#{task}' if isinstance(task, int) else task}: {_describe(answer)}")
        if any(answer["was"] == "done" for _, answer in answers):
            raise SystemExit(FAILED)

    run_with_client(run, server)


async def _named(client: TaskClient, task: str) -> int | str:
    """Return the number, or the whole id, that a text on the command line names."""
    if task.isascii() and task.isdecimal():
        if int(task) == 0:
            raise ValueError("tasks are numbered from 1")
        return int(task)
    return await full_id(client, task)


def _describe(answer: dict[str, Any]) -> str:
    was = answer["was"]
    if was == "running" and "killed" in answer:
        how = "killed" if answer["killed"] else "stopped"
        return f"was running, {how} after {answer['stopped_after']:.1f} s"
    return "is not in flight" if was == "done" else f"was {was}"
