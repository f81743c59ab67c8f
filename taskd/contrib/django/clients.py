"""The clients of a Django process, one for each server; a restart of the server fails none of their calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from time import monotonic, sleep
from typing import Any, TypeVar
from uuid import uuid4

from taskd.client.blocking import Client
from taskd.contrib.django.order import FUNCTION, Order
from taskd.errors import ShuttingDown, Unreachable

__all__ = ["ask", "client_for", "submit"]

Value = TypeVar("Value")

RESTART = 5.0
"""Seconds for which a server that is being restarted is tried again: as long as a client tries to connect."""

PAUSE = 0.1
"""Seconds between two tries."""


@cache
def client_for(server: str | None, token: str | None = None) -> Client:
    """Return the client for a server's address and a token, None for those of the environment.

    All backends of a process share it, since Django makes one for each thread and each
    request. Raises `ValueError` if `server` is no address, or `token` is none.
    """
    return Client(server, token=token)


def submit(client: Client, order: Order, **options: Any) -> str:
    """Have a task stored, and return its id.

    If the connection is lost before the answer, the task is submitted again with the same
    token: the server stores it once. Raises the classes of `taskd.errors`.
    """
    sender = client.with_options(token=uuid4().hex, **options)
    return _patiently(lambda: sender.submit(FUNCTION, **order.arguments).id)


def ask(client: Client, method: str, **params: Any) -> Any:
    """Return the answer to a method of the server that changes nothing. Raises as `submit` does."""
    return _patiently(lambda: client.call(method, **params))


def _patiently(attempt: Callable[[], Value]) -> Value:
    """Return what `attempt` does, which is tried again while the server is being restarted."""
    until = monotonic() + RESTART
    while True:
        try:
            return attempt()
        except (ShuttingDown, Unreachable) as error:
            was_sent = error.data.get("sent", True)
            if not was_sent or monotonic() > until:  # the client has tried to connect for as long
                raise
        sleep(PAUSE)
