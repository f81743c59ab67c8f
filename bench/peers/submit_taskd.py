"""Submits by the blocking client of taskd; the variable `TASKD_SERVER` names the server."""

from __future__ import annotations

from taskd.client import Client

client = Client()


def submit(sent: float) -> None:
    """Return once the task is stored."""
    client.submit("echo", sent)
