"""The limits that a token sets: rate, tasks that wait and run, bytes of their arguments, functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from taskd.auth.caller import Rate
from taskd.model import Grant, Pattern, Role

__all__ = ["MOST", "RATE_FORMS", "Limits", "parse_rate", "show_rate"]

RATE_FORMS = "NUMBER/s, NUMBER/min or NUMBER/h, as in 100/min"

MOST: Final = 10**15
"""The largest limit: more than a server ever has of anything, and a number that JavaScript has, too."""

_SECONDS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}

_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|min|h)", re.ASCII)

MAX_FUNCTIONS: Final = 32768
"""Bytes of the patterns of one token, as JSON: they go with each message that a gateway passes on, whose
options have at most twice as many."""


def parse_rate(text: str) -> Rate:
    """Parse a rate such as ``100/min``. Raises `ValueError`, which names the valid forms."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"a rate is {RATE_FORMS}, not {text[:40]!r}")
    return Rate(int(match[1]), _SECONDS[match[2]])


def show_rate(rate: Rate) -> str:
    """Return a rate as `parse_rate` takes it."""
    unit = next(unit for unit, seconds in _SECONDS.items() if seconds == rate.seconds)
    return f"{rate.count}/{unit}"


_ALL: Final = ("*",)


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of one token; None stands for no limit.

    `rate` is that of requests, as text. At most so many tasks of the owner may be `waiting` or
    `running`, and so many `bytes` of their arguments may wait.
    """

    rate: str | None = None
    waiting: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    running: Annotated[int, Meta(ge=1, le=MOST)] | None = None
    bytes: Annotated[int, Meta(ge=0, le=MOST)] | None = None

    def grant(self, owner: str, role: Role, functions: Sequence[Pattern] = _ALL) -> Grant:
        """Return what a task server needs to know of a caller with these limits, held to some functions.

        Raises `ValueError` if their patterns are too long together.
        """
        if len(msgspec.json.encode(functions)) > MAX_FUNCTIONS:
            raise ValueError(f"functions: the patterns take more than {MAX_FUNCTIONS} bytes together")
        covered = None if "*" in functions else tuple(functions)
        return Grant(owner, role, self.waiting, self.running, self.bytes, functions=covered)

    def parsed_rate(self) -> Rate | None:
        """Return the rate. Raises `ValueError` if its text is not one."""
        return None if self.rate is None else parse_rate(self.rate)
