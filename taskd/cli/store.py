"""The subcommand ``taskd store``: checks, migrates, reseals and exports a store's file, without a server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
import msgspec
from msgspec import Raw

from taskd.auth.files import AccessFileError
from taskd.cli.console import json_text
from taskd.cli.options import json_option
from taskd.cli.running import FAILED, USAGE, fail
from taskd.durable.resealing import Resealing
from taskd.store.base import StoreError
from taskd.store.descriptions import is_postgres, without_password
from taskd.store.records import State
from taskd.store.sqlite import SqliteStore
from taskd.store.sqlite_file import check_file, opened_for_reading
from taskd.store.sqlite_schema import VERSION

__all__ = ["store"]

DEFAULT_FILE = "taskd.db"

_EXPORTED = (
    *("id", "function", "args", "options", "priority", "deadline", "key", "token", "batch", "keep"),
    *("state", "created", "attempt", "errors", "losses", "due", "ended", "outcome"),
)
_JSON = frozenset({"args", "options", "outcome"})
"""The columns that are JSON text."""


@click.group()
def store() -> None:
    """Check, migrate, reseal or export the file in which a daemon keeps its tasks."""


def _named(_context: click.Context, _parameter: click.Parameter, file: str) -> str:
    if is_postgres(file):
        fail(
            f"{without_password(file)} is a database, and this is about files: a daemon migrates its own "
            "database when it starts, and PostgreSQL has tools to check and export it"
        )
    return file


_file = click.argument("file", default=DEFAULT_FILE, metavar="[FILE]", callback=_named)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whatever read the output has ended
        raise SystemExit(FAILED) from None


@store.command()
@_file
@json_option
def check(file: str, *, as_json: bool) -> None:
    """Check FILE (taskd.db by default), which a daemon may be using, and show what is in it.

    The exit status is 1 if the file is damaged.
    """
    with _errors():
        health = check_file(file)
    if as_json:
        click.echo(json_text(asdict(health)))
    else:
        size, log = (f"{count / 2**20:.1f} MiB" for count in (health.size, health.log_size))
        old = "" if health.version == VERSION else f" (this taskd uses {VERSION}: taskd store migrate {file})"
        click.echo(f"{file}: schema {health.version}{old}, {size}, and {log} in its log")
        click.echo(", ".join(f"{count} {state}" for state, count in health.counts.items()) or "no tasks")
        for problem in health.problems:
            click.echo(f"damaged: {problem}")
        if health.problems:
            click.echo("restore a copy, or save what can be read: taskd store export")
        else:
            click.echo("all is well")
    if health.problems:
        raise SystemExit(FAILED)


@store.command()
@_file
def migrate(file: str) -> None:
    """Bring FILE (taskd.db by default) of an older taskd to this version; no daemon may be using it.

    A daemon does the same when it starts. A copy of the file is made before.
    """
    with _errors():
        if not os.path.exists(file):
            fail(f"there is no file {file}")
        opened = SqliteStore(file)
        opened.close()
    if opened.copy is None:
        click.echo(f"{file} has schema {VERSION} already")
    else:
        click.echo(f"{file} has schema {VERSION} now; {opened.copy} is as it was before")


@store.command()
@_file
@click.option(
    "--secret-key",
    "keys",
    required=True,
    metavar="FILE",
    envvar="TASKD_SECRET_KEY",
    help="The file with the keys: the first one seals, each opens.",
)
def reseal(file: str, keys: str) -> None:
    """Encrypt all secrets in FILE (taskd.db by default) with the first key; no daemon may be using it.

    After that the other keys are not needed any more. It can be interrupted, and run again. The exit
    status is 1 if no key opens some of them; these are left as they are.
    """
    from taskd.auth.sealing import Sealer  # which imports cryptography, as no other command needs it

    try:
        run = Resealing(Sealer.read(keys))
    except AccessFileError as error:
        fail(f"--secret-key: {error}", USAGE)
    with _errors():
        if not os.path.exists(file):
            fail(f"there is no file {file}")
        opened = SqliteStore(file)
        try:
            run.run(opened)
        finally:
            opened.close()
    click.echo(f"{run.resealed} tasks have the first key now, {run.up_to_date} had it already")
    if run.unopened:
        shown = ", ".join(run.first_unopened)
        more = ", …" if run.unopened > len(run.first_unopened) else ""
        fail(f"no key opens the secrets of {run.unopened} tasks, which are left as they are: {shown}{more}")
    click.echo(f"the other keys can be taken out of {keys}, unless another store or a copy has need of them")


@store.command()
@_file
def export(file: str) -> None:
    """Print every task of FILE (taskd.db by default) with its events: one JSON object on each line.

    A daemon may be using the file.
    """
    with _errors(), opened_for_reading(file) as database:
        rows = database.execute(f"SELECT {', '.join(_EXPORTED)} FROM task ORDER BY id")  # noqa: S608
        for row in rows:
            task: dict[str, Any] = {
                name: Raw(value) if name in _JSON and value is not None else value
                for name, value in zip(_EXPORTED, row, strict=True)
            }
            task["state"] = State(task["state"]).name.lower()
            query = "SELECT seq, event, at, data FROM event WHERE task = ? ORDER BY seq"
            task["events"] = [
                {"seq": seq, "event": event, "at": at, "data": Raw(data)}
                for seq, event, at, data in database.execute(query, (task["id"],))
            ]
            sys.stdout.buffer.write(msgspec.json.encode(task) + b"\n")
        sys.stdout.buffer.flush()
