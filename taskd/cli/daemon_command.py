"""Commands that take the options of a daemon, made from the table of them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import click

from taskd.cli.running import FAILED, fail
from taskd.settings.given import Given, SettingError
from taskd.settings.settings import CONFIG, Settings, on_command_line, settle
from taskd.settings.table import BY_NAME, SETTINGS, nearest

__all__ = ["DaemonCommand", "settings_of"]

_OF_TWISTD = frozenset({"-n", "--nodaemon", "--pidfile", "--no_save"})
"""Options of twistd that say what these commands do anyway."""


class DaemonCommand(click.Command):
    """A command with every option of a daemon, and the `params` of its own.

    A wrong command line ends it with one line and status 1, as under twistd.
    """

    def __init__(self, *, params: Sequence[click.Parameter], **others: Any) -> None:
        super().__init__(params=[*_options(), *params], context_settings={"allow_extra_args": True}, **others)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments."""
        given = list(args)
        try:
            context = super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            self._refuse(self._reason(error, given))
        if context.args and not context.resilient_parsing:
            meant = nearest(context.args[0], self._names())
            hint = f"; did you mean --{meant}?" if meant else ""
            words = shlex.join(context.args)
            self._refuse(f"what is {words} for? Only options follow the word {self.name}{hint}")
        return context

    def _refuse(self, reason: str) -> NoReturn:
        fail(f"{reason} (taskd {self.name} --help lists the options)", FAILED)

    def _reason(self, error: click.UsageError, arguments: Sequence[str]) -> str:
        if isinstance(error, click.NoSuchOption):
            return _unknown(error.option_name, arguments, self._names())
        if isinstance(error, click.BadOptionUsage):
            if self._takes_value(error.option_name):
                return f"option {error.option_name} needs a value: {error.option_name}=VALUE"
            return f"option {error.option_name} takes no value"
        return error.format_message()

    def _names(self) -> list[str]:
        return [option.removeprefix("--") for param in self.params for option in param.opts]

    def _takes_value(self, option: str) -> bool:
        return any(option in param.opts and not getattr(param, "is_flag", False) for param in self.params)


def _options() -> list[click.Option]:
    """Return the options of a daemon, and the one that names a file with them."""
    config = click.Option(
        [f"--{CONFIG}"],
        metavar="FILE",
        type=click.Path(),
        help="TOML file with options. Default: taskd.toml, or [tool.taskd] of pyproject.toml, if there.",
    )
    options = [config]
    for setting in SETTINGS:
        default = "" if setting.default is None else f" Default: {setting.kind.show(setting.default)}."
        names, text = [f"--{setting.name}"], setting.help + default
        if setting.is_flag:
            options.append(click.Option(names, is_flag=True, help=text))
        else:
            metavar, multiple = setting.kind.metavar, setting.repeatable
            options.append(click.Option(names, metavar=metavar, multiple=multiple, type=str, help=text))
    return options


def _unknown(option: str, arguments: Sequence[str], names: Iterable[str]) -> str:
    if option in _OF_TWISTD:
        return f"there is no option {option}: the server stays in the foreground, and writes no pid file"
    if not option.startswith("--"):
        # click has taken a letter from a word such as -app.
        option = next((each for each in arguments if each.startswith(option)), option)
    meant = nearest(option.lstrip("-"), names)
    hint = f"; did you mean --{meant}?" if meant else ""
    return f"there is no option {option}{hint}"


def settings_of(params: Mapping[str, Any]) -> Settings:
    """Return the options that hold for the values that click has parsed; wrong ones end the command."""
    try:
        return settle(_given(params), os.environ, os.getcwd())
    except SettingError as error:
        fail(str(error), FAILED)


def _given(params: Mapping[str, Any]) -> dict[str, Given]:
    given = {}
    for name in (CONFIG, *BY_NAME):
        value = params.get(name.replace("-", "_"))
        if value is True:
            given[name] = on_command_line(name, ["true"])
        elif value is not None and value is not False and value != ():
            given[name] = on_command_line(name, [value] if isinstance(value, str) else list(value))
    return given
