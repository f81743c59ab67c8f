"""The durability of a function: whether its tasks are stored, when they are tried again, how many may run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf

import msgspec

from taskd.functions.descriptions import ParameterInfo
from taskd.functions.retries import RETRY_FOR, RetryFor, covers_timeouts, names_of

__all__ = ["DAY", "Durability", "Rate"]

DAY = 86400.0

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": DAY}


class Rate(msgspec.Struct, frozen=True):
    """A limit on starts: at most `count` in `seconds`."""

    count: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Return the rate of a text such as ``"100/min"``. Raises `ValueError`."""
        match = re.fullmatch(r"([1-9]\d{0,8})/(\w+)", text) if isinstance(text, str) else None
        if match is None or match[2] not in _UNITS:
            raise ValueError(
                f"a rate is a number of starts and a unit of time ({', '.join(_UNITS)}), "
                f'such as "100/min", not {text!r}'
            )
        return cls(int(match[1]), _UNITS[match[2]])


class Durability(msgspec.Struct, frozen=True):
    """How a function's tasks are stored.

    With `once`, a task whose process has died is not run again. It is tried
    `retries` times more if it fails, after a random part of `backoff` seconds,
    doubled with each failure, and kept for `keep` seconds after its end. At most
    `concurrency` of its tasks run at the same time, and they start at most at
    `rate`; both hold for each value of the argument `concurrency_key`, if that
    is given, instead of for all tasks together. None means no limit. `retry_for`
    has the names of the exceptions after which it is tried again, which workers
    know by their classes; `retries_timeouts` says whether running over the time
    limit is among them.
    """

    once: bool = False
    retries: int = 0
    backoff: float = 1.0
    keep: float = 3600.0
    concurrency: int | None = None
    rate: Rate | None = None
    concurrency_key: str | None = None
    retry_for: tuple[str, ...] = names_of(RETRY_FOR)
    retries_timeouts: bool = True

    @classmethod
    def of(
        cls,
        *,
        durable: bool,
        once: bool = False,
        retries: int = 0,
        backoff: float = 1.0,
        keep: float = 3600.0,
        concurrency: int | None = None,
        rate: str | None = None,
        concurrency_key: str | None = None,
        retry_for: RetryFor = RETRY_FOR,
    ) -> Durability | None:
        """Return the durability that these arguments of `task` mean, None if the function is not durable.

        Raises `ValueError` for values that contradict each other or are out of range.
        """
        limit = None if rate is None else Rate.parse(rate)
        chosen = cls(
            once,
            retries,
            backoff,
            keep,
            concurrency,
            limit,
            concurrency_key,
            names_of(retry_for),
            covers_timeouts(retry_for),
        )
        if not durable:
            if chosen != cls():
                raise ValueError(
                    "once, retries, backoff, retry_for, keep, concurrency, rate and concurrency_key "
                    "need durable=True"
                )
            return None
        if once and retries:
            raise ValueError("a function is run once, or has retries: not both")
        if not _is_count(retries, 0):
            raise ValueError(f"retries is a number, 0 or more, not {retries!r}")
        if concurrency is not None and not _is_count(concurrency, 1):
            raise ValueError(f"concurrency is a number, 1 or more, not {concurrency!r}")
        if concurrency_key is not None and not (isinstance(concurrency_key, str) and concurrency_key):
            raise ValueError(f"concurrency_key is the name of an argument, not {concurrency_key!r}")
        if concurrency_key is not None and concurrency is None and rate is None:
            raise ValueError("concurrency_key needs concurrency or rate")
        for name, seconds in (("backoff", backoff), ("keep", keep)):
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < inf:
                raise ValueError(f"{name} is a number of seconds, 0 or more, not {seconds!r}")
        return chosen

    def check_key(self, parameters: Mapping[str, ParameterInfo]) -> None:
        """Raise `TypeError` if `concurrency_key` is no argument of a function with these parameters.

        Nor may it be a secret one: a key is stored and shown as it is.
        """
        name = self.concurrency_key
        if name is None:
            return
        more = [each for each in parameters.values() if each.passed == "more_names"]
        if any(each.secret for each in ([parameters[name]] if name in parameters else more)):
            raise TypeError(
                f"concurrency_key {name!r} is a secret argument, and a key is stored and shown as it is: "
                "name another, such as that of the account"
            )
        if more:
            return
        names = [each for each, parameter in parameters.items() if parameter.passed != "more_positions"]
        if name not in names:
            raise TypeError(
                f"concurrency_key {name!r} is none of its arguments, which are {', '.join(names) or 'none'}"
            )


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
