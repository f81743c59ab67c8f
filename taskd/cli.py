"""The ``taskd`` command: calls functions of a running server, and shows what it does."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click
import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import deferLater, react

from taskd import __version__
from taskd.client import TaskClient
from taskd.errors import Busy, MethodNotFound, TaskdError, Unreachable
from taskd.messages import PRIORITY, Options
from taskd.rows import FailedRows, Row, convert_text, count_rows, read_rows
from taskd.task import RESERVED, FunctionInfo, wire_name

__all__ = ["main"]

DEFAULT_SERVER = "tcp:127.0.0.1:12345"

DEFAULT_CONCURRENCY = 50
"""Calls of `taskd map` under way at once: half of what one websocket may have."""

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""

PIPE_WIDTH = 1000
"""Columns of a table that nobody sees at once."""

BAR_REFRESH = 10
"""Updates of the progress bar a second."""

# Into a pipe, rows stay whole: whoever greps them wants all of a row.
_out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
_err = Console(stderr=True, highlight=False)


def _fail(message: str, status: int = 1) -> NoReturn:
    _err.print(f"taskd: {message}", markup=False, soft_wrap=True)
    raise SystemExit(status)


def _run(main: Callable[[Any, TaskClient], Awaitable[None]], server: str, via: str | None) -> None:
    """Run a coroutine with a client; errors become sentences and exit statuses."""

    async def run(reactor: Any) -> None:
        try:
            client = TaskClient(reactor, via or server, link="pooled")
        except ValueError as error:
            _fail(str(error), 2)
        stopping: list[bool] = []
        reactor.addSystemEventTrigger("before", "shutdown", stopping.append, True)
        try:
            await main(reactor, client)
        except Unreachable as error:
            if stopping:  # Ctrl-C: it is we who cut the connection
                raise SystemExit(INTERRUPTED) from None
            _fail(error.message, os.EX_UNAVAILABLE)
        except TaskdError as error:
            _fail(f"{error.name}: {error.message}")
        except BrokenPipeError:
            raise SystemExit(1) from None  # whoever read our output has seen enough
        except (OSError, ValueError) as error:  # a file of the user's
            _fail(str(error), 2)
        finally:
            client.close()

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


def _connection(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every command has."""
    command = click.option("--via", metavar="URL", help="A gateway instead: ws://HOST:PORT or wss://….")(
        command
    )
    return click.option(
        "--server",
        metavar="ENDPOINT",
        default=DEFAULT_SERVER,
        envvar="TASKD_SERVER",
        show_default=True,
        help="The task server: tcp:HOST:PORT, unix:PATH or tls:HOST:PORT[:trustRoots=FILE].",
    )(command)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of the calls that a command makes."""
    above_zero = click.FloatRange(0, min_open=True)
    command = click.option(
        "--priority", type=click.IntRange(0, 9), default=PRIORITY, show_default=True, help="0 is first."
    )(command)
    command = click.option(
        "--deadline", type=above_zero, metavar="SECONDS", help="Do not start it later than that."
    )(command)
    return click.option(
        "--timeout", type=above_zero, metavar="SECONDS", help="Stop it when it has run for so long."
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="taskd")
def main() -> None:
    """Call functions of a running task server, and see what it does.

    The server itself is started with: twistd -n taskd --app YOUR_MODULE
    """


# --- call --------------------------------------------------------------------


@main.command()
@click.argument("function")
@click.argument("arguments", nargs=-1)
@_options
@_connection
def call(
    function: str,
    arguments: tuple[str, ...],
    timeout: float | None,
    deadline: float | None,
    priority: int,
    server: str,
    via: str | None,
) -> None:
    """Call FUNCTION and print its result as JSON.

    An argument is NAME=TEXT (converted where the function wants a number or a
    truth value) or NAME:=JSON. Ctrl-C cancels the task.
    """

    async def run(reactor: Any, client: TaskClient) -> None:
        args = _arguments(arguments, await _annotations(client, function) if arguments else {})
        bar = _bar(transient=True)
        shown = bar.add_task(function, total=None)
        with bar if _err.is_terminal else nullcontext():
            calling = client.request(
                function,
                args,
                on_progress=lambda progress: bar.update(shown, completed=progress.done, total=progress.total),
                options=Options(timeout=timeout, deadline=deadline, priority=priority),
            )
            _on_interrupt(reactor, calling.cancel)
            try:
                result = await calling
            except CancelledError:
                await deferLater(reactor, 0)  # the wish to cancel is on its way
                _fail(f"{function} was cancelled", INTERRUPTED)
        click.echo(_json(result))

    _run(run, server, via)


async def _annotations(client: TaskClient, function: str) -> dict[str, str]:
    """The annotations of a function's parameters. Raises `MethodNotFound`."""
    functions = msgspec.convert(await client.request("taskd.functions"), list[FunctionInfo])
    for known in functions:
        if known.name == function:
            return known.parameters
    if function.startswith(RESERVED):
        return {}
    names = ", ".join(sorted(known.name for known in functions))
    raise MethodNotFound(f"no such function: {function}; the server has: {names}")


def _arguments(given: tuple[str, ...], annotations: dict[str, str]) -> dict[str, Any]:
    args: dict[str, Any] = {}
    for argument in given:
        name, equals, text = argument.partition("=")
        is_json = name.endswith(":")
        name = wire_name(name.removesuffix(":"))
        if not equals or not name:
            _fail(f"{argument!r} is no argument: write NAME=TEXT or NAME:=JSON", 2)
        if name in args:
            _fail(f"argument {name} is given twice", 2)
        if not is_json:
            args[name] = convert_text(text, annotations.get(name, "str"))
            continue
        try:
            args[name] = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            _fail(f"{argument!r}: what follows := is not JSON: {error}", 2)
    return args


def _json(value: Any) -> str:
    text = msgspec.json.encode(value)
    return (msgspec.json.format(text, indent=2) if isinstance(value, dict | list) else text).decode()


def _bar(*, transient: bool = False) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_err,
        transient=transient,
        refresh_per_second=BAR_REFRESH,
    )


# --- map ---------------------------------------------------------------------


@main.command(name="map")
@click.argument("function")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=DEFAULT_CONCURRENCY,
    show_default=True,
    help="Calls under way at once.",
)
@click.option("--failed", metavar="FILE", help="Where failed rows go.  [default: NAME.failed.EXT, here]")
@click.option(
    "--output", type=click.Path(dir_okay=False, writable=True), help="Write results there, as JSON lines."
)
@_options
@_connection
def map_(
    function: str,
    file: str,
    concurrency: int,
    failed: str | None,
    output: str | None,
    timeout: float | None,
    deadline: float | None,
    priority: int,
    server: str,
    via: str | None,
) -> None:
    """Call FUNCTION once for each row of FILE: CSV with a header, or JSON lines.

    Rows that fail go to a file of the same kind, which says why and can be
    mapped again; the exit status is then 1. After Ctrl-C so do those that
    have not been answered.
    """
    source = Path(file)
    for target in (failed, output):
        if target is not None and Path(target).exists() and source.samefile(target):
            _fail(f"{target} is the file with the rows: it would be overwritten", 2)
    failed = failed or f"{source.stem}.failed{source.suffix}"

    async def run(reactor: Any, client: TaskClient) -> None:
        annotations = await _annotations(client, function)
        try:
            with open(file, encoding="utf-8-sig", newline="") as counted:
                total = count_rows(file, counted)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from None
        with open(file, encoding="utf-8-sig", newline="") as rows, _results(output) as results:
            options = Options(timeout=timeout, deadline=deadline, priority=priority)
            mapping = _Mapping(reactor, client, function, options, FailedRows(failed, _create), results)
            await mapping.run(read_rows(file, rows, annotations), total, concurrency)
        mapping.summarise()

    _run(run, server, via)


def _on_interrupt(reactor: Any, do: Callable[[], None]) -> None:
    """Have Ctrl-C do this rather than stop the reactor, whose own handler is set when it starts."""

    def interrupt(*_: object) -> None:
        reactor.callFromThread(do)

    reactor.callWhenRunning(signal.signal, signal.SIGINT, interrupt)


def _create(path: str) -> TextIO:
    return open(path, "w", encoding="utf-8", newline="")


def _results(path: str | None) -> AbstractContextManager[TextIO | None]:
    return _create(path) if path is not None else nullcontext()


class _Mapping:
    """One run of `taskd map`."""

    def __init__(
        self,
        reactor: Any,
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
        self._under_way: set[Deferred[Any]] = set()
        self._pauses: set[Deferred[None]] = set()
        _on_interrupt(reactor, self._interrupt)

    async def run(self, rows: Iterator[Row], total: int, concurrency: int) -> None:
        """Call for every row, `concurrency` at a time."""
        bar = _bar()
        shown = bar.add_task(self._function, total=total)
        with bar if _err.is_terminal else nullcontext():
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
            self._under_way.add(call)
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
                self._under_way.discard(call)
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

    def _interrupt(self) -> None:
        if self._interrupted:
            for call in list(self._under_way):
                call.cancel()
        else:
            self._interrupted = True
            for pause in list(self._pauses):
                pause.cancel()
            _err.print("interrupted: waiting for what has been sent (once more to stop waiting)")

    def summarise(self) -> None:
        """Say how it went; the exit status is 1 where any row failed."""
        seconds = time.monotonic() - self._started
        rate = self._done / seconds if seconds else 0.0
        _err.print(f"{self._done} done, {self._failed.count} failed, {seconds:.1f} s ({rate:.0f} a second)")
        if self._failed.count:
            _err.print(f"failed rows are in {self._failed.path}", markup=False, soft_wrap=True)
            raise SystemExit(1)


# --- cancel ------------------------------------------------------------------


@main.command()
@click.argument("jobs", nargs=-1, required=True, metavar="TASK...", type=click.IntRange(1))
@_connection
def cancel(jobs: tuple[int, ...], server: str, via: str | None) -> None:
    """Cancel each TASK: a number, as `taskd status` and the log show it.

    One that runs is interrupted, and killed where it does not end within its
    grace. The exit status is 1 where one was not under way (any more).
    """

    async def run(reactor: Any, client: TaskClient) -> None:  # noqa: ARG001
        asked = [client.request(f"{RESERVED}cancel", {"job": job}) for job in jobs]
        answers = [(job, await answer) for job, answer in zip(jobs, asked, strict=True)]
        for job, answer in answers:
            click.echo(f"#{job}: {_cancelled(answer)}")
        if any(answer["was"] == "done" for _, answer in answers):
            raise SystemExit(1)

    _run(run, server, via)


def _cancelled(answer: dict[str, Any]) -> str:
    if answer["was"] == "running":
        how = "killed" if answer["killed"] else "stopped"
        return f"was running, {how} after {answer['stopped_after']:.1f} s"
    return "was waiting" if answer["was"] == "waiting" else "is not under way"


# --- functions and status ----------------------------------------------------


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_connection
def functions(server: str, via: str | None, *, as_json: bool) -> None:
    """List the functions that can be called."""

    async def run(reactor: Any, client: TaskClient) -> None:  # noqa: ARG001
        answer = await client.request("taskd.functions")
        if as_json:
            click.echo(_json(answer))
            return
        table = _table("function", "")
        for function in answer:
            table.add_row(Text(function["signature"]), Text(function["summary"]))
        _out.print(table)

    _run(run, server, via)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_connection
def status(server: str, via: str | None, *, as_json: bool) -> None:
    """Show what the server and each of its workers is doing."""

    async def run(reactor: Any, client: TaskClient) -> None:  # noqa: ARG001
        answer = await client.request("taskd.status")
        if as_json:
            click.echo(_json(answer))
        else:
            _print_status(answer)

    _run(run, server, via)


def _print_status(answer: dict[str, Any]) -> None:
    for line in _summary(answer):
        _out.print(line, markup=False)
    right = (0, 1, 3, 5, 6, 7)
    workers = _table("worker", "pid", "state", "since", "function", "task", "done", "memory", right=right)
    for worker in answer["workers"]:
        others = f" and {worker['jobs'] - 1} more" if worker["jobs"] > 1 else ""
        stopping = f", being stopped ({worker['stopping']})" if worker["stopping"] else ""
        memory = worker["memory_kib"]
        workers.add_row(
            str(worker["number"]),
            str(worker["pid"] or ""),
            worker["state"] + stopping,
            _duration(worker["seconds"]),
            Text(worker["function"] or ""),
            f"#{worker['job']}{others}" if worker["job"] else "",
            str(worker["done"]),
            f"{memory / 1024:.1f} MiB" if memory is not None else "",
        )
    _out.print(workers)
    if answer["functions"]:
        counted = ("done", "failed", "timed_out", "cancelled", "lost")
        names = [name.replace("_", " ") for name in counted]
        table = _table("function", *names, "mean", "longest", "limit", right=tuple(range(1, 9)))
        for function in answer["functions"]:
            limit = function["timeout"]
            times = (_duration(function["mean"]), _duration(function["longest"]))
            counts = (str(function[key]) for key in counted)
            table.add_row(Text(function["name"]), *counts, *times, _duration(limit) if limit else "")
        _out.print(table)


def _summary(answer: dict[str, Any]) -> Iterator[str]:
    """What concerns the server as a whole, in lines."""
    stopping = ", stopping" if answer["stopping"] else ""
    reloading = ", reloading" if answer["reloading"] else ""
    oldest = answer["oldest_waiting"]
    longest = f" (the first for {_duration(oldest)})" if oldest is not None else ""
    yield (
        f"{answer['name']}: taskd {answer['version']}, up {_duration(answer['uptime'])}, "
        f"code generation {answer['generation']}{stopping}{reloading}; "
        f"{answer['running']} running, {answer['waiting']} of {answer['max_queue']} waiting{longest}"
    )
    least, most = answer["min_workers"], answer["max_workers"]
    bounds = str(most) if least == most else f"{least} to {most}"
    yield f"{len(answer['workers'])} workers of {bounds}; {answer['connections']} connections"
    counts = {name.replace("_", " "): count for name, count in answer["counts"].items() if count}
    if counts:
        yield ", ".join(f"{count} {name}" for name, count in counts.items())


def _table(*columns: str, right: tuple[int, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number in right else "left")
    return table


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


if __name__ == "__main__":
    sys.exit(main())
