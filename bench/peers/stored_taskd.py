"""Stored tasks on taskd: the app, and a client that blocks, over one connection.

The variable `TASKD_PORT` names the port.
"""

from __future__ import annotations

import json
import os
import socket
from functools import cache
from typing import BinaryIO

import marks

from taskd import task

WINDOW = 500
"""Submits in flight, where many are sent."""


@task(durable=True)
def stored(sent: float) -> None:
    """Note that it runs."""
    marks.note(sent)


@task(durable=True)
def stored_echo(value: object) -> object:
    """Return what was given."""
    return value


@cache
def connection() -> BinaryIO:
    """A connection to the server."""
    sock = socket.create_connection(("127.0.0.1", int(os.environ["TASKD_PORT"])))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock.makefile("rwb")


def _send(stream: BinaryIO, sent: float, many: int = 1) -> None:
    request = json.dumps({"function": "taskd.submit", "args": ["stored", [sent]]}) + "\n"
    stream.write(many * request.encode())
    stream.flush()


def _receive(stream: BinaryIO) -> None:
    reply = json.loads(stream.readline())
    if not isinstance(reply, dict) or "task" not in reply:
        raise SystemExit(f"not accepted: {reply}")


def submit(sent: float) -> None:
    """Return once it is acknowledged, which is after the commit."""
    stream = connection()
    _send(stream, sent)
    _receive(stream)


def fill(tasks: int) -> None:
    """Keep some submits in flight."""
    stream = connection()
    for done in range(0, tasks, WINDOW):
        some = min(WINDOW, tasks - done)
        _send(stream, 0.0, some)
        for _ in range(some):
            _receive(stream)
