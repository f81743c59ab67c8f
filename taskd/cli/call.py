"""The subcommand ``taskd call``: makes one call, and prints the result as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import click
from msgspec import structs

from taskd.cli.completing import complete_function
from taskd.cli.console import json_text
from taskd.cli.functions import fetch_parameters
from taskd.cli.options import call_options, server_options
from taskd.cli.progress_view import progress_view
from taskd.cli.running import run_with_client
from taskd.client import TaskClient
from taskd.errors import MethodNotFound
from taskd.functions.wire_names import wire_name
from taskd.model import Options
from taskd.net.reactor import Reactor
from taskd.rows.conversion import Convert, TextConverter, read_json

__all__ = ["as_json_argument", "call", "parse_arguments"]


@click.command()
@click.argument("function", shell_complete=complete_function)
@click.argument("arguments", nargs=-1)
@call_options
@server_options
def call(function: str, arguments: tuple[str, ...], options: Options, server: str) -> None:
    """Call FUNCTION and print its result as JSON.

    An argument is NAME=TEXT (converted to what the function takes there, a
    number for example) or NAME:=JSON. Progress is shown on stderr. Ctrl-C
    cancels the task.
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        parameters = await fetch_parameters(client, function) if arguments else {}
        args = parse_arguments(arguments, TextConverter(parameters, as_json_argument))
        with progress_view(function) as view:
            try:
                result = await client.request(
                    function,
                    args,
                    on_progress=view.show,
                    # The task ends with this command, whether that ends by Ctrl-C or with its terminal.
                    options=structs.replace(options, on_disconnect="cancel"),
                )
            except MethodNotFound:
                await fetch_parameters(client, function)  # raises an error that also names the nearest
                raise
        click.echo(json_text(result))

    run_with_client(run, server)


def as_json_argument(name: str, text: str) -> str:
    """Return how JSON is written as an argument on a command line."""
    return shlex.quote(f"{name}:={text}")


def parse_arguments(arguments: Sequence[str], convert: Convert) -> dict[str, Any]:
    """Parse arguments of the forms NAME=TEXT and NAME:=JSON; return them by their names on the wire.

    `convert` makes values of the texts. Raises `ValueError`, which names the wrong argument.
    """
    args: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        is_json = name.endswith(":")
        name = wire_name(name.removesuffix(":"))
        if not equals or not name:
            raise ValueError(f"{argument!r} is not an argument: write NAME=TEXT or NAME:=JSON")
        if name in args:
            raise ValueError(f"argument {name} is given twice")
        if not is_json:
            args[name] = convert(name, text)
            continue
        try:
            args[name] = read_json(text)
        except ValueError as error:
            raise ValueError(f"{argument!r}: what follows := is not JSON: {error}") from None
    return args
