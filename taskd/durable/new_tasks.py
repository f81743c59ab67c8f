"""New tasks, from what was asked for and what their functions say."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from taskd.durable.moments import Moments, RunOptions
from taskd.errors import InvalidParams
from taskd.functions.durability import Durability
from taskd.functions.secret_arguments import NOT_SECRET, SecretArguments
from taskd.model import ANONYMOUS, Grant, Options, SubmitOptions
from taskd.store.records import New

__all__ = ["new_task"]


def new_task(
    id: str,  # noqa: A002
    function: str,
    args: Raw | None,
    options: Options | SubmitOptions,
    durability: Durability,
    now: float,
    token: str | None,
    secrets: SecretArguments = NOT_SECRET,
    grant: Grant = ANONYMOUS,
) -> New:
    """Return a new task, without its limit key; `now` is in seconds since 1970.

    `secrets` are those of its function, and `grant` is that of its owner.

    Raises `TaskdError` for wrong options.
    """
    moments, kept = Moments.of(options, now), RunOptions.of(options, secrets, grant)
    if kept.retries and durability.once:
        raise InvalidParams(
            f"{function} is run once (once=True), so that it has no retries", argument="options.retries"
        )
    asked = options if isinstance(options, SubmitOptions) else None
    return New(
        id,
        function,
        None if args is None else bytes(args),
        msgspec.json.encode(kept),
        kept.priority,
        moments.due,
        moments.deadline,
        None if asked is None else asked.key,
        token,
        None,
        durability.keep if asked is None or asked.keep is None else asked.keep,
        moments.is_fixed,
        owner=grant.owner,
    )
