"""The subcommand ``taskd why``: says what holds up a stored task."""

from __future__ import annotations

import click

from taskd.cli.console import json_text, out
from taskd.cli.options import json_option, server_options
from taskd.cli.running import run_with_client
from taskd.cli.stored_ids import full_id
from taskd.cli.stored_view import state_text
from taskd.client import TaskClient
from taskd.net.reactor import Reactor
from taskd.printable import printable
from taskd.protocol.method_names import WHY

__all__ = ["why"]


@click.command()
@click.argument("task", metavar="ID")
@json_option
@server_options
def why(task: str, server: str, *, as_json: bool) -> None:
    """Show what exactly keeps the task ID from being started.

    The ID may be shortened to how it begins or ends.
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        answer = await client.request(WHY, {"task": await full_id(client, task)})
        if as_json:
            click.echo(json_text(answer))
        else:
            out.print(f"{state_text(answer)}: {printable(answer['reason'])}", markup=False, soft_wrap=True)

    run_with_client(run, server)
