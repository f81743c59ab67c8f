"""The command line of ``twistd taskd``, made from the table of options."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from twisted.python import usage

from taskd.settings.given import Given, SettingError
from taskd.settings.settings import CONFIG, Settings, on_command_line, settle
from taskd.settings.table import SETTINGS, Setting

__all__ = ["TRACEBACKS", "DaemonOptions"]

TRACEBACKS = "tracebacks"
"""The flag that is an older name for ``--error-details traceback``."""


class _Text(str):
    """A text that was given on the command line, and is no default."""

    __slots__ = ()


def _parameters() -> list[list[object]]:
    rows: list[list[object]] = [
        [setting.name, None, setting.default, setting.help, _Text]
        for setting in SETTINGS
        if not setting.repeatable and not setting.is_flag and not setting.is_twistds
    ]
    help_text = "TOML file with options. Default: taskd.toml, or [tool.taskd] of pyproject.toml, if there."
    return [*rows, [CONFIG, None, None, help_text, _Text]]


class DaemonOptions(usage.Options):
    """The command line of ``twistd taskd``; endpoints are Twisted endpoint strings.

    Once parsed, it has the value of every option, and `settings` has in addition where each
    comes from: here, the environment, or a file. `environ` is the environment, that of the
    process by default.
    """

    longdesc = (
        "Runs the functions of an app module in a pool of processes. They are called over TCP "
        "(one JSON message, one line) and over websockets, and each result is pushed back when it is ready. "
        "Every option can also be set in a file, or by an environment variable (TASKD_WORKERS)."
    )
    optParameters = _parameters()
    optFlags = [
        *([setting.name, None, setting.help] for setting in SETTINGS if setting.is_flag),
        [TRACEBACKS, None, "The same as --error-details traceback."],
    ]
    settings: Settings

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self._environ = environ
        self._repeated: dict[str, list[str]] = {}

    def append(self, name: str, text: str) -> None:
        """Add a value to a repeatable option."""
        self._repeated.setdefault(name, []).append(text)

    def postOptions(self) -> None:
        """Add what the environment and the file say, and refuse options that cannot work together."""
        try:
            self.settings = settle(self._given(), self._environ, os.getcwd())
        except SettingError as error:
            raise usage.UsageError(str(error)) from None
        self.update(self.settings)

    def _given(self) -> dict[str, Given]:
        """Return what the command line says of the options."""
        given = {name: on_command_line(name, texts) for name, texts in self._repeated.items()}
        for name, value in self.items():
            if isinstance(value, _Text):
                given[name] = on_command_line(name, [str(value)])
        for setting in SETTINGS:
            if setting.is_flag and self[setting.name]:
                given[setting.name] = on_command_line(setting.name, ["true"])
        if self[TRACEBACKS]:
            details = given.get("error-details")
            if details is not None and details.texts[-1] != "traceback":
                raise SettingError(
                    f"--tracebacks means --error-details traceback, not {details.texts[-1]}: leave out one"
                )
            given["error-details"] = on_command_line(TRACEBACKS, ["traceback"])
        return given


def _handler(setting: Setting) -> Callable[[DaemonOptions, str], None]:
    def handle(self: DaemonOptions, text: str) -> None:
        self.append(setting.name, text)

    handle.__doc__ = setting.help
    return handle


for _setting in SETTINGS:
    if _setting.repeatable:
        setattr(DaemonOptions, f"opt_{_setting.name.replace('-', '_')}", _handler(_setting))
