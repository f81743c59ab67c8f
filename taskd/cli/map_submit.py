"""``taskd map --submit``: the rows of a file as one batch of stored tasks, watched until it has ended."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import click
from twisted.internet.defer import Deferred, gatherResults

from taskd.cli.batch_view import batch_text, show_batch
from taskd.cli.console import err
from taskd.cli.failed_rows import FailedRows
from taskd.cli.following import Follower
from taskd.cli.functions import fetch_parameters
from taskd.cli.map_run import Results
from taskd.cli.progress_view import progress_view
from taskd.cli.row_files import RowFile
from taskd.cli.running import FAILED, report, run_with_client
from taskd.cli.stored_ids import Target
from taskd.cli.wait import why_ended
from taskd.client import TaskClient
from taskd.errors import InvalidParams, TooLarge
from taskd.model import SubmitOptions
from taskd.net.reactor import Reactor
from taskd.protocol.method_names import GET, LIST, SUBMIT_BATCH
from taskd.rows.batch_rows import BatchRows
from taskd.rows.conversion import TextConverter
from taskd.rows.csv_rows import cell_as_json

__all__ = ["Batch", "submit_rows"]

PAGE = 1000
"""Tasks that are asked for at once: as many as the server gives."""

AT_ONCE = 50
"""Results that are asked for at once: each may be as long as a message."""

NOT_DONE = ("failed", "set_aside", "expired", "cancelled")


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that is submitted, without its rows."""

    function: str
    options: SubmitOptions
    then: str | None
    token: str | None


def submit_rows(
    source: RowFile, batch: Batch, server: str, failed_path: str, output: str | None, *, waits: bool
) -> NoReturn:
    """Submit the rows as a batch, print its id, and exit; first wait for its end if the command `waits`.

    Then the rows that failed are written to `failed_path`, and results to `output`.
    """
    follower = Follower(on_lost=lambda why: report(f"{why}; waiting for the server"))

    async def run(reactor: Reactor, client: TaskClient) -> None:
        parameters = await fetch_parameters(client, batch.function)
        convert = TextConverter(parameters, cell_as_json)
        rows = BatchRows(source.name)
        args = [given for row in source.rows().read(convert) if (given := rows.take(row)) is not None]
        rows.check()
        answer = await _submit(client, source, batch, rows, args)
        args.clear()
        target = Target("batch", answer["batch"])
        click.echo(target.id)
        sys.stdout.flush()  # now, for whoever reads it through a pipe
        if not waits:
            return
        with progress_view(batch.function, each_message=False) as view:
            end = await follower.follow(reactor, client, target, lambda event: show_batch(view, event))
        err.print(batch_text(end), markup=False, soft_wrap=True)
        line_of = dict(zip(answer["tasks"], rows.lines, strict=True))
        if output is not None:
            await _write_results(client, target, line_of, output)
        if end["total"] > end["done"]:
            await _write_failed(client, target, line_of, FailedRows(failed_path, source.rows()), source)
        if end["state"] != "succeeded":
            raise SystemExit(FAILED)

    run_with_client(run, server, on_event=follower.pushed)


async def _submit(
    client: TaskClient, source: RowFile, batch: Batch, rows: BatchRows, args: list[Mapping[str, Any]]
) -> dict[str, Any]:
    """Submit the rows; return the answer. Raises `TaskdError`, with the line of a row that is refused."""
    request: dict[str, Any] = {"function": batch.function, "args": args, "options": batch.options}
    request |= {name: value for name in ("then", "token") if (value := getattr(batch, name)) is not None}
    try:
        answer: dict[str, Any] = await client.request(SUBMIT_BATCH, request)
    except TooLarge as error:
        raise TooLarge(
            f"{error.message}; nothing was submitted: split {source.name}, or raise --max-message"
        ) from None
    except InvalidParams as error:
        raise rows.by_line(error) from None
    if len(answer["tasks"]) != len(rows.lines):
        raise InvalidParams(
            f"the batch with this token, {answer['batch']}, has {len(answer['tasks'])} tasks, not "
            f"{len(rows.lines)}: it is of another file"
        )
    if answer.get("joined"):
        err.print("joined: this batch was there already")
    return answer


async def _tasks(client: TaskClient, target: Target, state: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the tasks of a batch that are in a state."""
    after = ""
    while True:
        page = await client.request(LIST, {"batch": target.id, "state": state, "after": after, "limit": PAGE})
        for task in page:
            yield task
        if len(page) < PAGE:
            return
        after = page[-1]["task"]


async def _write_results(client: TaskClient, target: Target, line_of: dict[str, int], path: str) -> None:
    results = Results(path)
    try:
        done: list[str] = [task["task"] async for task in _tasks(client, target, "succeeded")]
        for first in range(0, len(done), AT_ONCE):
            some = done[first : first + AT_ONCE]
            asked = [Deferred.fromCoroutine(_get(client, task)) for task in some]
            for task, answer in zip(some, await gatherResults(asked, consumeErrors=True), strict=True):
                if answer is not None:
                    results.add(line_of[task], answer.get("result"))
    finally:
        results.close()


async def _get(client: TaskClient, task: str) -> dict[str, Any] | None:
    """Fetch a task with its result; return None if it is forgotten."""
    try:
        answer: dict[str, Any] = await client.request(GET, {"task": task})
    except InvalidParams:
        return None
    return answer


async def _write_failed(
    client: TaskClient, target: Target, line_of: dict[str, int], failed: FailedRows, source: RowFile
) -> None:
    """Write the rows whose tasks have not succeeded, and why, as far as the store still has them."""
    reasons = {
        line_of[task["task"]]: why_ended(task)
        for state in NOT_DONE
        async for task in _tasks(client, target, state)
    }
    for row in source.rows().read(lambda _, text: text):
        if row.line in reasons:
            failed.add(row, reasons[row.line])
    failed.close()
    if failed.count:
        err.print(f"failed rows are in {failed.path}", markup=False, soft_wrap=True)
