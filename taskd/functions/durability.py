"""The durability of a function: whether its tasks are stored, and tried again after a failure or a loss."""

from __future__ import annotations

from math import inf

import msgspec

__all__ = ["Durability"]


class Durability(msgspec.Struct, frozen=True):
    """How a function's tasks are stored.

    With `once`, a task whose process has died is not run again. It is tried
    `retries` times more if it fails, after a random part of `backoff` seconds,
    doubled with each failure, and kept for `keep` seconds after its end.
    """

    once: bool = False
    retries: int = 0
    backoff: float = 1.0
    keep: float = 3600.0

    @classmethod
    def of(cls, *, durable: bool, once: bool, retries: int, backoff: float, keep: float) -> Durability | None:
        """Return the durability that these arguments of `task` mean, None if the function is not durable.

        Raises `ValueError` for values that contradict each other or are out of range.
        """
        chosen = cls(once, retries, backoff, keep)
        if not durable:
            if chosen != cls():
                raise ValueError("once, retries, backoff and keep need durable=True")
            return None
        if once and retries:
            raise ValueError("a function is run once, or has retries: not both")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries is a number, 0 or more, not {retries!r}")
        for name, seconds in (("backoff", backoff), ("keep", keep)):
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < inf:
                raise ValueError(f"{name} is a number of seconds, 0 or more, not {seconds!r}")
        return chosen
