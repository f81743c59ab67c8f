"""The subcommand ``taskd store``: checks, migrates, reseals and exports a store, without a server."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import click

from taskd.auth.files import AccessFileError
from taskd.cli.console import json_text
from taskd.cli.options import json_option
from taskd.cli.running import FAILED, USAGE, fail
from taskd.cli.store_copy import copy, import_, store_argument, store_errors
from taskd.durable.alone import open_alone, path_of
from taskd.durable.opening import check_psycopg
from taskd.durable.resealing import Resealing
from taskd.store.copying import Copying, CopyStore, pages
from taskd.store.lines import LinesTarget
from taskd.store.sqlite import SqliteStore
from taskd.store.sqlite_copying import copies_for_reading
from taskd.store.sqlite_file import check_file
from taskd.store.sqlite_schema import VERSION

__all__ = ["store"]


@click.group()
def store() -> None:
    """Check, migrate, reseal, copy or export what a daemon keeps its tasks in.

    STORE is a file (taskd.db if it is left out) or postgres:DATABASE.
    """


store.add_command(copy)
store.add_command(import_)


@store.command()
@store_argument
@json_option
def check(store: str, *, as_json: bool) -> None:
    """Check STORE, which daemons may be using, and show what is in it.

    The exit status is 1 if it is damaged.
    """
    path = path_of(store)
    with store_errors():
        health, about = _check_database(store) if path is None else _check_file(path)
    if as_json:
        click.echo(json_text(health))
    else:
        for line in about:
            click.echo(line)
        click.echo(", ".join(f"{count} {state}" for state, count in health["counts"].items()) or "no tasks")
        for problem in health["problems"]:
            click.echo(f"damaged: {problem}")
        if health["problems"]:
            click.echo("restore a copy, or save what can be read: taskd store export")
        else:
            click.echo("all is well")
    if health["problems"]:
        raise SystemExit(FAILED)


def _check_file(path: str) -> tuple[dict[str, Any], Sequence[str]]:
    """Return what was found of a file, and lines about it."""
    health = check_file(path)
    size, log = (f"{count / 2**20:.1f} MiB" for count in (health.size, health.log_size))
    old = "" if health.version == VERSION else f" (this taskd uses {VERSION}: taskd store migrate {path})"
    return asdict(health), [f"{path}: schema {health.version}{old}, {size}, and {log} in its log"]


def _check_database(description: str) -> tuple[dict[str, Any], Sequence[str]]:
    """Return what was found of a database, and lines about it."""
    check_psycopg()
    from taskd.store.postgres.outside import check_database
    from taskd.store.postgres.schema import VERSION

    health = check_database(description)
    old = "" if health.version == VERSION else f" (this taskd uses {VERSION}: taskd store migrate)"
    size = f"{health.size / 2**20:.1f} MiB"
    about = [f"{health.path}: schema {health.version}{old}, {size}, used by {health.nodes} servers"]
    if health.left:
        about.append(f"{health.left} tasks are those of dead servers: a living one lets them wait again")
    return asdict(health), about


@store.command()
@store_argument
def migrate(store: str) -> None:
    """Bring STORE of an older taskd to this version.

    A daemon does the same when it starts. No daemon may be using a file, of which a copy is made before;
    a database may be in use, and is not copied.
    """
    path = path_of(store)
    with store_errors():
        if path is None:
            check_psycopg()
            from taskd.store.postgres import schema
            from taskd.store.postgres.outside import migrate_database

            name, before = migrate_database(store)
            state = (
                "has" if before >= schema.VERSION else "had none before, and has" if not before else "now has"
            )
            click.echo(f"{name} {state} schema {max(before, schema.VERSION)}")
            return
        if not os.path.exists(path):
            fail(f"there is no file {path}")
        opened = SqliteStore(path)
        opened.close()
    if opened.copy is None:
        click.echo(f"{path} has schema {VERSION} already")
    else:
        click.echo(f"{path} has schema {VERSION} now; {opened.copy} is as it was before")


@store.command()
@store_argument
@click.option(
    "--secret-key",
    "keys",
    required=True,
    metavar="FILE",
    envvar="TASKD_SECRET_KEY",
    help="The file with the keys: the first one seals, each opens.",
)
def reseal(store: str, keys: str) -> None:
    """Encrypt all secrets in STORE with the first key; no daemon may be using it.

    After that the other keys are not needed any more. It can be interrupted, and run again. The exit
    status is 1 if no key opens some of them; these are left as they are.
    """
    from taskd.auth.sealing import Sealer  # which imports cryptography, as no other command needs it

    try:
        run = Resealing(Sealer.read(keys))
    except AccessFileError as error:
        fail(f"--secret-key: {error}", USAGE)
    with store_errors(), open_alone(store) as opened:
        run.run(opened.store)
    click.echo(f"{run.resealed} tasks have the first key now, {run.up_to_date} had it already")
    if run.unopened:
        shown = ", ".join(run.first_unopened)
        more = ", …" if run.unopened > len(run.first_unopened) else ""
        fail(f"no key opens the secrets of {run.unopened} tasks, which are left as they are: {shown}{more}")
    click.echo(f"the other keys can be taken out of {keys}, unless another store or a copy has need of them")


@store.command()
@store_argument
def export(store: str) -> None:
    """Print everything that is in STORE, as it is at one instant: one JSON object on each line.

    Its member "kind" says what it is: "task", with its events, "batch", "schedule", "paused", "history" or
    "audit". Daemons may be using STORE; `taskd store import` reads what this prints.
    """
    with store_errors(), _reading(store) as copies:
        Copying(LinesTarget(sys.stdout.buffer), 0.0, whole=True).run(pages(copies, whole=True))
        sys.stdout.buffer.flush()


def _reading(description: str) -> AbstractContextManager[CopyStore]:
    path = path_of(description)
    if path is not None:
        return copies_for_reading(path)
    check_psycopg()
    from taskd.store.postgres.outside import copies_for_reading as of_database

    return of_database(description)
