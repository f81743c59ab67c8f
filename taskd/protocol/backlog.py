"""The backlog of a session: what a connection has sent and nobody has read, worked off in steps."""

from __future__ import annotations

from collections import deque

from taskd.errors import TaskdError
from taskd.protocol.requests import BatchMember

__all__ = ["MESSAGE_COST", "STEP", "Backlog", "backlog_size"]

STEP = 65536
"""Bytes of messages read in one step, as many as one read of a socket brings; the last may go beyond."""

MESSAGE_COST = 2048
"""Bytes that any message counts as, besides its own: so a step is at most 32 messages (members of a
batch one by one), which take a millisecond or two even if they are the costliest of their size."""

Backlog = deque[bytes | BatchMember | TaskdError]
"""What has been received and not been read, and the errors in place of what cannot be read."""


def backlog_size(backlog: Backlog) -> int:
    """Return the bytes of what has been received."""
    return sum(map(_size, backlog))


def _size(message: bytes | BatchMember | TaskdError) -> int:
    if isinstance(message, bytes):
        return len(message)
    return message.size if isinstance(message, BatchMember) else 0
