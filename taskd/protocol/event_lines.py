"""Events of stored tasks and batches, as notifications (``taskd.event``) and in lists."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Kind", "event_line", "event_params"]

Kind = Literal["task", "batch"]
"""What an event is about: the name of the parameter that has its id."""


def event_params(kind: Kind, id: str, seq: int, event: str, at: float, data: bytes) -> bytes:  # noqa: A002
    """Encode an event as a JSON object. `data` is JSON text of an object, whose members are added.

    These must not be named like the event's own: task, batch, seq, event and at.
    """
    more = b"," + data[1:] if len(data) > len(b"{}") else b"}"
    own = (kind.encode(), msgspec.json.encode(id), seq, msgspec.json.encode(event), msgspec.json.encode(at))
    return b'{"%b":%b,"seq":%d,"event":%b,"at":%b%b' % (*own, more)


def event_line(params: bytes) -> bytes:
    """Return the notification, without its LF, of an event that `event_params` has encoded."""
    return b'{"jsonrpc":"2.0","method":"taskd.event","params":%b}' % params
