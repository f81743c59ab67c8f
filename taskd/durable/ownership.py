"""Whose task something is about: who may see it, change it, and whom a new one belongs to."""

from __future__ import annotations

from taskd.errors import Busy, InvalidParams, NotAllowed, quoted
from taskd.model import Grant
from taskd.scheduler.quotas import check_size
from taskd.store.batches import NewBatch
from taskd.store.records import Allowance, Full, New

__all__ = [
    "allowed",
    "check_may_change",
    "check_may_see",
    "check_may_see_arguments",
    "for_whom",
    "listed_owner",
    "no_room",
    "shows_arguments",
]

_REASON = "owner"
"""The `reason` in the data of the errors: callers tell by it that the task is another's."""


def for_whom(grant: Grant, asked: str | None) -> Grant:
    """Return the grant of whom a new task belongs to: the owner that is asked for, else the caller.

    Raises `NotAllowed` if the caller may not speak for others.
    """
    if asked is None or asked == grant.owner:
        return grant
    if not grant.has("operate"):
        raise NotAllowed(
            f"options.owner: only an operator submits for others, here for {quoted(asked)}", reason=_REASON
        )
    return Grant(asked)


def allowed(grant: Grant, new: New | NewBatch) -> Allowance | None:
    """Return how much of an owner may wait, None for anything.

    Raises `InvalidParams` if that is less than the new task or the new batch takes by itself.
    """
    if grant.waiting is None and grant.bytes is None:
        return None
    if isinstance(new, New):
        count, size = 1, len(new.args or b"")
    else:
        count, size = new.total, new.size
    if grant.waiting is not None and count > max(grant.waiting, 1):
        raise InvalidParams(
            f"of {grant.owner}, {grant.waiting} tasks may wait, so there is never room for {count} at once",
            argument="args",
            limit=grant.waiting,
        )
    check_size(grant, size)
    return Allowance(grant.waiting, grant.bytes)


def no_room(grant: Grant, full: Full, retry_after: float) -> Busy:
    """Return the error for a task or a batch for which its owner has no room."""
    most = f"{grant.waiting} tasks" if grant.waiting is not None else f"{grant.bytes} bytes"
    if grant.waiting is not None and grant.bytes is not None:
        most = f"{grant.waiting} tasks with {grant.bytes} bytes"
    return Busy(
        f"{full.waiting} tasks of {grant.owner} are waiting, with {full.bytes} bytes of arguments: of {most} "
        "that may, there is no room for what was asked for",
        retry_after=retry_after,
    )


def listed_owner(grant: Grant, asked: str | None) -> str | None:
    """Return whose tasks a caller gets that asks for those of an owner, None for everybody's.

    Raises `NotAllowed` if these are others'.
    """
    if grant.has("operate"):
        return asked
    if asked is not None and asked != grant.owner:
        raise NotAllowed(
            f"taskd.list: the tasks of {quoted(asked)} are seen by their owner, and by operators",
            reason=_REASON,
        )
    return grant.owner


def check_may_see(grant: Grant, owner: str) -> None:
    """Raise `NotAllowed` unless a caller may see the tasks of an owner."""
    if not grant.sees(owner):
        raise NotAllowed(
            "the task belongs to somebody else: only its owner, or an operator, sees it", reason=_REASON
        )


def check_may_change(grant: Grant, owner: str) -> None:
    """Raise `NotAllowed` unless a caller may cancel the tasks of an owner, or put them back."""
    check_may_see(grant, owner)
    if not grant.changes(owner):
        raise NotAllowed(
            f"this needs a token with the role submit; this caller has the role {grant.role}", reason="role"
        )


def shows_arguments(grant: Grant, owner: str) -> bool:
    """Return whether a caller may see the arguments and the tracebacks of the tasks of an owner.

    Those that belong to nobody in particular are shown to operators alone.
    """
    return grant.has("operate") or (bool(owner) and grant.owner == owner)


def check_may_see_arguments(grant: Grant, owner: str) -> None:
    """Raise `NotAllowed` unless a caller may see the arguments of the tasks of an owner."""
    check_may_see(grant, owner)
    if not shows_arguments(grant, owner):
        raise NotAllowed(
            "with_args: the arguments of a task are shown to its owner, and to operators; "
            "this caller is known as neither",
            reason=_REASON,
        )
