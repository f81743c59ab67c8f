"""One run of ``taskd map``: a call for each row, and a place for every row's end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import deferLater

from taskd.cli.console import err, progress_bar
from taskd.cli.failed_rows import FailedRows, write_whole
from taskd.client import TaskClient
from taskd.errors import Busy, TaskdError
from taskd.model import Options
from taskd.net.reactor import Reactor
from taskd.rows.row import Row

__all__ = ["MapRun", "Results", "ranges"]

RETRY_SECONDS = 1.0
"""Seconds before a busy server is tried again, if its error does not name a time."""

INTERRUPTED = "not sent: interrupted"
INTERRUPTED_AFTER = "sent, but interrupted before it was answered"

STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, kill, and the end of the terminal."""


class Results:
    """The file of results, as JSON lines. Raises `OSError` if it cannot be made."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115  # until `close`

    def add(self, line: int, result: Any) -> None:
        """Write the result of the row that begins on this line. Raises `OSError` if it cannot be written."""
        write_whole(self._file, msgspec.json.encode({"line": line, "result": result}) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MapRun:
    """One run of `taskd map`: calls `function` for each row.

    Every row is either done, with its result in `results`, or `failed`. The
    first Ctrl-C sends no more rows and waits for those that were sent; the
    second one cancels those. A row that a busy server refused is sent again.
    If a file can no longer be written, no more rows are sent either.
    """

    def __init__(
        self,
        reactor: Reactor,
        client: TaskClient,
        function: str,
        options: Options,
        failed: FailedRows,
        results: Results | None,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._function = function
        self._options = options
        self._failed = failed
        self._results = results
        self._done = 0
        self._stopped = ""
        """Why no more rows are sent, if so."""
        self._write_error: OSError | None = None
        self._started = time.monotonic()
        self._in_flight: set[Deferred[Any]] = set()
        self._pauses: set[Deferred[None]] = set()
        # Only once the reactor runs, since it installs its own handlers when it starts.
        reactor.callWhenRunning(self._catch_signals)

    async def run(self, rows: Iterator[Row], total: int, concurrency: int) -> None:
        """Make a call for every row, `concurrency` at a time. `total` rows are expected, for the bar.

        Raises what reading the rows raises, once those before have ended.
        """
        bar = progress_bar()
        shown = bar.add_task(self._function, total=total)

        def advance() -> None:
            if err.is_terminal:
                bar.update(shown, advance=1)

        with bar if err.is_terminal else nullcontext():
            senders = [Deferred.fromCoroutine(self._send_rows(rows, advance)) for _ in range(concurrency)]
            outcomes = await DeferredList(senders, consumeErrors=True)
        try:
            self._failed.close()
        except OSError as error:
            self._write_error = error
        if self._results is not None:
            self._results.close()
        for succeeded, failure in outcomes:
            if not succeeded and failure is not None:
                failure.raiseException()

    async def _send_rows(self, rows: Iterator[Row], advance: Callable[[], None]) -> None:
        for row in rows:
            why = row.problem or self._stopped or await self._call(row)
            if why:
                try:
                    self._failed.add(row, why)
                except OSError as error:
                    self._write_error = error
                    self._stop("not sent: an earlier row that failed could not be written here")
            advance()

    async def _call(self, row: Row) -> str:
        """Make the call for one row; return why it has failed, or an empty text. Never raises."""
        while True:
            try:
                call = self._client.request(self._function, row.args or {}, options=self._options)
            except Exception as error:  # what no JSON can have, such as an enormous number
                return f"not sent: {error}"
            self._in_flight.add(call)
            try:
                result = await call
            except Busy as error:
                if not self._stopped:
                    await self._pause(error.data.get("retry_after", RETRY_SECONDS))
                if self._stopped:
                    return self._stopped
            except TaskdError as error:
                return f"{error.name}: {error.message}"
            except Exception as error:  # the wait was cancelled
                return INTERRUPTED_AFTER if self._stopped else repr(error)
            else:
                return self._keep(row, result)
            finally:
                self._in_flight.discard(call)

    def _keep(self, row: Row, result: Any) -> str:
        """Write the result of a row that is done; return why it has failed after all, or an empty text."""
        try:
            if self._results is not None:
                self._results.add(row.line, result)
        except OSError as error:
            self._stop(f"not sent: the results cannot be written: {error}")
            return f"it was done, but its result could not be written: {error}"
        self._done += 1
        return ""

    async def _pause(self, seconds: object) -> None:
        """Wait for `seconds`, or until interrupted."""
        if not isinstance(seconds, int | float) or seconds < 0:
            seconds = RETRY_SECONDS
        pause: Deferred[None] = deferLater(self._reactor, float(seconds))
        self._pauses.add(pause)
        try:
            await pause
        except CancelledError:
            pass
        finally:
            self._pauses.discard(pause)

    # --- the end before the end ---

    def _catch_signals(self) -> None:
        for number in STOPPING_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(number, self._caught_signal)

    def _caught_signal(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._interrupt)

    def _interrupt(self) -> None:
        if self._stopped:
            for call in list(self._in_flight):
                call.cancel()
        else:
            with suppress(OSError):  # the terminal may be gone
                err.print("interrupted: waiting for what has been sent (once more to stop waiting)")
            self._stop(INTERRUPTED)

    def _stop(self, why: str) -> None:
        """Send no more rows."""
        self._stopped = self._stopped or why
        for pause in list(self._pauses):
            pause.cancel()

    def summarise(self) -> None:
        """Print how many rows were done and how many failed, and where those are. This is the end.

        From now on, another Ctrl-C has nothing to stop, and must not change the exit status.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING_SIGNALS)
        seconds = time.monotonic() - self._started
        rate = self._done / seconds if seconds else 0.0
        failed = self._failed
        err.print(f"{self._done} done, {failed.count} failed, {seconds:.1f} s ({rate:.0f} a second)")
        if failed.count > len(failed.unwritten):
            err.print(f"failed rows are in {failed.path}", markup=False, soft_wrap=True)
        if failed.unwritten:
            lines = ranges(failed.unwritten)
            err.print(
                f"{len(failed.unwritten)} of them could not be written there ({self._write_error}): "
                f"those that begin on line {lines}",
                markup=False,
                soft_wrap=True,
            )


def ranges(numbers: list[int]) -> str:
    """Format numbers, each run of consecutive ones as ``FIRST-LAST``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
