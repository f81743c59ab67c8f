"""The subcommands ``taskd store copy`` and ``import``: a store's contents into another store."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import click
import msgspec

from taskd.cli.console import json_text
from taskd.cli.options import json_option
from taskd.cli.running import FAILED, fail, report
from taskd.durable.alone import Alone, open_alone
from taskd.store.base import StoreError
from taskd.store.copying import Copying, Item, pages
from taskd.store.lines import read_lines

__all__ = ["copy", "import_", "store_argument", "store_errors"]

DEFAULT_STORE = "taskd.db"

_NAMES = {
    "task": "tasks",
    "batch": "batches",
    "schedule": "schedules",
    "paused": "paused functions",
    "history": "rows of the history",
    "audit": "entries of the audit log",
}

store_argument = click.argument("store", default=DEFAULT_STORE, metavar="[STORE]")


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn errors of a store into messages and exit statuses."""
    try:
        yield
    except StoreError as error:
        fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whatever read the output has ended
        raise SystemExit(FAILED) from None


def _copy_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--all", "whole", is_flag=True, help="Ended tasks and batches too, the history and the audit log."
        ),
        click.option(
            "--once",
            multiple=True,
            metavar="FUNCTION",
            help="A function that runs once at most: its tasks that ran when their server died have failed.",
        ),
        click.option(
            "--live", is_flag=True, help="Let servers go on that use the database which is copied to."
        ),
        json_option,
    ):
        function = option(function)
    return function


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@_copy_options
def copy(source: str, target: str, *, whole: bool, once: tuple[str, ...], live: bool, as_json: bool) -> None:
    """Copy what is unfinished in FROM to TO: files, sqlite:PATH, or postgres:DATABASE.

    Tasks keep their ids, keys, tokens, times and logs; batches, paused functions and the last ticks of
    schedules go with them. No server may be using FROM, nor TO without --live. Tasks that ran when their
    server died wait again, in FROM too, as after its next start. The command can be interrupted, and run
    again: what is there already is left as it is. The exit status is 1 if something could not be copied,
    since another task has its key or its token.
    """
    with store_errors():
        with open_alone(source) as given, open_alone(target, is_new=True, is_shared=live) as taking:
            given.rescue(once)
            run = _run(pages(given.store.copies, whole=whole), taking, given, whole=whole, once=once)
            given.check()  # a server that has started meanwhile may have run what was copied
        _show(run, as_json=as_json)


@click.command("import")
@click.argument("file", type=click.File("rb"))
@store_argument
@_copy_options
def import_(
    file: BinaryIO, store: str, *, whole: bool, once: tuple[str, ...], live: bool, as_json: bool
) -> None:
    """Add what FILE has (- is the standard input), as `taskd store export` prints it, to STORE.

    As with `taskd store copy`, that is what is unfinished in it, tasks keep their ids, and what is there
    already is left as it is. Tasks that ran when FILE was written wait, but for those of --once, which
    cannot be copied.
    """
    with store_errors():
        with open_alone(store, is_new=True, is_shared=live) as taking:
            run = _run(read_lines(file, file.name), taking, None, whole=whole, once=once)
        _show(run, as_json=as_json)


def _run(
    given: Iterable[Sequence[Item]], taking: Alone, source: Alone | None, *, whole: bool, once: Sequence[str]
) -> Copying:
    run = Copying(taking.store.copies, taking.now(), whole=whole, once=once)

    def keep() -> None:
        taking.keep()
        if source is not None:
            source.keep()

    run.run(given, keep)
    return run


def _show(run: Copying, *, as_json: bool) -> None:
    if as_json:
        click.echo(
            json_text(
                {
                    "copied": dict(run.copied),
                    "known": dict(run.known),
                    "failed": msgspec.to_builtins(run.failed),
                }
            )
        )
    else:
        for verb, counts in (("copied", run.copied), ("there already", run.known)):
            shown = ", ".join(f"{counts[kind]} {name}" for kind, name in _NAMES.items() if counts[kind])
            if shown or verb == "copied":
                click.echo(f"{verb}: {shown or 'nothing'}")
    for each in run.failed:
        report(f"not copied: {each.kind} {each.id}: {each.reason}")
    if run.failed:
        raise SystemExit(FAILED)
