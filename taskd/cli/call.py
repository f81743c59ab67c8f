"""The subcommand ``taskd call``: makes one call, and prints the result as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from msgspec import structs

from taskd.cli.console import json_text
from taskd.cli.functions import fetch_annotations
from taskd.cli.options import call_options, server_options
from taskd.cli.progress_view import progress_view
from taskd.cli.rows import convert_text, read_json
from taskd.cli.running import run_with_client
from taskd.client import TaskClient
from taskd.errors import MethodNotFound
from taskd.functions.parameters import wire_name
from taskd.model import Options
from taskd.net.reactor import Reactor

__all__ = ["call", "parse_arguments"]


@click.command()
@click.argument("function")
@click.argument("arguments", nargs=-1)
@call_options
@server_options
def call(function: str, arguments: tuple[str, ...], options: Options, server: str) -> None:
    """Call FUNCTION and print its result as JSON.

    An argument is NAME=TEXT (converted if the function wants a number or a
    truth value) or NAME:=JSON. Progress is shown on stderr. Ctrl-C cancels
    the task.
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        annotations = await fetch_annotations(client, function) if arguments else {}
        args = parse_arguments(arguments, annotations)
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
                await fetch_annotations(client, function)  # raises an error that also names the nearest
                raise
        click.echo(json_text(result))

    run_with_client(run, server)


def parse_arguments(arguments: Sequence[str], annotations: Mapping[str, str]) -> dict[str, Any]:
    """Parse arguments of the forms NAME=TEXT and NAME:=JSON; return them by their names on the wire.

    `annotations` are those of the function's parameters; they determine what
    texts are converted to. Raises `ValueError`, which names the wrong argument.
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
            args[name] = convert_text(text, annotations.get(name, "str"))
            continue
        try:
            args[name] = read_json(text)
        except ValueError as error:
            raise ValueError(f"{argument!r}: what follows := is not JSON: {error}") from None
    return args
