"""The subcommand ``taskd token``: makes, lists and revokes tokens, in the file that a daemon reads."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import click
import msgspec

from taskd.auth.files import AccessFileError
from taskd.auth.limits import parse_rate
from taskd.auth.token_editing import add_token, remove_tokens
from taskd.auth.token_file import NAME_FORM, TokenEntry, is_token_name, read_tokens
from taskd.auth.tokens import hash_of, new_token
from taskd.cli.console import json_text, out, table
from taskd.cli.options import json_option
from taskd.cli.running import USAGE, fail, report
from taskd.model import Pattern, Role
from taskd.settings.given import SettingError
from taskd.settings.kinds import memory_size
from taskd.settings.settings import settle

__all__ = ["token"]

SIGNAL = "a running server reads the file at SIGHUP: systemctl reload taskd, or kill -HUP PID"

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.group()
def token() -> None:
    """Make, list or revoke the tokens that callers show, in the file of --tokens."""


_file_option = click.option(
    "--tokens",
    "file",
    metavar="FILE",
    help="The file of tokens. Default: the one that taskd serve would use here.",
)


def _rate(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:  # noqa: ARG001
    if text is not None:
        try:
            parse_rate(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return text


def _bytes(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:  # noqa: ARG001
    try:
        return None if text is None else memory_size(text)
    except ValueError:
        raise click.BadParameter(f"an amount of memory is like 500K or 10M, not {text!r}") from None


def _expires(context: click.Context, parameter: click.Parameter, text: str | None) -> datetime | None:  # noqa: ARG001
    if text is None:
        return None
    span = re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", text, re.ASCII)
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        end = now + timedelta(**{_UNITS[span[2]]: int(span[1])}) if span else datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"write 30d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z, not {text!r}"
        ) from None
    end = end.replace(tzinfo=UTC) if end.tzinfo is None else end
    if end <= now:
        raise click.BadParameter(f"{text} is over already")
    return end


@token.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["watch", "submit", "operate"]), default="submit", show_default=True
)
@click.option("--for-function", "functions", multiple=True, metavar="PATTERN", help="As mail.*; repeatable.")
@click.option("--rate", callback=_rate, metavar="RATE", help="Most requests in a time, as 100/min.")
@click.option("--waiting", type=click.IntRange(0), metavar="NUMBER", help="Most tasks that may wait.")
@click.option("--running", type=click.IntRange(1), metavar="NUMBER", help="Most tasks that may run at once.")
@click.option("--bytes", "size", callback=_bytes, metavar="MEMORY", help="Most bytes of arguments that wait.")
@click.option("--expires", callback=_expires, metavar="WHEN", help="In 30d, 12h; or a date. Default: never.")
@_file_option
def new(
    name: str,
    role: Role,
    functions: tuple[str, ...],
    rate: str | None,
    waiting: int | None,
    running: int | None,
    size: int | None,
    expires: datetime | None,
    file: str | None,
) -> None:
    """Make a token called NAME and print it. It is shown this once: the file has its hash alone.

    Its tasks belong to token:NAME.
    """
    if not is_token_name(name):
        fail(f"a token's name is {NAME_FORM}, not {name!r}", USAGE)
    path = _path(file)
    text = new_token()
    try:
        patterns = msgspec.convert(functions or ("*",), tuple[Pattern, ...])
    except msgspec.ValidationError:
        fail("--for-function takes a name of functions, in which * and ? stand for others, as mail.*", USAGE)
    entry = TokenEntry(hash_of(text), role, patterns, rate, waiting, running, size, expires)
    with _errors():
        add_token(path, name, entry)
    click.echo(text)
    report(f"the token {name} is in {path}; keep what is printed here, it is shown only now; {SIGNAL}")


@token.command("list")
@_file_option
@json_option
def list_(file: str | None, *, as_json: bool) -> None:
    """List the tokens of the file, without what is secret."""
    with _errors():
        tokens = read_tokens(_path(file))
    if as_json:
        rows = [{"name": name, **_described(entry)} for name, entry in tokens.entries.items()]
        click.echo(json_text(rows))
        return
    if not tokens.entries:
        click.echo("no tokens")
        return
    shown = table("name", "role", "functions", "limits", "expires")
    now = time.time()
    for name, entry in tokens.entries.items():
        limits = {
            "rate": entry.rate,
            "waiting": entry.waiting,
            "running": entry.running,
            "bytes": entry.bytes,
        }
        listed = ", ".join(f"{key} {limit}" for key, limit in limits.items() if limit is not None)
        shown.add_row(name, entry.role, " ".join(entry.functions), listed, _end(entry, now))
    out.print(shown)


def _described(entry: TokenEntry) -> dict[str, object]:
    described = {"role": entry.role, "functions": entry.functions, "expires": entry.expires}
    limits = {"rate": entry.rate, "waiting": entry.waiting, "running": entry.running, "bytes": entry.bytes}
    return {**described, **{key: limit for key, limit in limits.items() if limit is not None}}


def _end(entry: TokenEntry, now: float) -> str:
    if entry.expires is None:
        return "never"
    over = "over since " if entry.expires.timestamp() <= now else ""
    return f"{over}{entry.expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


@token.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_file_option
def revoke(names: tuple[str, ...], file: str | None) -> None:
    """Take the tokens NAME out of the file; if one of them is not there, none is."""
    path = _path(file)
    with _errors():
        remove_tokens(path, names)
    report(f"{', '.join(names)} taken out of {path}; {SIGNAL}, and closes their connections")


def _path(file: str | None) -> str:
    """Return the path of the file that was named, or that a daemon started here would use."""
    if file is not None:
        return file
    try:
        path = settle({}, os.environ, os.getcwd())["tokens"]
    except SettingError as error:
        fail(f"which file of tokens? Name it with --tokens FILE ({error})", USAGE)
    if path is None:
        fail("which file of tokens? Name it with --tokens FILE, TASKD_TOKENS, or tokens in taskd.toml", USAGE)
    return str(path)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except AccessFileError as error:
        fail(str(error))
