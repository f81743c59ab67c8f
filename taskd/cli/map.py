"""The subcommand ``taskd map``: makes a call for each row of a file."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import deferLater

from taskd.cli.console import err, progress_bar
from taskd.cli.conversion import TextConverter
from taskd.cli.functions import fetch_parameters
from taskd.cli.options import call_options, server_options
from taskd.cli.rows import FailedRows, Row, count_rows, read_rows
from taskd.cli.running import FAILED, USAGE, fail, run_with_client
from taskd.client import TaskClient
from taskd.errors import Busy, TaskdError
from taskd.model import Options
from taskd.net.reactor import Reactor

__all__ = ["MapRun", "map_"]

DEFAULT_CONCURRENCY = 50
"""Calls in flight at once: half of the most that one websocket may have."""

RETRY_SECONDS = 1.0
"""Seconds before a busy server is tried again, if its error does not name a time."""

INTERRUPTED_BEFORE = "not sent: interrupted"
INTERRUPTED_AFTER = "sent, but interrupted before it was answered"


@click.command(name="map")
@click.argument("function")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=DEFAULT_CONCURRENCY,
    show_default=True,
    help="Calls in flight at once.",
)
@click.option("--failed", metavar="FILE", help="Where failed rows go.  [default: NAME.failed.EXT, here]")
@click.option(
    "--output", type=click.Path(dir_okay=False, writable=True), help="Write results there, as JSON lines."
)
@call_options
@server_options
def map_(
    function: str,
    file: str,
    concurrency: int,
    failed: str | None,
    output: str | None,
    options: Options,
    server: str,
) -> None:
    """Call FUNCTION once for each row of FILE: CSV with a header, or JSON lines.

    Rows that fail go to a file of the same kind, which says why and can be
    mapped again; the exit status is then 1. After Ctrl-C the rows that have
    not been answered go there too.
    """
    source = Path(file)
    for target in (failed, output):
        if target is not None and Path(target).exists() and source.samefile(target):
            fail(f"{target} is the file with the rows: it would be overwritten", USAGE)
    failed_path = failed or f"{source.stem}.failed{source.suffix}"

    async def run(reactor: Reactor, client: TaskClient) -> None:
        parameters = await fetch_parameters(client, function)
        convert = TextConverter(parameters, lambda _, text: f"the cell as JSON: {text}")
        try:
            with open(file, encoding="utf-8-sig", newline="") as counted:
                total = count_rows(file, counted)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from None
        with open(file, encoding="utf-8-sig", newline="") as rows, _results(output) as results:
            failed_rows = FailedRows(failed_path, _create)
            map_run = MapRun(reactor, client, function, options, failed_rows, results)
            await map_run.run(read_rows(file, rows, convert), total, concurrency)
        map_run.summarise()
        if failed_rows.count:
            raise SystemExit(FAILED)

    run_with_client(run, server)


def _create(path: str) -> TextIO:
    return open(path, "w", encoding="utf-8", newline="")


def _results(path: str | None) -> AbstractContextManager[TextIO | None]:
    return _create(path) if path is not None else nullcontext()


class MapRun:
    """One run of `taskd map`: calls `function` for each row.

    The first Ctrl-C sends no more rows and waits for those that were sent; the
    second one cancels those. A row that a busy server refused is sent again.
    """

    def __init__(
        self,
        reactor: Reactor,
        client: TaskClient,
        function: str,
        options: Options,
        failed: FailedRows,
        results: TextIO | None,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._function = function
        self._options = options
        self._failed = failed
        self._results = results
        self._done = 0
        self._interrupted = False
        self._started = time.monotonic()
        self._in_flight: set[Deferred[Any]] = set()
        self._pauses: set[Deferred[None]] = set()
        # Only once the reactor runs, since it installs its own handlers when it starts.
        reactor.callWhenRunning(signal.signal, signal.SIGINT, self._caught_interrupt)

    async def run(self, rows: Iterator[Row], total: int, concurrency: int) -> None:
        """Make a call for every row, `concurrency` at a time. `total` rows are expected, for the bar."""
        bar = progress_bar()
        shown = bar.add_task(self._function, total=total)
        with bar if err.is_terminal else nullcontext():
            senders = [
                Deferred.fromCoroutine(self._send_rows(rows, lambda: bar.update(shown, advance=1)))
                for _ in range(concurrency)
            ]
            outcomes = await DeferredList(senders, consumeErrors=True)
        self._failed.close()
        for succeeded, failure in outcomes:
            if not succeeded and failure is not None:
                failure.raiseException()

    async def _send_rows(self, rows: Iterator[Row], advance: Callable[[], None]) -> None:
        for row in rows:
            if row.args is None:
                self._failed.add(row, row.problem)
            elif self._interrupted:
                self._failed.add(row, INTERRUPTED_BEFORE)
            else:
                await self._send(row)
            advance()

    async def _send(self, row: Row) -> None:
        assert row.args is not None
        while True:
            call = self._client.request(self._function, row.args, options=self._options)
            self._in_flight.add(call)
            try:
                result = await call
            except Busy as error:
                if not self._interrupted:
                    await self._pause(float(error.data.get("retry_after", RETRY_SECONDS)))
                if not self._interrupted:
                    continue
                self._failed.add(row, INTERRUPTED_BEFORE)
            except TaskdError as error:
                self._failed.add(row, f"{error.name}: {error.message}")
            except Exception as error:  # the wait was cancelled
                self._failed.add(row, INTERRUPTED_AFTER if self._interrupted else repr(error))
            else:
                self._done += 1
                if self._results is not None:
                    self._results.write(
                        msgspec.json.encode({"line": row.line, "result": result}).decode() + "\n"
                    )
            finally:
                self._in_flight.discard(call)
            return

    async def _pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until interrupted."""
        pause: Deferred[None] = deferLater(self._reactor, seconds)
        self._pauses.add(pause)
        try:
            await pause
        except CancelledError:
            pass
        finally:
            self._pauses.discard(pause)

    def _caught_interrupt(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._interrupt)

    def _interrupt(self) -> None:
        if self._interrupted:
            for call in list(self._in_flight):
                call.cancel()
        else:
            self._interrupted = True
            for pause in list(self._pauses):
                pause.cancel()
            err.print("interrupted: waiting for what has been sent (once more to stop waiting)")

    def summarise(self) -> None:
        """Print how many rows were done and how many failed."""
        seconds = time.monotonic() - self._started
        rate = self._done / seconds if seconds else 0.0
        err.print(f"{self._done} done, {self._failed.count} failed, {seconds:.1f} s ({rate:.0f} a second)")
        if self._failed.count:
            err.print(f"failed rows are in {self._failed.path}", markup=False, soft_wrap=True)
