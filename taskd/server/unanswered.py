"""Failures that no reply carries: counted by reason, and logged at a bounded rate.

A notification has no reply, a caller may be gone before its task has failed,
and a message that cannot be read does not show whose it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from taskd.errors import Cancelled, error_name, quoted
from taskd.model import Failure, Outcome
from taskd.net.timers import Alarm
from taskd.protocol.method_names import CANCEL
from taskd.protocol.methods import WAS_DONE

__all__ = ["LOG_INTERVAL", "MAX_NAMES", "Unanswered"]

_log = Logger(namespace="taskd.unanswered")

LOG_INTERVAL = 60.0
"""Seconds between two lines about one reason and function: a loop that fails a thousand times a
second is noticed as well by one line a minute, and the log stays readable."""

MAX_NAMES = 10
"""Functions of one reason that have lines of their own within `LOG_INTERVAL`. The names come from
clients, who must fill neither the memory nor the log."""

MAX_NAME = 50
"""Characters of a function's name in the log."""

MAX_MESSAGE_SHOWN = 200
"""Characters of an error's message in the log."""

NOTHING_TO_CANCEL, DISCONNECTED = "nothing to cancel", "disconnected"
"""The reasons that are not the name of an error."""

_NO_NAME, _OTHERS = "a message", "other functions"


@dataclass(slots=True)
class _Recent:
    """What came since the last line about one reason and function, and when the next line may come.

    That are `more` failures, the last of them with `message`.
    """

    until: float
    more: int = 0
    message: str = ""


class Unanswered:
    """The failures that no reply carries, of one server or gateway.

    `counts` has their numbers by reason, the name of their error. For each
    reason and function the first one is logged at once, and how many more came
    once in each `LOG_INTERVAL` as long as it goes on.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._alarm = Alarm(clock, self._log_more)
        self._recent: dict[str, dict[str, _Recent]] = {}
        self.counts: dict[str, int] = {}

    def notification_ended(self, function: str, outcome: Outcome) -> None:
        """Note a notification's outcome, if it has failed or was a ``taskd.cancel`` that named nothing."""
        if type(outcome) is Failure:
            self._note(function, error_name(outcome.code), outcome.message)
        elif function == CANCEL and outcome == WAS_DONE:
            self._note(function, NOTHING_TO_CANCEL, "no request or task in flight was named")

    def caller_was_gone(self, function: str, outcome: Outcome) -> None:
        """Note the outcome of a request whose caller had gone, if it has failed.

        A cancelled one has ended as somebody wished: the caller itself, by
        ``on_disconnect``, or whoever has been answered instead.
        """
        if type(outcome) is Failure and outcome.code != Cancelled.code:
            self._note(function, error_name(outcome.code), outcome.message)

    def messages_were_dropped(self, count: int) -> None:
        """Note that a connection has ended before `count` of its messages could be read."""
        self._note("", DISCONNECTED, f"{count} messages were dropped with their connection", count)

    def close(self) -> None:
        """Log what was only counted since the last lines."""
        for reason, by_name in self._recent.items():
            for name, recent in by_name.items():
                if recent.more:
                    self._log(reason, name, recent)
        self._recent.clear()

    def _note(self, function: str, reason: str, message: str, count: int = 1) -> None:
        counted = reason.replace(" ", "_")
        self.counts[counted] = self.counts.get(counted, 0) + count
        by_name = self._recent.setdefault(reason, {})
        name = quoted(function, MAX_NAME) or _NO_NAME
        if name not in by_name and len(by_name) >= MAX_NAMES:
            name = _OTHERS
        recent = by_name.get(name)
        if recent is not None:
            recent.more += count
            recent.message = quoted(message, MAX_MESSAGE_SHOWN)
            return
        _log.warn(
            "unanswered failure of {function} ({reason}): {why}",
            function=_harmless(name),
            reason=reason,
            why=_harmless(quoted(message, MAX_MESSAGE_SHOWN)),
        )
        until = self._clock.seconds() + LOG_INTERVAL
        by_name[name] = _Recent(until)
        self._alarm.set(until)

    def _log_more(self) -> None:
        now = self._clock.seconds()
        for reason, by_name in list(self._recent.items()):
            for name, recent in list(by_name.items()):
                if recent.until <= now and recent.more:
                    self._log(reason, name, recent)
                    recent.more, recent.until = 0, now + LOG_INTERVAL
                elif recent.until <= now:
                    del by_name[name]
                if name in by_name:
                    self._alarm.set(recent.until)
            if not by_name:
                del self._recent[reason]

    @staticmethod
    def _log(reason: str, name: str, recent: _Recent) -> None:
        _log.warn(
            "unanswered failures of {function} ({reason}): {more} more since; the last one: {why}",
            function=_harmless(name),
            reason=reason,
            more=recent.more,
            why=_harmless(recent.message),
        )


def _harmless(text: str) -> str:
    """Escape what a terminal would not print: the text comes from clients and from tasks."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
