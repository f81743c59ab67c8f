"""One run of ``taskd map``: a call for each row of a file."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, TextIO

import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import deferLater

from taskd.cli.console import err, progress_bar
from taskd.cli.rows import FailedRows, Row
from taskd.client import TaskClient
from taskd.errors import Busy, TaskdError
from taskd.model import Options
from taskd.net.reactor import Reactor

__all__ = ["Mapping"]


class Mapping:
    """One run of `taskd map`."""

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
        # Once it runs: the reactor sets handlers of its own when it starts.
        reactor.callWhenRunning(signal.signal, signal.SIGINT, self._caught_interrupt)

    async def run(self, rows: Iterator[Row], total: int, concurrency: int) -> None:
        """Call for every row, `concurrency` at a time."""
        bar = progress_bar()
        shown = bar.add_task(self._function, total=total)
        with bar if err.is_terminal else nullcontext():
            workers = [
                Deferred.fromCoroutine(self._work(rows, lambda: bar.update(shown, advance=1)))
                for _ in range(concurrency)
            ]
            outcomes = await DeferredList(workers, consumeErrors=True)
        self._failed.close()
        for succeeded, failure in outcomes:
            if not succeeded and failure is not None:
                failure.raiseException()

    async def _work(self, rows: Iterator[Row], advance: Callable[[], None]) -> None:
        for row in rows:
            if row.args is None:
                self._failed.add(row, row.problem)
            elif self._interrupted:
                self._failed.add(row, "not sent: interrupted")
            else:
                await self._one(row)
            advance()

    async def _one(self, row: Row) -> None:
        assert row.args is not None
        while True:
            call = self._client.request(self._function, row.args, options=self._options)
            self._in_flight.add(call)
            try:
                result = await call
            except Busy as error:
                if not self._interrupted:
                    await self._pause(float(error.data.get("retry_after", 1.0)))
                if not self._interrupted:
                    continue
                self._failed.add(row, "not sent: interrupted")
            except TaskdError as error:
                self._failed.add(row, f"{error.name}: {error.message}")
            except Exception as error:  # the wait was cancelled
                self._failed.add(
                    row, "sent, but interrupted before it was answered" if self._interrupted else repr(error)
                )
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
        """Wait, unless interrupted."""
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
        """Say how it went; the exit status is 1 where any row failed."""
        seconds = time.monotonic() - self._started
        rate = self._done / seconds if seconds else 0.0
        err.print(f"{self._done} done, {self._failed.count} failed, {seconds:.1f} s ({rate:.0f} a second)")
        if self._failed.count:
            err.print(f"failed rows are in {self._failed.path}", markup=False, soft_wrap=True)
            raise SystemExit(1)
