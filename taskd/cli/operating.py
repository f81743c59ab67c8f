"""The subcommands of whoever operates a server: reload, drain, nodes, stacks, audit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from taskd.cli.console import duration, err, json_text, out, table
from taskd.cli.options import json_option, server_options
from taskd.cli.running import FAILED, run_with_client
from taskd.cli.stored_view import moment
from taskd.client import TaskClient
from taskd.net.reactor import Reactor
from taskd.printable import printable
from taskd.protocol.method_names import AUDIT, DRAIN, NODES, RELOAD, STACKS, STATUS
from taskd.protocol.operator_methods import MAX_ENTRIES

__all__ = ["audit", "audit_table", "drain", "nodes", "nodes_table", "reload", "stack_text", "stacks"]

SHOWN = 100
"""Entries of the audit log that are shown by default: what a person reads."""

RELOADED = "reloaded"
"""The beginning of the result of a reload that has succeeded."""


@click.command()
@json_option
@server_options
def reload(server: str, *, as_json: bool) -> None:
    """Have the server do what SIGHUP does: import the app, and read certificates and tokens again.

    The exit status is 1 if the old code goes on.
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        answer = await client.request(RELOAD, {})
        if as_json:
            click.echo(json_text(answer))
        else:
            out.print(printable(answer["result"]), markup=False, soft_wrap=True)
        if not answer["result"].startswith(RELOADED):
            raise SystemExit(FAILED)

    run_with_client(run, server)


@click.command()
@click.argument("node", type=click.IntRange(1), required=False)
@click.option("--undo", is_flag=True, help="Take new tasks again.")
@json_option
@server_options
def drain(node: int | None, server: str, *, undo: bool, as_json: bool) -> None:
    """Have the server take no new tasks; it runs those that it has, in its store too, and is not ready.

    If several share the store, it leaves what waits there to the others, and NODE is the number of one of
    them that does so instead (taskd nodes). A restart ends that, and so does --undo.
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        of = {} if node is None else {"node": node}
        answer = await client.request(DRAIN, {"drained": not undo, **of})
        if as_json:
            click.echo(json_text(answer))
            return
        takes = "takes new tasks" if undo else "takes no new tasks"
        if node is not None:
            out.print(f"node {node} {takes}, within seconds", markup=False)
            return
        status = await client.request(STATUS, {})
        out.print(f"the server {takes}; {status['running']} run, {status['waiting']} wait", markup=False)

    run_with_client(run, server)


@click.command()
@json_option
@server_options
def nodes(server: str, *, as_json: bool) -> None:
    """List the nodes that share the server's store; a server with a store of its own is the only one."""

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        answer = await client.request(NODES, {})
        if as_json:
            click.echo(json_text(answer))
        else:
            out.print(nodes_table(answer))

    run_with_client(run, server)


def nodes_table(nodes: list[dict[str, Any]]) -> Table:
    """Return a table of nodes; the one that has answered is marked."""
    right = (0, 4, 5, 6, 7)
    heads = ("workers", "running", "claimed", "functions")
    made = table("node", "name", "version", "labels", *heads, "since", "seen", "", right=right)
    for each in nodes:
        made.add_row(
            "-" if each["node"] is None else str(each["node"]),
            Text(printable(each["name"])),
            Text(printable(each["version"])),
            Text(printable(", ".join(each["labels"]))),
            *(str(each[head]) for head in heads[:-1]),
            str(len(each["functions"])),
            moment(each["started"]),
            f"{duration(each['seen_ago'])} ago",
            ", ".join(_remarks(each)),
        )
    return made


def _remarks(node: dict[str, Any]) -> Iterator[str]:
    if node["draining"]:
        yield "drained"
    if node["this"]:
        yield "this one"


@click.command()
@click.argument("worker", type=click.IntRange(1), required=False)
@json_option
@server_options
def stacks(worker: int | None, server: str, *, as_json: bool) -> None:
    """Show what each worker does right now, or WORKER alone: the stacks of its threads."""

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        answer = await client.request(STACKS, {} if worker is None else {"worker": worker})
        if as_json:
            click.echo(json_text(answer))
            return
        for each in answer:
            out.print(stack_text(each), markup=False, soft_wrap=True)

    run_with_client(run, server)


def stack_text(stack: dict[str, Any]) -> str:
    """Return what one worker does, as lines for people."""
    does = "no task"
    if stack["function"] is not None:
        does = f"{printable(stack['function'])} #{stack['task']}, for {duration(stack['seconds'])}"
    head = f"worker {stack['worker']} (process {stack['pid']}): {does}"
    if stack["stack"] is None:
        return f"{head}\n  it has not printed its stacks in time"
    lines = [f"  {printable(line)}" for line in stack["stack"].splitlines()]
    return "\n".join([head, *lines])


@click.command()
@click.option("--owner", metavar="NAME", help="What this one has done alone.")
@click.option("--action", metavar="NAME", help="This alone: submit, cancel, retry, pause, drain, …")
@click.option("--after", type=click.IntRange(1), metavar="NUMBER", help="What came before this entry.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_ENTRIES),
    default=SHOWN,
    show_default=True,
    help="So many at most.",
)
@json_option
@server_options
def audit(
    owner: str | None, action: str | None, after: int | None, limit: int, server: str, *, as_json: bool
) -> None:
    """Show who has done what, the latest first: who submitted, cancelled, paused, retried, and more."""
    wanted = {"owner": owner, "action": action, "after": after, "limit": limit}

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        given = {name: value for name, value in wanted.items() if value is not None}
        page = await client.request(AUDIT, given)
        if as_json:
            click.echo(json_text(page))
            return
        if page["entries"]:
            out.print(audit_table(page["entries"]))
        if page["next"] is not None:
            err.print(f"there are more: --after {page['next']}", markup=False)

    run_with_client(run, server)


def audit_table(entries: list[dict[str, Any]]) -> Table:
    """Return a table of entries of the audit log."""
    made = table("when", "who", "role", "what", "tasks", "of", "", right=(4,))
    for entry in entries:
        made.add_row(
            moment(entry["at"]),
            Text(printable(entry["owner"]) or "-"),
            entry["role"],
            Text(printable(entry["action"])),
            str(entry.get("count", 1)) if "function" in entry or "task" in entry else "",
            Text(printable(entry.get("task") or entry.get("function") or "")),
            Text(printable(entry.get("text") or "")),
        )
    return made
