"""The values that one place has for an option, as texts, and how a message names the place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Given", "SettingError", "Source"]


class SettingError(ValueError):
    """An option, a variable or a key that cannot be used; the text says which, and why."""


class Source(StrEnum):
    """The kind of place from which the value of an option comes, as `taskd config` names it."""

    COMMAND_LINE = "command line"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Given:
    """The values of one option in one place, as texts.

    `label` is the option as the place writes it: ``--workers``, ``TASKD_WORKERS`` or
    ``workers``. `place` is the file and the line, "" if `label` suffices.
    """

    source: Source
    label: str
    texts: Sequence[str]
    place: str = ""

    @property
    def where(self) -> str:
        """The beginning of a message about the option."""
        return f"{self.place}: {self.label}" if self.place else self.label
