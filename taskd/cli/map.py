"""The subcommand ``taskd map``: makes a call for each row of a file, or submits them as a batch."""

from __future__ import annotations

import os
from pathlib import Path

import click

from taskd.cli.completing import complete_function
from taskd.cli.console import err
from taskd.cli.failed_rows import FailedRows, free_name
from taskd.cli.functions import fetch_parameters
from taskd.cli.map_run import MapRun, Results
from taskd.cli.map_submit import Batch, submit_rows
from taskd.cli.options import server_options, submit_options
from taskd.cli.row_files import RowFile
from taskd.cli.running import FAILED, USAGE, fail, run_with_client
from taskd.client import TaskClient
from taskd.model import Options, SubmitOptions
from taskd.net.reactor import Reactor
from taskd.rows.conversion import TextConverter
from taskd.rows.csv_rows import cell_as_json

__all__ = ["map_"]

DEFAULT_CONCURRENCY = 50
"""Calls in flight at once: half of the most that one websocket may have."""


@click.command(name="map")
@click.argument("function", shell_complete=complete_function)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=DEFAULT_CONCURRENCY,
    show_default=True,
    help="Calls in flight at once.",
)
@click.option(
    "--failed",
    metavar="FILE",
    help="Where failed rows go.  [default: NAME.failed.EXT, here; numbered if there is one]",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, writable=True), help="Write results there, as JSON lines."
)
@click.option("--submit", is_flag=True, help="Store the rows as one batch of tasks, all or none.")
@click.option("--then", metavar="FUNCTION", help="With --submit: call that when all rows have ended.")
@click.option("--token", metavar="TEXT", help="With --submit: the same token again stores nothing.")
@click.option("--no-wait", is_flag=True, help="With --submit: print the id of the batch, and end.")
@submit_options
@server_options
def map_(
    function: str,
    file: str,
    concurrency: int,
    failed: str | None,
    output: str | None,
    then: str | None,
    token: str | None,
    options: SubmitOptions,
    server: str,
    *,
    submit: bool,
    no_wait: bool,
) -> None:
    """Call FUNCTION once for each row of FILE: CSV with a header, or JSON lines; - is the standard input.

    Rows that fail go to a file of the same kind, which says why and can be
    mapped again; the exit status is then 1. After Ctrl-C the rows that have
    not been answered go there too.

    With --submit, the rows become a batch of stored tasks, which goes on whatever
    happens to this command; the id of the batch is printed on stdout.
    """
    call = Options(options.timeout, options.deadline, options.priority)
    if not submit and (then or token or no_wait or options != _submit_options(call)):
        fail("--then, --token, --no-wait, --delay, --at, --retries, --keep and --owner need --submit", USAGE)
    try:
        source = RowFile(file)
        total = source.rows().count()
    except (OSError, ValueError) as error:
        fail(str(error), USAGE)
    failed_path = failed or free_name(source.failed_name)
    for target in (failed_path, output):
        _check_target(target, file)
    if output is not None and _is_same(output, failed_path):
        fail(f"{output} cannot have both the results and the failed rows", USAGE)

    if submit:
        batch = Batch(function, options, then, token)
        submit_rows(source, batch, server, failed_path, output, waits=not no_wait)

    async def run(reactor: Reactor, client: TaskClient) -> None:
        parameters = await fetch_parameters(client, function)
        convert = TextConverter(parameters, cell_as_json)
        rows = source.rows()
        failed_rows = FailedRows(failed_path, rows)
        results = Results(output) if output is not None else None
        map_run = MapRun(reactor, client, function, call, failed_rows, results)
        try:
            await map_run.run(rows.read(convert), total, concurrency)
        finally:
            map_run.summarise()
        if source.has_changed():
            err.print(f"{file} has changed while it was read: rows may be missing", markup=False)
        if failed_rows.unwritten:
            raise SystemExit(USAGE)
        if failed_rows.count or source.has_changed():
            raise SystemExit(FAILED)

    run_with_client(run, server)


def _submit_options(call: Options) -> SubmitOptions:
    return SubmitOptions(timeout=call.timeout, deadline=call.deadline, priority=call.priority)


def _check_target(target: str | None, source: str) -> None:
    """Fail, before any call, if a file cannot be written, or is the one with the rows."""
    if target is None:
        return
    if _is_same(target, source):
        fail(f"{target} is the file with the rows: it would be overwritten", USAGE)
    path = Path(target)
    if path.is_dir():
        fail(f"{target} is a directory", USAGE)
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        fail(f"{target} cannot be written", USAGE)


def _is_same(one: str, other: str) -> bool:
    """Return whether two names are of one file, which may not exist yet; a device may serve twice."""
    path = Path(one)
    if path.exists() and Path(other).exists():
        return path.is_file() and path.samefile(other)
    return path.resolve() == Path(other).resolve()
