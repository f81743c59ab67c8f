"""The options of a daemon as they hold: the command line over the environment over a file over defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from taskd.scheduler.budget import MAX_BUFFERED, least_limit
from taskd.settings.conflicts import check
from taskd.settings.environment import CONFIG_VARIABLE, given_by_environment
from taskd.settings.files import ConfigFile, find_file, read_file
from taskd.settings.given import Given, SettingError, Source
from taskd.settings.kinds import NONE
from taskd.settings.table import DEFAULT_APP, SETTINGS, Setting, default_workers

__all__ = ["CONFIG", "Settings", "on_command_line", "settle", "settle_gateway"]

CONFIG = "config"
"""The option that names the configuration file, on the command line alone."""

GATEWAY = (
    "task-server",
    "link",
    "allow-origin",
    "hostname",
    "max-message",
    "max-buffered",
    "message-rate",
    "compression",
    "tokens",
    "jwt-key",
    "jwt-audience",
)
"""The options that concern a gateway that somebody else's server serves, as `twistd web` does."""

DEFAULT_LISTEN = "tcp:12345:interface=127.0.0.1"
DEFAULT_WEBSOCKET = "tcp:8080:interface=127.0.0.1"


class Settings(Mapping[str, Any]):
    """The value of every option, by its name, and where it comes from.

    `given` has the options that are set somewhere, each with the place that counts. `file` is
    the path of the configuration file, None without one.
    """

    def __init__(
        self, values: Mapping[str, Any], given: Mapping[str, Given], file: str | None = None
    ) -> None:
        self._values = values
        self.given = given
        self.file = file

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def is_default_app(self) -> bool:
        """Whether the default app is served, because none was named."""
        return "app" not in self.given

    def source(self, name: str) -> Source:
        """Return the kind of place that the value of an option comes from."""
        return self.given[name].source if name in self.given else Source.DEFAULT


def on_command_line(name: str, texts: Sequence[str]) -> Given:
    """Return what a command line says of an option."""
    return Given(Source.COMMAND_LINE, f"--{name}", texts)


def settle(command_line: Mapping[str, Given], environ: Mapping[str, str], directory: str) -> Settings:
    """Return the options that hold for a daemon that is started in `directory`.

    `command_line` has what was given there, `CONFIG` included. Raises `SettingError` if
    something is unknown, wrong, or cannot be combined.
    """
    given = dict(command_line)
    named = given.pop(CONFIG, None)
    file = _file(named, environ, directory)
    merged = {**(file.given if file else {}), **given_by_environment(environ), **given}
    # A list that is empty in the file is like one that is not given.
    merged = {name: each for name, each in merged.items() if each.texts}
    return _settled(merged, file.path if file else None)


def settle_gateway(environ: Mapping[str, str]) -> Settings:
    """Return the options of a gateway alone, with no other source than the environment.

    Variables of other options are ignored, since they may be for other servers. Raises
    `SettingError` if one is unknown or wrong.
    """
    given = given_by_environment(environ)
    return _settled({name: given[name] for name in GATEWAY if name in given}, None)


def _settled(given: Mapping[str, Given], file: str | None) -> Settings:
    values = {setting.name: _value(setting, given.get(setting.name)) for setting in SETTINGS}
    _fill_in(values)
    check(values, given)
    return Settings(values, given, file)


def _file(named: Given | None, environ: Mapping[str, str], directory: str) -> ConfigFile | None:
    if named is not None:
        return read_file(named.texts[-1], directory, named.label)
    path = environ.get(CONFIG_VARIABLE, "").strip()
    return read_file(path, directory, CONFIG_VARIABLE) if path else find_file(directory)


def _value(setting: Setting, given: Given | None) -> Any:
    if given is None:
        return [] if setting.repeatable else setting.default
    values = []
    for text in given.texts:
        try:
            values.append(setting.kind.convert(text))
        except ValueError as error:
            reason = str(error)
            separator = "" if reason.startswith(":") else " "
            raise SettingError(f"{given.where}{separator}{reason}") from None
    if setting.name in ("listen", "websocket") and NONE in values and len(values) > 1:
        raise SettingError(f"{given.where} {NONE} cannot be combined with another {given.label}")
    return values if setting.repeatable else values[-1]


def _fill_in(values: dict[str, Any]) -> None:
    """Put in the defaults that follow from other things."""
    values["app"] = values["app"] or [DEFAULT_APP]
    values["workers"] = values["workers"] or (default_workers(), default_workers())
    for name, default in (("listen", DEFAULT_LISTEN), ("websocket", DEFAULT_WEBSOCKET)):
        endpoints = values[name] or [default]
        values[name] = [] if endpoints == [NONE] else endpoints
    if values["max-buffered"] is None:
        values["max-buffered"] = max(MAX_BUFFERED, least_limit(values["max-message"]))
    values["error-details"] = values["error-details"] or "message"
