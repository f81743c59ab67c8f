"""The subcommand ``taskd functions``: lists the functions; fetches their parameters for other commands."""

from __future__ import annotations

import difflib
from typing import Any

import click
import msgspec
from rich.table import Table
from rich.text import Text

from taskd.cli.console import json_text, out, table
from taskd.cli.options import json_option, server_options
from taskd.cli.running import run_with_client
from taskd.client import TaskClient
from taskd.errors import MethodNotFound
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.registry import FunctionInfo
from taskd.functions.wire_names import RESERVED
from taskd.net.reactor import Reactor
from taskd.protocol.methods import method_parameters

__all__ = ["fetch_parameters", "functions", "functions_table"]

METHOD = f"{RESERVED}functions"


@click.command()
@json_option
@server_options
def functions(server: str, *, as_json: bool) -> None:
    """List the functions that can be called."""

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        answer = await client.request(METHOD)
        if as_json:
            click.echo(json_text(answer))
            return
        out.print(functions_table(answer))

    run_with_client(run, server)


def functions_table(functions: list[dict[str, Any]]) -> Table:
    """Return a table of functions; it has their labels if any needs one."""
    has_needs = any(each.get("needs") for each in functions)
    made = table("function", "", *(["needs", ""] if has_needs else []))
    for each in functions:
        where = "not run here" if each.get("missing") else ""
        needs = [", ".join(each.get("needs", ())), where] if has_needs else []
        made.add_row(Text(each["signature"]), Text(each["summary"]), *map(Text, needs))
    return made


async def fetch_parameters(client: TaskClient, function: str) -> dict[str, ParameterInfo]:
    """Fetch the descriptions of a function's parameters from the server.

    Those of the server's own methods are known here. Raises `MethodNotFound`,
    which names the function that was probably meant, or those of the server, or
    `ValueError` if its answer cannot be read.
    """
    if function.startswith(RESERVED):
        return method_parameters(function)
    try:
        known = msgspec.convert(await client.request(METHOD), list[FunctionInfo])
    except msgspec.ValidationError as error:
        raise ValueError(f"the server has another version of taskd: {METHOD}: {error}") from None
    for info in known:
        if info.name == function:
            return info.parameters
    names = sorted(info.name for info in known)
    nearest = difflib.get_close_matches(function, names, 1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"the server has: {', '.join(names)}"
    raise MethodNotFound(f"no such function: {function}; {hint}")
