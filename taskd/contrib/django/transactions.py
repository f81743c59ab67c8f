"""Tasks submitted in the transactions of a database of Django's, which the server has for a store."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import connections, transaction

from taskd.contrib.django.order import FUNCTION, Order
from taskd.contrib.postgres import submit, wake

__all__ = ["submit_within"]


def submit_within(database: str, order: Order, **options: Any) -> str:
    """Submit a task in the transaction of the database with this alias; return its id.

    Outside a transaction it is stored at once. Raises Django's `DatabaseError` if the database refuses it.
    """
    connection = connections[database]
    accepted = submit(connection, FUNCTION, order.arguments, **options)
    # A server that is not woken looks by itself soon: so no error of this is one of the caller's.
    transaction.on_commit(partial(wake, connection), using=database, robust=True)
    return accepted
