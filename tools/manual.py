"""The manual page of a click command with subcommands, made from its own help."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

PARAGRAPH_OF_LINES = "\b\n"
"""What begins a paragraph of a help text whose lines click does not join."""


def manual(program: click.Group, name: str, *, version: str, purpose: str, after: str) -> str:
    """Return the page in the macros of man(7).

    `purpose` is the half sentence after the name, and `after` are the sections that no help text has.
    """
    context = click.Context(program, info_name=name)
    lines = [
        '.\\" Made by "make share" from the help of the commands.',
        f'.TH {name.upper()} 1 "" "taskd {version}" "User commands"',
        ".SH NAME",
        f"{name} \\- {escaped(purpose)}",
        ".SH SYNOPSIS",
        f"\\fB{name}\\fR {_usage(program, context)}",
        ".SH DESCRIPTION",
        *_text(program.help),
        *_options(program, context),
        ".SH COMMANDS",
        *(line for command, within in _commands(program, context) for line in _command(command, within)),
        after.strip(),
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return a text in which roff sees neither requests nor escapes, and what is in `backquotes` is bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    text = re.sub(r"`([^`\n]*)`", r"\\fB\1\\fR", text)
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield the subcommands by name, those of groups too."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        within = click.Context(command, info_name=name, parent=context)
        yield command, within
        if isinstance(command, click.Group):
            yield from _commands(command, within)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f".SS {escaped(context.command_path)} {_usage(command, context)}"
    yield from _text(command.help)
    yield from _options(command, context)
    if command.epilog:
        yield ".PP"
        yield from _text(command.epilog)


def _usage(command: click.Command, context: click.Context) -> str:
    return escaped(" ".join(command.collect_usage_pieces(context)))


def _text(text: str | None) -> Iterator[str]:
    """Yield the paragraphs of a help text."""
    for number, paragraph in enumerate(filter(None, inspect.cleandoc(text or "").split("\n\n"))):
        if number:
            yield ".PP"
        if paragraph.startswith(PARAGRAPH_OF_LINES):
            yield from (".nf", escaped(paragraph.removeprefix(PARAGRAPH_OF_LINES)), ".fi")
        else:
            yield escaped(paragraph)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield each option with its help, except ``--help``."""
    for parameter in command.params:
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None and parameter.name != "version":
            yield from (".TP", f".B {escaped(record[0])}", escaped(record[1]))
