"""Configuration files: ``taskd.toml``, ``[tool.taskd]`` of ``pyproject.toml``, or another TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskd.settings.given import Given, SettingError, Source
from taskd.settings.table import BY_NAME, Setting, nearest

__all__ = ["OWN_FILE", "PROJECT_FILE", "ConfigFile", "find_file", "read_file"]

OWN_FILE = "taskd.toml"
PROJECT_FILE = "pyproject.toml"

_TABLE = "tool.taskd"
"""The table of `PROJECT_FILE` that has the options."""


_NOT_EMPTY = {"app": "", "listen": ", or write none", "websocket": ", or write none"}
"""Options with a default that an empty array might be meant to replace, and what would be right."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration file: its path for messages, and what it says of the options, by name."""

    path: str
    given: Mapping[str, Given] = field(default_factory=dict)


def find_file(directory: str) -> ConfigFile | None:
    """Return the configuration file in a directory, None if there is none. Raises `SettingError`.

    ``taskd.toml`` comes first. A ``pyproject.toml`` counts only if it has the table.
    """
    if os.path.exists(os.path.join(directory, OWN_FILE)):
        return _read(Path(directory, OWN_FILE), OWN_FILE)
    project = Path(directory, PROJECT_FILE)
    if not project.is_file():
        return None
    file = _read(project, PROJECT_FILE, is_optional=True)
    return file if file is not None and file.given else None


def read_file(path: str, directory: str, named_by: str) -> ConfigFile:
    """Read the file at `path`, relative to `directory`, which the option or variable `named_by` has named.

    Raises `SettingError` if the file cannot be read, or if something in it is wrong.
    """
    full = Path(directory, path)
    if not full.exists():
        raise SettingError(f"{named_by} {path}: there is no such file ({full})")
    file = _read(full, path)
    assert file is not None
    return file


def _read(path: Path, shown: str, *, is_optional: bool = False) -> ConfigFile | None:
    """Read a file; None if it is optional and has not the table."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise SettingError(f"{shown} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingError(f"{shown}: byte {error.start} is not UTF-8, as TOML must be") from None
    if is_optional and "taskd" not in text:
        return None  # whatever is wrong with it is the concern of others
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{shown} is not TOML: {error}") from None
    is_project = path.name == PROJECT_FILE
    table = content.get("tool", {}).get("taskd", {}) if is_project else content
    if not isinstance(table, dict):
        raise SettingError(f"{shown}: {_TABLE} is a table: [{_TABLE}]")
    lines = _Lines(text, _TABLE if is_project else "")
    given = {}
    for key, value in table.items():
        place = lines.place(shown, key)
        setting = BY_NAME.get(key)
        if setting is None:
            raise SettingError(f"{place}: {_unknown(key, value)}")
        given[key] = Given(Source.FILE, key, _texts(setting, value, place), place)
    return ConfigFile(shown, given)


class _Lines:
    """The lines of a TOML file, to tell on which of them a key of a table is set."""

    def __init__(self, text: str, table: str) -> None:
        self._lines = text.splitlines()
        self._table = table

    def place(self, shown: str, key: str) -> str:
        """Return the file with the number of the line, or without it if the key is written in another way."""
        present = ""
        wanted = re.compile(rf"""\s*(["']?){re.escape(key)}\1\s*=""")
        header = re.compile(r"\s*\[+\s*([^\]]*?)\s*\]")
        for number, line in enumerate(self._lines, 1):
            match = header.match(line)
            if match is not None:
                present = match[1].replace('"', "").replace(" ", "")
                if _join(self._table, key) == present:
                    return f"{shown}:{number}"
            elif present == self._table and wanted.match(line):
                return f"{shown}:{number}"
        return shown


def _join(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


def _unknown(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"there is no table [{key}]: options stand at the top, outside of tables"
    meant = nearest(key, BY_NAME)
    return f"there is no option {key}" + (f"; did you mean {meant}?" if meant else "")


def _texts(setting: Setting, value: Any, place: str) -> list[str]:
    """Return the texts of a value in TOML, as they would be on the command line."""
    where = f"{place}: {setting.name}"
    if setting.repeatable:
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in values):
            raise SettingError(f"{where} is a text, or an array of texts, not {_in_toml(value)}")
        if not values and setting.name in _NOT_EMPTY:
            raise SettingError(f"{where} is an empty array: leave it out{_NOT_EMPTY[setting.name]}")
        return values
    if setting.is_flag:
        if not isinstance(value, bool):
            raise SettingError(f"{where} is true or false, not {value!r}")
        return ["true" if value else "false"]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise SettingError(f"{where} is one value, a text or a number, not {_in_toml(value)}")
    return [str(value)]


def _in_toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
