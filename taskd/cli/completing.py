"""Names of functions, which shells complete by asking the server."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from taskd.cli.options import gateway_url
from taskd.cli.token_file import command_token
from taskd.client import Client
from taskd.errors import TaskdError
from taskd.printable import printable

__all__ = ["complete_function"]

PATIENCE = 1.0
"""Seconds for the server to answer: a shell does nothing else meanwhile."""


def complete_function(
    context: click.Context,
    parameter: click.Parameter,  # noqa: ARG001
    incomplete: str,
) -> list[CompletionItem]:
    """Return the server's functions whose names begin so; none if it cannot be asked."""
    via, server = context.params.get("via"), context.params.get("server")
    try:
        address = gateway_url(via) if via else server
        with Client(address, token=command_token(), connect_timeout=PATIENCE) as client:
            functions = client.with_options(wait=PATIENCE).functions()
    except (TaskdError, OSError, ValueError):
        return []
    return [
        CompletionItem(each["name"], help=printable(each["summary"]).replace("\n", " ") or None)
        for each in functions
        if each["name"].startswith(incomplete) and each["name"].isprintable()
    ]
