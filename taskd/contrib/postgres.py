"""Tasks in the caller's own PostgreSQL transaction: submitted, cancelled and settled with it, or not at all.

For a program whose database is the one that the nodes have for a store (``--store postgres:…``).
Each function takes the connection of that program: of psycopg 3, psycopg2 or anything else with
cursors that take ``%s``, Django's, or a connection or session of SQLAlchemy. None of them commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from inspect import isawaitable
from typing import Any

import msgspec

from taskd.client.words import NO_WORDS, call_of
from taskd.functions.current import current_task

__all__ = ["cancel", "settle", "state", "submit", "wake"]

_SECONDS = "%s::float8 * interval '1 second'"
_SUBMIT = (
    f"SELECT taskd.submit(%s, %s::json, {_SECONDS}, %s, %s::int, %s, %s, {_SECONDS}, %s::int, {_SECONDS}, "
    f"%s::timestamptz, {_SECONDS})"
)
_SETTLE = "SELECT taskd.settle(%s, %s::int, %s::int, %s::json)"

Seconds = float | timedelta


def submit(
    connection: Any,
    function: str | Callable[..., Any],
    args: Sequence[Any] | Mapping[str, Any] = (),
    *,
    delay: Seconds | None = None,
    key: str | None = None,
    priority: int = 5,
    token: str | None = None,
    owner: str = "",
    timeout: Seconds | None = None,
    retries: int | None = None,
    keep: Seconds | None = None,
    at: datetime | None = None,
    deadline: Seconds | None = None,
) -> str:
    """Submit a task in the transaction of a connection; return its id.

    The task is there once the transaction is committed. The options are those of
    `taskd.client.Client.submit`; times are seconds, or `datetime` has them. `args` are the arguments by
    position, or by name. Raises the driver's error if the database refuses the task, `TypeError` or
    `ValueError` if the arguments are not JSON, or `at` has no zone.
    """
    if at is not None and at.utcoffset() is None:
        raise ValueError(f"at has no zone: {at!r}")
    is_named = isinstance(args, Mapping)
    call = call_of(NO_WORDS, function, () if is_named else tuple(args), dict(args) if is_named else {})
    values = [
        call.function,
        "[]" if call.args is None else bytes(call.args).decode(),
        _seconds(delay),
        key,
        priority,
        token,
        owner,
        _seconds(timeout),
        retries,
        _seconds(keep),
        None if at is None else at.isoformat(),
        _seconds(deadline),
    ]
    return str(_value(connection, _SUBMIT, values))


def settle(connection: Any, result: Any = None) -> None:
    """Let the task whose function calls this succeed with the transaction of a connection.

    Both are committed, or neither is. `result` is what callers get, whatever the function
    returns. If the task is not this attempt's any more, since its node was taken for dead, this or
    the commit raises the driver's error, and the transaction has to be rolled back. Raises
    `RuntimeError` outside a stored task, and in one whose store is not shared.
    """
    this = current_task()
    if this.id is None or this.node is None:
        raise RuntimeError("settle is for the function of a stored task, with --store postgres:DATABASE")
    _value(connection, _SETTLE, [this.id, this.attempt, this.node, msgspec.json.encode(result).decode()])


def cancel(connection: Any, task: str) -> str | None:
    """Have a task cancelled when the transaction is committed.

    Returns its state now, as `state` does.
    """
    was = _value(connection, "SELECT taskd.cancel(%s)", [task])
    return None if was is None else str(was)


def state(connection: Any, task: str) -> str | None:
    """Return the state of a task, such as "waiting" or "succeeded"; None if there is none."""
    found = _value(connection, "SELECT taskd.state(%s)", [task])
    return None if found is None else str(found)


def wake(connection: Any) -> None:
    """Have the nodes look for tasks now, not only in their turn (half a second). Call it after the commit."""
    _value(connection, "SELECT taskd.wake()", [])


def _seconds(given: Seconds | None) -> float | None:
    return given.total_seconds() if isinstance(given, timedelta) else given


def _value(connection: Any, statement: str, values: list[Any]) -> Any:
    """Return the one value that a statement gives."""
    if not hasattr(connection, "cursor") and callable(getattr(connection, "connection", None)):
        connection = connection.connection()  # that of a session of SQLAlchemy
    if hasattr(connection, "exec_driver_sql"):
        return connection.exec_driver_sql(statement, tuple(values)).scalar()
    cursor = connection.cursor()
    try:
        executed = cursor.execute(statement, values)
        if isawaitable(executed):
            _drop(executed)
            kind = type(connection).__qualname__
            raise TypeError(f"{kind} is for asyncio: call the functions of the schema taskd by it")
        return cursor.fetchone()[0]
    finally:
        closed = cursor.close()
        if isawaitable(closed):
            _drop(closed)


def _drop(coroutine: Any) -> None:
    """Close a coroutine, which nobody will await."""
    coroutine.close()
