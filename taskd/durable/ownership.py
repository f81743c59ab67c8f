"""Whose task something is about: who may see it, change it, and whom a new one belongs to."""

from __future__ import annotations

from taskd.errors import NotAllowed, quoted
from taskd.model import Grant

__all__ = [
    "check_may_change",
    "check_may_see",
    "check_may_see_arguments",
    "for_whom",
    "listed_owner",
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
