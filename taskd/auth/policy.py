"""The needs of the server's own methods: the role of a token, and whether anonymous callers may use each.

Where no tokens are asked for, whoever is not trusted for where it is, is anonymous.
"""

from __future__ import annotations

from dataclasses import dataclass

from taskd.errors import NotAllowed, quoted
from taskd.functions.wire_names import RESERVED
from taskd.model import ANONYMOUS, PRIORITY, Grant, Role

__all__ = ["NEEDS", "Need", "check_function", "check_role", "check_urgent"]


@dataclass(frozen=True, slots=True)
class Need:
    """The needs of a method: at least a `role`; or nothing, if `for_anybody` and no tokens are asked for."""

    role: Role
    for_anybody: bool = True


NEEDS = {
    "ping": Need("watch"),
    "auth": Need("watch"),
    "whoami": Need("watch"),
    "functions": Need("watch"),
    "status": Need("operate"),
    "submit": Need("submit"),
    "submit_batch": Need("submit"),
    "cancel": Need("submit"),
    "retry": Need("submit"),
    "get": Need("watch"),
    "wait": Need("watch"),
    "list": Need("watch"),
    "attach": Need("watch"),
    "detach": Need("watch"),
    "events": Need("watch"),
    "why": Need("watch"),
    "queue": Need("operate"),
    "history": Need("operate"),
    "nodes": Need("operate"),
    "pause": Need("operate", for_anybody=False),
    "resume": Need("operate", for_anybody=False),
    "reload": Need("operate", for_anybody=False),
    "drain": Need("operate", for_anybody=False),
    "stacks": Need("operate", for_anybody=False),
    "audit": Need("operate", for_anybody=False),
}
"""The needs of every method, without the namespace. Whose tasks they concern is checked where these are."""


def check_role(grant: Grant, method: str) -> None:
    """Raise `NotAllowed` unless a caller may use one of the server's own methods; unknown ones pass."""
    need = NEEDS.get(method.removeprefix(RESERVED))
    if need is None or grant.has(need.role) or (need.for_anybody and grant == ANONYMOUS):
        return
    raise NotAllowed(
        f"{method} needs a token with the role {need.role}; this caller has the role {grant.role}",
        reason="role",
    )


def check_function(grant: Grant, function: str) -> None:
    """Raise `NotAllowed` unless a caller may have a function run."""
    if not grant.has("submit"):
        raise NotAllowed(
            f"to call {quoted(function)} needs a token with the role submit; this caller has the role "
            f"{grant.role}",
            reason="role",
        )
    if not grant.covers(function):
        raise NotAllowed(f"the token does not cover the function {quoted(function)}", reason="function")


def check_urgent(grant: Grant) -> None:
    """Raise `NotAllowed` unless a caller may overtake everybody's tasks."""
    if not grant.has("operate"):
        raise NotAllowed(
            f"options.priority: to overtake others (below {PRIORITY}) needs a token with the role operate",
            reason="role",
        )
