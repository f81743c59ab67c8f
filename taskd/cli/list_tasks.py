"""The subcommand ``taskd list``: lists stored tasks."""

from __future__ import annotations

from typing import Any

import click

from taskd.cli.completing import complete_function
from taskd.cli.console import err, json_text, out
from taskd.cli.options import json_option, server_options
from taskd.cli.running import run_with_client
from taskd.cli.stored_ids import full_id
from taskd.cli.stored_view import batches_table, tasks_table
from taskd.client import TaskClient
from taskd.net.reactor import Reactor
from taskd.protocol.method_names import LIST
from taskd.protocol.stored_methods import STATES

__all__ = ["list_"]

PAGE = 1000
"""Tasks that are asked for at once: as many as the server gives."""

SHOWN = 100
"""Tasks that are listed by default: what a person reads."""


@click.command(name="list")
@click.option("--state", type=click.Choice(STATES), help="Those in this state alone.")
@click.option(
    "--function",
    metavar="NAME",
    help="Those of this function alone.",
    shell_complete=complete_function,
)
@click.option("--batch", metavar="ID", help="Those of this batch alone.")
@click.option("--key", metavar="TEXT", help="Those with this key alone.")
@click.option("--owner", metavar="NAME", help="Those that belong to this one alone.")
@click.option("--error", metavar="TEXT", help="Those with this text in their error alone.")
@click.option("--newest", is_flag=True, help="The latest first.")
@click.option("--batches", is_flag=True, help="Batches instead of tasks.")
@click.option("--after", metavar="ID", help="Those that follow this task in the list alone.")
@click.option("--limit", type=click.IntRange(1), default=SHOWN, show_default=True, help="So many at most.")
@json_option
@server_options
def list_(
    state: str | None,
    function: str | None,
    batch: str | None,
    key: str | None,
    owner: str | None,
    error: str | None,
    after: str | None,
    limit: int,
    server: str,
    *,
    newest: bool,
    batches: bool,
    as_json: bool,
) -> None:
    """List the tasks (or batches) in the store, in the order in which they were submitted.

    The table has the ends of their ids; every command takes them so.
    """
    if batches:
        of_tasks = (state, function, batch, key, error)
        _check_batches(is_filtered=any(each is not None for each in of_tasks))
    what = "batch" if batches else "task"
    wanted = {
        "state": state,
        "function": function,
        "batch": batch,
        "key": key,
        "owner": owner,
        "error": error,
    }
    follows = "before" if newest else "after"

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        filters: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        for name, part in (follows, after), ("batch", batch):
            if part is not None:
                filters[name] = await full_id(client, part)
        if batches:
            filters["batches"] = True
        if newest:
            filters["newest"] = True
        tasks = await _fetch(
            client, filters, what, follows, limit + 1
        )  # one more, to know whether there are more
        shown = tasks[:limit]
        if as_json:
            click.echo(json_text(shown))
        elif shown:
            out.print(batches_table(shown) if batches else tasks_table(shown))
        if len(tasks) > limit:
            err.print(f"there are more: --after {shown[-1][what]}", markup=False)

    run_with_client(run, server)


def _check_batches(*, is_filtered: bool) -> None:
    """Raise `UsageError` for options that only lists of tasks have."""
    if is_filtered:
        raise click.UsageError("--batches is of all batches: of the filters of tasks it takes --owner alone")


async def _fetch(
    client: TaskClient, filters: dict[str, Any], what: str, follows: str, most: int
) -> list[dict[str, Any]]:
    """Fetch up to `most` tasks or batches, a page at a time."""
    found: list[dict[str, Any]] = []
    while len(found) < most:
        asked = min(most - len(found), PAGE)
        page = await client.request(LIST, {**filters, "limit": asked})
        found += page
        if len(page) < asked:
            break
        filters[follows] = page[-1][what]
    return found
