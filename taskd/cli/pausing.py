"""The subcommands ``taskd pause`` and ``taskd resume``: hold up the stored tasks of a function."""

from __future__ import annotations

import click

from taskd.cli.completing import complete_function
from taskd.cli.console import json_text, out
from taskd.cli.functions import fetch_parameters
from taskd.cli.options import json_option, server_options
from taskd.cli.running import run_with_client
from taskd.client import TaskClient
from taskd.errors import InvalidParams
from taskd.net.reactor import Reactor
from taskd.printable import printable
from taskd.protocol.method_names import PAUSE, RESUME

__all__ = ["pause", "resume"]


@click.command()
@click.argument("function", shell_complete=complete_function)
@json_option
@server_options
def pause(function: str, server: str, *, as_json: bool) -> None:
    """Start no stored task of FUNCTION until `taskd resume`, not even after a restart of the server.

    Those that run go on.
    """
    _change(PAUSE, function, "paused", server, as_json=as_json)


@click.command()
@click.argument("function", shell_complete=complete_function)
@json_option
@server_options
def resume(function: str, server: str, *, as_json: bool) -> None:
    """Start the stored tasks of FUNCTION again, after `taskd pause`."""
    _change(RESUME, function, "running", server, as_json=as_json)


def _change(method: str, function: str, becomes: str, server: str, *, as_json: bool) -> None:
    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        try:
            answer = await client.request(method, {"function": function})
        except InvalidParams:
            await fetch_parameters(client, function)  # raises an error that also names the nearest
            raise
        if as_json:
            click.echo(json_text(answer))
            return
        change = f"was {becomes} already" if answer["was"] == becomes else f"is {becomes} now"
        out.print(f"{printable(function)}: {change}", markup=False, soft_wrap=True)

    run_with_client(run, server)
