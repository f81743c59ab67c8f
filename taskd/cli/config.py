"""The subcommand ``taskd config``: the options that hold for a server, and where each comes from."""

from __future__ import annotations

import json
from typing import Any

import click

from taskd.cli.console import json_text
from taskd.cli.daemon_command import DaemonCommand, settings_of
from taskd.cli.options import json_option
from taskd.cli.running import FAILED, report
from taskd.settings.settings import Settings
from taskd.settings.table import SETTINGS, Setting

__all__ = ["config"]

COMMENT_COLUMN = 48
"""The column of the comments that say where values come from: wider than nearly all lines."""


@json_option
@click.option("--check", is_flag=True, help="Print nothing but what is wrong; status 1 if something is.")
def _config(*, as_json: bool, check: bool, **params: Any) -> None:
    """Print the options that would hold for a server started here, and where each comes from.

    It takes the options of taskd serve. What it prints is itself a configuration file, with
    the defaults as comments.
    """
    settings = settings_of(params)
    if check:
        _check(settings)
    elif as_json:
        click.echo(json_text(_described(settings)))
    else:
        click.echo("\n".join(_lines(settings)))


config = click.command("config", cls=DaemonCommand, params=[])(_config)


def _check(settings: Settings) -> None:
    """Check what `settle` leaves to the start: addresses and the store. Ends the command if one is wrong."""
    from taskd.daemon.checking import problems

    wrong = list(problems(settings))
    for problem in wrong:
        report(problem)
    if wrong:
        raise SystemExit(FAILED)
    count = len(settings.given)
    are_set = "1 option is set" if count == 1 else f"{count} options are set"
    click.echo(f"nothing is wrong: {are_set}; {_file(settings)}")


def _file(settings: Settings) -> str:
    return f"the configuration file is {settings.file}" if settings.file else "there is no configuration file"


def _described(settings: Settings) -> dict[str, Any]:
    return {
        "file": settings.file,
        "options": {
            setting.name: {
                "value": _shown(setting, settings[setting.name]),
                "source": settings.source(setting.name),
                "where": _where(settings, setting),
            }
            for setting in SETTINGS
        },
    }


def _lines(settings: Settings) -> list[str]:
    lines = [f"# {_file(settings)}"]
    for setting in SETTINGS:
        value = _shown(setting, settings[setting.name])
        if value is None:
            lines.append(f"# {setting.name} is not set")
            continue
        line = f"{setting.name} = {json.dumps(value, ensure_ascii=False)}"
        if setting.name not in settings.given:
            line = f"# {line}"
        lines.append(f"{line:<{COMMENT_COLUMN}} # {_where(settings, setting)}")
    return lines


def _where(settings: Settings, setting: Setting) -> str:
    given = settings.given.get(setting.name)
    return "default" if given is None else given.place or given.label


def _shown(setting: Setting, value: Any) -> Any:
    """Return a value as TOML and JSON have it."""
    if value is None or setting.repeatable:
        return value if value or setting.name not in ("listen", "websocket") else ["none"]
    return setting.kind.show(value)
