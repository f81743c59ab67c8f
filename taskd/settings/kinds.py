"""The kinds of values that options have: how a text becomes a value, and how a value is written in TOML."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, get_args

from taskd.functions.labels import checked_label
from taskd.store.descriptions import without_password
from taskd.worker.messages import ErrorDetails

__all__ = [
    "APP",
    "ENDPOINT",
    "ERROR_DETAILS",
    "FILE",
    "FLAG",
    "HOSTNAME",
    "LABEL",
    "LINK",
    "LOCAL",
    "MEMORY",
    "NONE",
    "ORIGIN",
    "OWN",
    "PER_MESSAGE",
    "SECONDS_ABOVE_ZERO",
    "SHARED",
    "STORE",
    "TEXT",
    "WORKERS",
    "Kind",
    "at_least",
    "memory_size",
    "one_of",
    "worker_bounds",
]

NONE = "none"
"""The value of an endpoint that stands for no endpoint at all."""

PER_MESSAGE, LOCAL = "per-message", "local"
OWN, SHARED = "own", "shared"

ERROR_DETAILS: tuple[str, ...] = get_args(ErrorDetails)
"""The values of --error-details."""


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of values: `convert` makes one of a text, `show` writes it as TOML has it.

    `metavar` stands for a value in the help, and "" means that the option is a flag. If a text
    is wrong, `convert` raises `ValueError` with the rest of a sentence that begins with the
    option's name.
    """

    metavar: str
    convert: Callable[[str], Any]
    show: Callable[[Any], Any] = _same


# --- workers and memory ---


def worker_bounds(text: str) -> tuple[int, int]:
    """Parse ``MIN:MAX``, or one number for both, as numbers of workers. Raises `ValueError`."""
    least, colon, most = str(text).partition(":")
    bounds = (int(least), int(most)) if colon else (int(least), int(least))
    if not 0 <= bounds[0] <= bounds[1] or bounds[1] < 1:
        raise ValueError(text)
    return bounds


def _workers(text: str) -> tuple[int, int]:
    try:
        return worker_bounds(text)
    except ValueError:
        raise ValueError(
            f"is a number of at least 1, or MIN:MAX with 0 <= MIN <= MAX, not {text!r}"
        ) from None


def _shown_workers(bounds: tuple[int, int]) -> int | str:
    least, most = bounds
    return most if least == most else f"{least}:{most}"


_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def memory_size(text: str) -> int:
    """Parse an amount of memory like ``500M`` and return its bytes. Raises `ValueError`.

    K, M and G are powers of 1024.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = 0 if match is None else int(float(match[1]) * _SIZES[match[2].upper()])
    if not size:
        raise ValueError(text)
    return size


def _memory(text: str) -> int:
    try:
        return memory_size(text)
    except ValueError:
        raise ValueError(f"is an amount of memory like 500M or 2G, not {text!r}") from None


def _shown_memory(size: int) -> int | str:
    for unit in "GMK":
        if size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return size


# --- numbers and words ---


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < inf:  # NaN is refused too
        raise ValueError(f"is a number of seconds above 0, not {text!r}")
    return value


def at_least(minimum: float, kind: type[int] | type[float], metavar: str) -> Kind:
    """Return the kind of numbers that are not below `minimum`."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = -1
        if not value >= minimum:  # NaN is refused too
            raise ValueError(f"is a number of at least {minimum:g}, not {text!r}")
        return value

    return Kind(metavar, convert)


def one_of(*words: str) -> Kind:
    """Return the kind of these words."""
    *others, last = words
    listed = f"one of {', '.join(words)}" if len(words) > 2 else f"{others[0]} or {last}"

    def convert(text: str) -> str:
        if text not in words:
            raise ValueError(f"is {listed}, not {text!r}")
        return text

    return Kind("|".join(words), convert)


_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def _flag(text: str) -> bool:
    if text.lower() in _YES + _NO:
        return text.lower() in _YES
    raise ValueError(f"is true or false, not {text!r}")


# --- addresses and pages, checked by the code that uses them: a task server alone does not import it ---


def _link(text: str) -> str:
    if text == PER_MESSAGE:
        return text
    from taskd.listeners.gateway import link_kind

    return _explained(link_kind, text)


def _origin(text: str) -> str:
    from taskd.listeners.origins import Origins

    return _explained(lambda pattern: Origins([pattern]), text)


def _hostname(text: str) -> str:
    from taskd.listeners.origins import Origins

    return _explained(lambda name: Origins([], [name]), text)


def _label(text: str) -> str:
    return _explained(checked_label, text)


def _explained(check: Callable[[str], object], text: str) -> str:
    """Return the text if `check` accepts it."""
    try:
        check(text)
    except ValueError as error:
        raise ValueError(f": {error}") from None
    return text


TEXT = Kind("TEXT", str)
STORE = Kind("TEXT", str, without_password)
APP = Kind("MODULE|FILE", str)
ENDPOINT = Kind("ENDPOINT", str)
FILE = Kind("FILE", str)
FLAG = Kind("", _flag)
HOSTNAME = Kind("NAME", _hostname)
LABEL = Kind("NAME", _label)
LINK = Kind("per-message|pooled|local", _link)
MEMORY = Kind("MEMORY", _memory, _shown_memory)
ORIGIN = Kind("ORIGIN", _origin)
SECONDS_ABOVE_ZERO = Kind("SECONDS", _above_zero)
WORKERS = Kind("NUMBER|MIN:MAX", _workers, _shown_workers)
