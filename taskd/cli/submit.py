"""The subcommand ``taskd submit``: stores a task, and prints its id."""

from __future__ import annotations

import click
from msgspec import structs

from taskd.cli.call import as_json_argument, parse_arguments
from taskd.cli.completing import complete_function
from taskd.cli.console import err, json_text
from taskd.cli.functions import fetch_parameters
from taskd.cli.options import json_option, server_options, submit_options
from taskd.cli.running import run_with_client
from taskd.client import TaskClient
from taskd.errors import InvalidParams
from taskd.model import SubmitOptions
from taskd.net.reactor import Reactor
from taskd.protocol.method_names import SUBMIT
from taskd.rows.conversion import TextConverter

__all__ = ["submit"]


@click.command()
@click.argument("function", shell_complete=complete_function)
@click.argument("arguments", nargs=-1)
@submit_options
@click.option("--key", metavar="TEXT", help="Join the unfinished task that has this key, if there is one.")
@click.option(
    "--token", metavar="TEXT", help="Submit this once: a second submit with the same token stores nothing."
)
@json_option
@server_options
def submit(
    function: str,
    arguments: tuple[str, ...],
    options: SubmitOptions,
    key: str | None,
    token: str | None,
    server: str,
    *,
    as_json: bool,
) -> None:
    """Store a task that calls FUNCTION, and print its id at once.

    Arguments are those of `taskd call`. The task is run whether anyone waits
    for it or not; `taskd wait ID` waits for its result.
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        parameters = await fetch_parameters(client, function) if arguments else {}
        args = parse_arguments(arguments, TextConverter(parameters, as_json_argument))
        request = {"function": function, "args": args, "options": structs.replace(options, key=key)}
        if token is not None:
            request["token"] = token
        try:
            answer = await client.request(SUBMIT, request)
        except InvalidParams as error:
            if error.data.get("argument") == "function":
                await fetch_parameters(client, function)  # raises an error that also names the nearest
            raise
        if as_json:
            click.echo(json_text(answer))
            return
        if answer["joined"]:
            err.print("joined: this task was there already")
        click.echo(answer["task"])

    run_with_client(run, server)
