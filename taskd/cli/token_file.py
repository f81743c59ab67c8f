"""The token that a command shows its server: from a file, or from the environment; never an argument."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from taskd.client.tokens import VARIABLE, checked
from taskd.errors import NotAllowed

__all__ = ["command_token", "token_option"]

_KEY = "taskd.cli.token_file"
"""The place of the file's name in a command's context, where no command but this module need know it."""


def token_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--token-file``; `command_token` returns what it means."""
    return click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=_note,
        help=f"Show the token in FILE; without this, the one in {VARIABLE}, if there is one.",
    )(function)


def _note(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:  # noqa: ARG001
    context.meta[_KEY] = path


def command_token() -> Callable[[], str] | None:
    """Return a function that reads the token of the running command, or None if no file is given.

    The file is read for each connection, so that another token may be put there. Raises `OSError` or
    `ValueError` if there is no token in it now.
    """
    context = click.get_current_context(silent=True)
    path: Path | None = None if context is None else context.meta.get(_KEY)
    if path is None:
        return None
    found = path

    def read() -> str:
        return _token_in(found)

    read()
    return read


def _token_in(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise ValueError(f"{path} has no token in it")
    try:
        return checked(text)
    except NotAllowed:
        raise ValueError(f"{path} has something else in it than one token, on one line") from None
