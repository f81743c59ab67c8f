"""The ``taskd`` command: calls functions of a running server, and shows what it does."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click
import msgspec
from rich.text import Text
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from taskd import __version__
from taskd.cli.console import err, out, progress_bar, table
from taskd.cli.map import Mapping
from taskd.cli.rows import FailedRows, convert_text, count_rows, read_rows
from taskd.cli.status_view import print_status
from taskd.client import TaskClient
from taskd.errors import MethodNotFound, TaskdError, Unreachable
from taskd.functions.parameters import wire_name
from taskd.functions.registry import RESERVED, FunctionInfo
from taskd.model import PRIORITY, Options
from taskd.net.reactor import Reactor

__all__ = ["main"]

DEFAULT_SERVER = "tcp:127.0.0.1:12345"

DEFAULT_CONCURRENCY = 50
"""Calls of `taskd map` in flight at once: half of what one websocket may have."""

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def _fail(message: str, status: int = 1) -> NoReturn:
    err.print(f"taskd: {message}", markup=False, soft_wrap=True)
    raise SystemExit(status)


def _run(main: Callable[[Any, TaskClient], Awaitable[None]], server: str, via: str | None) -> None:
    """Run a coroutine with a client; errors become sentences and exit statuses."""

    async def run(reactor: Reactor) -> None:
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

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        args = _arguments(arguments, await _annotations(client, function) if arguments else {})
        bar = progress_bar(transient=True)
        shown = bar.add_task(function, total=None)
        with bar if err.is_terminal else nullcontext():
            result = await client.request(
                function,
                args,
                on_progress=lambda progress: bar.update(shown, completed=progress.done, total=progress.total),
                # The task ends with this command, whatever ends that: Ctrl-C, or its terminal.
                options=Options(timeout, deadline, priority, on_disconnect="cancel"),
            )
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


# --- map ---------------------------------------------------------------------


@main.command(name="map")
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

    async def run(reactor: Reactor, client: TaskClient) -> None:
        annotations = await _annotations(client, function)
        try:
            with open(file, encoding="utf-8-sig", newline="") as counted:
                total = count_rows(file, counted)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from None
        with open(file, encoding="utf-8-sig", newline="") as rows, _results(output) as results:
            options = Options(timeout, deadline, priority)
            mapping = Mapping(reactor, client, function, options, FailedRows(failed, _create), results)
            await mapping.run(read_rows(file, rows, annotations), total, concurrency)
        mapping.summarise()

    _run(run, server, via)


def _create(path: str) -> TextIO:
    return open(path, "w", encoding="utf-8", newline="")


def _results(path: str | None) -> AbstractContextManager[TextIO | None]:
    return _create(path) if path is not None else nullcontext()


# --- cancel ------------------------------------------------------------------


@main.command()
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...", type=click.IntRange(1))
@_connection
def cancel(tasks: tuple[int, ...], server: str, via: str | None) -> None:
    """Cancel each TASK: a number, as `taskd status` and the log show it.

    One that runs is interrupted, and killed where it does not end within its
    grace. The exit status is 1 where one was not in flight (any more).
    """

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        asked = [client.request(f"{RESERVED}cancel", {"task": task}) for task in tasks]
        answers = [(task, await answer) for task, answer in zip(tasks, asked, strict=True)]
        for task, answer in answers:
            click.echo(f"#{task}: {_cancelled(answer)}")
        if any(answer["was"] == "done" for _, answer in answers):
            raise SystemExit(1)

    _run(run, server, via)


def _cancelled(answer: dict[str, Any]) -> str:
    if answer["was"] == "running":
        how = "killed" if answer["killed"] else "stopped"
        return f"was running, {how} after {answer['stopped_after']:.1f} s"
    return "was waiting" if answer["was"] == "waiting" else "is not in flight"


# --- functions and status ----------------------------------------------------


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_connection
def functions(server: str, via: str | None, *, as_json: bool) -> None:
    """List the functions that can be called."""

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        answer = await client.request("taskd.functions")
        if as_json:
            click.echo(_json(answer))
            return
        functions_table = table("function", "")
        for function in answer:
            functions_table.add_row(Text(function["signature"]), Text(function["summary"]))
        out.print(functions_table)

    _run(run, server, via)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_connection
def status(server: str, via: str | None, *, as_json: bool) -> None:
    """Show what the server and each of its workers is doing."""

    async def run(reactor: Reactor, client: TaskClient) -> None:  # noqa: ARG001
        answer = await client.request("taskd.status")
        if as_json:
            click.echo(_json(answer))
        else:
            print_status(answer)

    _run(run, server, via)


if __name__ == "__main__":
    sys.exit(main())
