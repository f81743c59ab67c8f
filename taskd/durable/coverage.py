"""The tasks that a caller's token covers: which it may have run again, and which may follow a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from msgspec import Raw

from taskd.auth.policy import check_function
from taskd.durable.vault import Vault
from taskd.errors import NotAllowed, quoted
from taskd.functions.registry import FunctionInfo
from taskd.model import Grant
from taskd.server.fixed_arguments import check_fixed, fixed_for
from taskd.store.batches import COUNTS
from taskd.store.records import Record

__all__ = ["check_runs_again", "follower_args"]

Functions = Callable[[], list[FunctionInfo]]
"""Returns the functions that can be called; none before the app is imported."""


def check_runs_again(grant: Grant, record: Record, vault: Vault, functions: Functions) -> None:
    """Raise `NotAllowed` unless a caller could have submitted a stored task with the arguments that it has.

    Raises `Busy` if the token fixes arguments, and nobody knows yet what the function takes.
    """
    check_function(grant, record.new.function)
    if grant.args:
        new = vault.opened(record).new
        check_fixed(new.function, new.args, grant.args, lambda: _by_name(functions))


def follower_args(grant: Grant, function: str, functions: Functions) -> Raw | None:
    """Return the arguments, besides the counts, of the function that a caller wants called after a batch.

    They are those that its token fixes; None if there are none. Raises `NotAllowed` if the token does not
    cover the function, or fixes what is counted, and `Busy` as `check_runs_again` does.
    """
    check_function(grant, function)
    fixed = fixed_for(function, grant.args, lambda: _by_name(functions)) if grant.args else {}
    for name in COUNTS:
        if name in fixed:
            raise NotAllowed(
                f"then: {quoted(function)} is called with the counts of a batch, and the token fixes "
                f"{name!r}, which is one of them",
                reason="argument",
                argument=name,
            )
    return Raw(msgspec.json.encode(fixed)) if fixed else None


def _by_name(functions: Functions) -> Mapping[str, FunctionInfo]:
    return {each.name: each for each in functions()}
