"""The subcommand ``taskd list``: lists stored tasks."""

from __future__ import annotations

from typing import Any

import click

from taskd.cli.console import err, json_text, out
from taskd.cli.options import json_option, server_options
from taskd.cli.running import run_with_client
from taskd.cli.stored_ids import full_id
from taskd.cli.stored_view import tasks_table
from taskd.client import TaskClient
from taskd.net.reactor import Reactor
from taskd.protocol.stored_methods import LIST, STATES

__all__ = ["list_"]

PAGE = 1000
"""Tasks that are asked for at once: as many as the server gives."""

SHOWN = 100
"""Tasks that are listed by default: what a person reads."""


@click.command(name="list")
@click.option("--state", type=click.Choice(STATES), help="Those in this state alone.")
@click.option("--function", metavar="NAME", help="Those of this function alone.")
@click.option("--batch", metavar="ID", help="Those of this batch alone.")
@click.option("--key", metavar="TEXT", help="Those with this key alone.")
@click.option("--after", metavar="ID", help="Those submitted after this task alone.")
@click.option("--limit", type=click.IntRange(1), default=SHOWN, show_default=True, help="So many at most.")
@json_option
@server_options
def list_(
    state: str | None,
    function: str | None,
    batch: str | None,
    key: str | None,
    after: str | None,
    limit: int,
    server: str,
    *,
    as_json: bool,
) -> None:
    """List the tasks in the store, in the order in which they were submitted.

    The table has the ends of their ids; every command takes them so.
    """
    wanted = {"state": state, "function": function, "batch": batch, "key": key}

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        filters: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        if after is not None:
            filters["after"] = await full_id(client, after)
        tasks: list[dict[str, Any]] = []
        has_more = True
        while has_more and len(tasks) <= limit:
            asked = min(limit + 1 - len(tasks), PAGE)  # one more, to know whether there are more
            page = await client.request(LIST, {**filters, "limit": asked})
            tasks += page
            has_more = len(page) == asked
            if page:
                filters["after"] = page[-1]["task"]
        shown = tasks[:limit]
        if as_json:
            click.echo(json_text(shown))
        elif shown:
            out.print(tasks_table(shown))
        if len(tasks) > limit:
            err.print(f"there are more: --after {shown[-1]['task']}", markup=False)

    run_with_client(run, server)
