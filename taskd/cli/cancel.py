"""The subcommand ``taskd cancel``: cancels tasks by their numbers."""

from __future__ import annotations

from typing import Any

import click

from taskd.cli.options import server_options
from taskd.cli.running import FAILED, fail, run_with_client
from taskd.client import TaskClient
from taskd.errors import NotAllowed
from taskd.net.reactor import Reactor
from taskd.protocol.methods import CANCEL

__all__ = ["cancel"]


@click.command()
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...", type=click.IntRange(1))
@server_options
def cancel(tasks: tuple[int, ...], server: str) -> None:
    """Cancel each TASK: a number, as `taskd status` and the log show it.

    This needs the address of the task server itself (`--server`): a gateway
    (`--via`) lets nobody cancel the tasks of others. A task that runs is
    interrupted, and killed if it does not end within its grace. The exit status
    is 1 if any task was not in flight (any more).
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        requests = [client.request(CANCEL, {"task": task}) for task in tasks]
        try:
            answers = [(task, await request) for task, request in zip(tasks, requests, strict=True)]
        except NotAllowed as error:
            numbers = " ".join(map(str, tasks))
            fail(f"{error.name}: {error.message}, as with: taskd cancel {numbers} --server ADDRESS")
        for task, answer in answers:
            click.echo(f"#{task}: {_describe(answer)}")
        if any(answer["was"] == "done" for _, answer in answers):
            raise SystemExit(FAILED)

    run_with_client(run, server)


def _describe(answer: dict[str, Any]) -> str:
    if answer["was"] == "running":
        how = "killed" if answer["killed"] else "stopped"
        return f"was running, {how} after {answer['stopped_after']:.1f} s"
    return "was waiting" if answer["was"] == "waiting" else "is not in flight"
