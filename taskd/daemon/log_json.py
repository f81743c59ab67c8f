"""The log as JSON: one object on each line, for programs that collect logs. No I/O."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from twisted.logger import LogEvent, LogLevel, eventAsText
from twisted.python.failure import Failure

from taskd.printable import printable

__all__ = ["as_json"]

_TRACEBACK = "Traceback (most recent call last):"

_FIELDS = ("function", "task", "id", "worker", "pid", "trace_id")
"""The keys of an event that become members, if it has them: what an operator filters by."""

_LINE = "{line}"
"""The end of a format whose value `line` is the message: what stands before it, the fields have, too."""


def as_json(event: LogEvent) -> str | None:
    """Return an event as a JSON object and an LF; None if the event has no text.

    The members are `time` (ISO 8601, in UTC), `level`, `namespace`, `message` and, if
    the event has them, `_FIELDS` and `traceback`. All texts are made printable.
    """
    message, traceback = _texts(event)
    if not message and not traceback:
        return None
    level = event.get("log_level", LogLevel.info)
    moment = datetime.fromtimestamp(event.get("log_time", time.time()), UTC)
    members: dict[str, Any] = {
        "time": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": getattr(level, "name", "info"),
        "namespace": event.get("log_namespace") or "-",
        "message": message,
    }
    for field in _FIELDS:
        if (value := event.get(field)) is not None:
            members[field] = value if isinstance(value, int) else printable(str(value))
    if traceback:
        members["traceback"] = traceback
    return f"{json.dumps(members, ensure_ascii=False)}\n"


def _texts(event: LogEvent) -> tuple[str, str]:
    """Return an event's message and its traceback, "" if it has none."""
    failure = event.get("log_failure")
    is_line = str(event.get("log_format", "")).endswith(_LINE)
    message = str(event.get("line", "")) if is_line else _without_traceback(event)
    traceback = failure.getTraceback() if isinstance(failure, Failure) else event.get("traceback")
    if isinstance(traceback, str) and traceback:
        message = message.removesuffix(traceback)
    elif (place := message.find(_TRACEBACK)) >= 0 and message[max(place - 1, 0)] in ("\n", "T"):
        message, traceback = message[:place], message[place:]
    return printable(message).rstrip(), printable(str(traceback or "")).rstrip()


def _without_traceback(event: LogEvent) -> str:
    return eventAsText(event, includeTraceback=False, includeTimestamp=False, includeSystem=False)
