"""The subcommand ``taskd retry``: puts back tasks that failed or were set aside."""

from __future__ import annotations

from typing import Any

import click

from taskd.cli.console import json_text
from taskd.cli.options import json_option, server_options
from taskd.cli.running import FAILED, report, run_with_client
from taskd.cli.stored_ids import full_id
from taskd.client import TaskClient
from taskd.errors import InvalidParams, NotAllowed
from taskd.net.reactor import Reactor
from taskd.protocol.method_names import RETRY

__all__ = ["retry"]


@click.command()
@click.argument("tasks", nargs=-1, required=True, metavar="ID...")
@json_option
@server_options
def retry(tasks: tuple[str, ...], server: str, *, as_json: bool) -> None:
    """Put back each task ID that failed or was set aside: it waits again, with all its attempts before it.

    An ID may be shortened to how it begins or ends. The exit status is 1 if any
    of the tasks could not be put back; the others are all the same.
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        answers: list[dict[str, Any]] = []
        for task in tasks:
            try:
                whole = await full_id(client, task)
                was = (await client.request(RETRY, {"task": whole}))["was"]
            except (NotAllowed, InvalidParams) as error:
                report(f"{task}: {error.name}: {error.message}")
                answers.append({"task": task, "error": {"code": error.code, "message": error.message}})
            else:
                answers.append({"task": whole, "was": was})
                if not as_json:
                    click.echo(f"{whole}: was {was.replace('_', ' ')}, waits again")
        if as_json:
            click.echo(json_text(answers))
        if any("error" in answer for answer in answers):
            raise SystemExit(FAILED)

    run_with_client(run, server)
