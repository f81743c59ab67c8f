"""When a stored task may start, and until when it must have: the options of a submit as points in time."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from taskd.errors import InvalidParams, quoted
from taskd.functions.secret_arguments import NOT_SECRET, SecretArguments
from taskd.model import ANONYMOUS, PRIORITY, Grant, Options, SubmitOptions

__all__ = ["Moments", "RunOptions", "read_time"]

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)

_EXAMPLE = "2026-12-24T18:00:00+01:00"


def read_time(text: str) -> float:
    """Return a time as RFC 3339 writes it, in seconds since 1970. Raises `InvalidParams`."""
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise InvalidParams(
            f"at is a time with its zone, as RFC 3339 writes it, such as {_EXAMPLE}, not {quoted(text)}",
            argument="options.at",
        )
    if match[2] is None:
        raise InvalidParams(
            f"at has no zone: write {quoted(text)}Z for UTC, or its distance from UTC as in {_EXAMPLE}",
            argument="options.at",
        )
    try:
        return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidParams(f"at: there is no time {quoted(text)}: {error}", argument="options.at") from None


class RunOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The options that a stored task keeps until it is run. `retries` is None for the function's own.

    `secrets` says which of its arguments are secret, None if none of them is; if `is_sealed`, these
    are stored so that only a key of the daemon can open them. `owner_running` is how many tasks of
    its owner may run, None for no limit.
    """

    timeout: Annotated[float, Meta(gt=0)] | None = None
    priority: int = PRIORITY
    retries: int | None = None
    traceparent: str | None = None
    secrets: SecretArguments | None = None
    is_sealed: bool = False
    owner_running: int | None = None

    @classmethod
    def of(
        cls, options: Options | SubmitOptions, secrets: SecretArguments = NOT_SECRET, grant: Grant = ANONYMOUS
    ) -> RunOptions:
        """Return what is kept of the options of a call or a submit, whose function has these secrets."""
        retries = options.retries if isinstance(options, SubmitOptions) else None
        return cls(
            options.timeout,
            options.priority,
            retries,
            options.traceparent,
            secrets or None,
            owner_running=grant.running,
        )


class Moments(msgspec.Struct, frozen=True):
    """When a task is due, and by when it must have started, in seconds since 1970.

    `due` is 0 for at once, `deadline` None for never. `is_fixed` says that it is
    due by the calendar (`at`), so that it moves with the clock if that is set;
    any other time is a distance from now, and stays as far away as it is.
    """

    due: float = 0.0
    deadline: float | None = None
    is_fixed: bool = False

    @classmethod
    def of(cls, options: Options | SubmitOptions, now: float) -> Moments:
        """Return those that options mean at the time `now`. Raises `InvalidParams`."""
        due, is_fixed = 0.0, False
        if isinstance(options, SubmitOptions):
            if options.at is not None:
                if options.delay:
                    raise InvalidParams(
                        "a task is due at a time, or after a delay: not both", argument="options.at"
                    )
                due, is_fixed = read_time(options.at), True
            elif options.delay:
                due = now + options.delay
        deadline = None if options.deadline is None else max(due, now) + options.deadline
        return cls(due, deadline, is_fixed)
