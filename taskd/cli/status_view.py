"""The subcommand ``taskd status``: prints what the server and its workers are doing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from taskd.cli.console import duration, json_text, out, table
from taskd.cli.options import json_option, server_options
from taskd.cli.running import run_with_client
from taskd.client import TaskClient
from taskd.functions.wire_names import RESERVED
from taskd.net.reactor import Reactor
from taskd.printable import printable

__all__ = ["print_status", "size", "status", "summary", "workers_table"]


@click.command()
@json_option
@server_options
def status(server: str, *, as_json: bool) -> None:
    """Show what the server and each of its workers is doing."""

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        answer = await client.request(f"{RESERVED}status")
        if as_json:
            click.echo(json_text(answer))
        else:
            print_status(answer)

    run_with_client(run, server)


def print_status(answer: dict[str, Any]) -> None:
    """Print an answer of `taskd.status` for a person: the server, its workers, its functions."""
    for line in summary(answer):
        out.print(line, markup=False)
    out.print(workers_table(answer["workers"]))
    if answer["functions"]:
        counted = ("done", "failed", "timed_out", "cancelled", "lost")
        names = [name.replace("_", " ") for name in counted]
        functions = table("function", *names, "mean", "longest", "limit", right=tuple(range(1, 9)))
        for function in answer["functions"]:
            limit = function["timeout"]
            times = (duration(function["mean"]), duration(function["longest"]))
            counts = (str(function[key]) for key in counted)
            functions.add_row(Text(function["name"]), *counts, *times, duration(limit) if limit else "")
        out.print(functions)
    if answer.get("schedules"):
        out.print(_schedules(answer["schedules"], time.time()))


def workers_table(shown: Iterable[dict[str, Any]]) -> Table:
    """Return the table of these workers, as `taskd.status` describes them."""
    right = (0, 1, 3, 5, 6, 7)
    workers = table("worker", "pid", "state", "since", "function", "task", "done", "memory", right=right)
    for worker in shown:
        others = f" and {worker['tasks'] - 1} more" if worker["tasks"] > 1 else ""
        stopping = f", being stopped ({worker['stopping']})" if worker["stopping"] else ""
        memory = worker["memory_kib"]
        workers.add_row(
            str(worker["number"]),
            str(worker["pid"] or ""),
            worker["state"] + stopping,
            duration(worker["seconds"]),
            Text(worker["function"] or ""),
            f"#{worker['task']}{others}" if worker["task"] else "",
            str(worker["done"]),
            f"{memory / 1024:.1f} MiB" if memory is not None else "",
        )
    return workers


def _store(store: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about the store; none about one in memory that nobody uses."""
    if store["lasting"] or store["claimed"]:
        where = "in a file" if store["lasting"] else "in memory"
        if node := store.get("node"):
            where = f"shared, with this as node {node}"
        yield f"stored tasks: {where}; {store['claimed']} claimed"
    if polls := store.get("polls"):
        yield f"other nodes cannot wake this one, which looks twice a second: {printable(polls)}"
    if store["fault"] is not None:
        yield f"the store has failed, and is tried every second: {printable(store['fault'])}"
    if store.get("paused"):
        yield f"paused: {', '.join(map(printable, store['paused']))}"


def _schedules(schedules: list[dict[str, Any]], now: float) -> Table:
    """Return the table of the functions that the server runs by itself, the next one first."""
    shown = table("scheduled", "when", "next", "", "last")
    for each in schedules:
        left = "" if each["next"] is None else f"in {duration(max(each['next'] - now, 0.0))}"
        times = (_time(each["next"], "never"), left, _time(each["last"], ""))
        shown.add_row(Text(each["function"]), Text(each["schedule"]), *times)
    return shown


def _time(seconds: float | None, otherwise: str) -> str:
    """Return a time by the clock of this machine's zone."""
    if seconds is None:
        return otherwise
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def size(count: int) -> str:
    """Return a number of bytes for a person."""
    return f"{count / 2**20:.1f} MiB"


def summary(answer: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about the server as a whole."""
    stopping = ", stopping" if answer["stopping"] else ""
    reloading = ", reloading" if answer["reloading"] else ""
    oldest = answer["oldest_waiting"]
    longest = f" (the first for {duration(oldest)})" if oldest is not None else ""
    yield (
        f"{answer['name']}: taskd {answer['version']}, up {duration(answer['uptime'])}, "
        f"code generation {answer['generation']}{stopping}{reloading}; "
        f"{answer['running']} running, {answer['waiting']} of {answer['max_queue']} waiting{longest}"
    )
    least, most = answer["min_workers"], answer["max_workers"]
    bounds = str(most) if least == most else f"{least} to {most}"
    yield f"{len(answer['workers'])} workers of {bounds}; {answer['connections']} connections"
    if labels := answer.get("labels"):
        yield f"labels: {', '.join(map(printable, labels))}"
    budget = answer["budget"]
    if budget["held"]:
        most = ", ".join(f"{printable(use['party'])} {size(use['held'])}" for use in budget["biggest"])
        yield f"{size(budget['held'])} of {size(budget['limit'])} held for clients, most for: {most}"
    waiting = [f"{each['party']} {each['waiting']}" for each in answer["parties"]]
    if len(waiting) > 1:
        yield f"waiting by party: {', '.join(map(printable, waiting))}"
    code = answer["code"]
    if code["state"] == "waiting":
        yield f"no worker can be started: {code['reason']}; the next try is in {duration(code['next_try'])}"
    elif unready := answer.get("unready"):
        yield f"not ready for tasks: {printable(unready['detail'])}"
    for heading, counts in ("", answer["counts"]), ("unanswered failures: ", answer["unanswered"]):
        shown = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
        if shown:
            yield heading + ", ".join(shown)
    if store := answer.get("store"):
        yield from _store(store)
    if lost := answer.get("log_lines_lost"):
        yield f"{lost} lines of the log were lost"
