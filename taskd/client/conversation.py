"""One connection to a task server: bytes in and out, and no I/O.

The owner of a connection passes on what arrives (`receive`), sends what there is
(`data_to_send`), calls `beat` when it is due, and `lost` when the connection ends.
Times are seconds of a clock that never goes back. The rules:

- while a reply or an event is awaited, and nothing was sent or nothing was received
  for `PING_INTERVAL`, a ``taskd.ping`` is sent: so a proxy in between, which cuts
  silent connections, sees traffic in both directions;
- if nothing arrives for `PING_TIMEOUT` after a ping, the connection is dead;
- a token that expires is replaced before, if there is another one: `renew` is called for it;
- once it `is_over` (dead, lost, or what arrived is no reply), every call has failed,
  and it takes no other.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw

from taskd.client.answers import lost
from taskd.client.pending import PendingCalls, Waiter
from taskd.client.tokens import ShownToken
from taskd.errors import ParseError, Unreachable
from taskd.model import Call, Failure
from taskd.net.strangers import not_a_task_server
from taskd.protocol.framing import LineSplitter, LineTooLong
from taskd.protocol.method_names import CANCEL, PING
from taskd.protocol.request_lines import request_line

__all__ = [
    "GATEWAY_PING_LINE",
    "MAX_CALLS",
    "MAX_REPLY",
    "PING_ID",
    "PING_INTERVAL",
    "PING_LINE",
    "PING_TIMEOUT",
    "Conversation",
]

MAX_CALLS = 500
"""Calls in flight on one connection: half of what a task server lets one have, so that it reads on."""

MAX_REPLY = 256 * 1024 * 1024
"""Bytes of the longest reply: a client trusts the server that it chose, up to its own memory."""

PING_INTERVAL = 2.0
"""Seconds of silence before a ping: proxies that cut silent connections wait five at least."""

PING_TIMEOUT = 10.0
"""Seconds without any answer after which a connection is dead. A server answers within milliseconds,
even if all of its workers are busy; a network that loses packets may need some seconds."""

PING_ID = b'"ping"'
"""The id of a ping: none that `PendingCalls` gives, which drops the reply."""

PING_LINE = request_line(Call(PING), PING_ID)
"""A ping, without its LF."""

GATEWAY_PING_LINE = request_line(Call(CANCEL, Raw(b'{"id":"nothing"}')), PING_ID)
"""What a gateway answers itself: it passes a ping on, maybe behind calls that last."""


_REFUSED = "it has refused a message that is too long, and reads nothing that follows it"
"""Why calls fail that were sent behind that message."""


_LEAVING = "it is shutting down"
"""Why a connection is over whose server has refused a call for that."""


class Conversation:
    """The calls, the events and the heartbeat of one connection.

    `server` is its name in errors. `window` is the number of calls in flight; `on_event`
    gets each event of the tasks that are attached, as JSON text. `shown` and `renew` are for
    a connection that shows a token; `renew` is called by `beat`, and should call `show` in time.
    """

    def __init__(
        self,
        server: str,
        *,
        window: int = MAX_CALLS,
        is_gateway: bool = False,
        on_event: Callable[[Raw], object] | None = None,
        ping_interval: float = PING_INTERVAL,
        ping_timeout: float = PING_TIMEOUT,
        max_reply: int = MAX_REPLY,
        shown: ShownToken | None = None,
        renew: Callable[[], object] = bool,  # which does nothing
    ) -> None:
        self.fault = ""
        """Why the conversation is over, in words; "" if it is not."""
        self.is_foreign = False
        """Whether the other end has turned out to be no task server, which has run nothing."""
        self.is_watching = False
        """Whether events are awaited: then the connection is kept alive even if no call is in flight."""
        self.server = server
        self._max_reply = max_reply
        self._interval = ping_interval
        self._timeout = ping_timeout
        self._ping = GATEWAY_PING_LINE if is_gateway else PING_LINE
        self._is_gateway = is_gateway
        self._lines: list[bytes] = []
        self._splitter = LineSplitter(max_reply)
        self._calls = PendingCalls(self._lines_append, window, on_event, shown)
        self._shown = shown
        self._renew = renew
        self._renews_at: float | None = None
        self._is_quiet = True  # since nothing is awaited
        self._sent_at = self._received_at = self._pinged_at = self._beaten_at = 0.0
        self._asked_at: float | None = None  # when the first ping went out that nothing has answered

    def __len__(self) -> int:
        """Return how many calls have not been answered, sent or not."""
        return len(self._calls)

    @property
    def is_over(self) -> bool:
        """Whether the connection must be closed: nothing more can come of it."""
        return bool(self.fault)

    @property
    def takes_calls(self) -> bool:
        """Whether other calls may be sent."""
        return self._calls.takes_more and not (self.fault or self._is_leaving)

    @property
    def _is_leaving(self) -> bool:
        """Whether the task server is about to stop: another connection may lead to another one.

        That of a gateway stays, since only one of its task servers may be about to stop.
        """
        return self._calls.is_leaving and not self._is_gateway

    def _lines_append(self, line: bytes) -> None:
        self._lines.append(line)

    # --- calls ---

    def call(self, call: Call, waiter: Waiter) -> bytes:
        """Send a call, now or when that is possible; returns the id that it is known by.

        Its waiter is never called before this returns. Raises `Unreachable` if the conversation is over.
        """
        if self.fault or self._calls.is_refused:
            raise lost(self.server, self.fault or _REFUSED, sent=False)
        return self._calls.add(call, waiter)

    def cancel(self, request_id: bytes) -> None:
        """Have the task of a call cancelled; a call that was not sent yet ends at once."""
        self._calls.cancel(request_id)

    def detach(self, request_id: bytes) -> None:
        """End a call without its reply, now or once it is sent."""
        self._calls.detach(request_id)

    # --- the connection ---

    def opened(self, now: float, token: str | None = None) -> None:
        """Begin: the connection is made, and can be written to. The token goes ahead of all calls."""
        self._sent_at = self._received_at = self._beaten_at = now
        self._calls.opened(token)

    def show(self, token: str) -> None:
        """Show another token, before the one that was shown expires."""
        if not self.fault:
            self._calls.show(token)

    def deny(self, failure: Failure) -> None:
        """End: the server lets nobody in with this token, or there is none; no call has been run."""
        if not self.fault:
            self._calls.deny(failure)
            self._end(failure.message)

    def data_to_send(self, now: float) -> bytes:
        """Return what must be sent now, and forget it: lines, each with its LF."""
        messages = self.messages_to_send(now)
        if not messages:
            return b""
        if len(messages) == 1:
            return messages[0] + b"\n"
        messages.append(b"")
        return b"\n".join(messages)

    def messages_to_send(self, now: float) -> list[bytes]:
        """Return what must be sent now, and forget it: for a websocket, whose messages have no LF."""
        messages, self._lines = self._lines, []
        if messages:
            self._sent_at = now
            if self._is_quiet:  # what has not arrived meanwhile was not awaited
                self._received_at = self._beaten_at = now
                self._is_quiet = False
        return messages

    @property
    def has_data_to_send(self) -> bool:
        """Whether `data_to_send` would return anything."""
        return bool(self._lines)

    def receive(self, data: bytes, now: float) -> None:
        """Take in what has arrived, cut in any way."""
        self._note_arrival(now)
        try:
            lines = self._splitter.receive(data)
        except LineTooLong as error:
            self._take(error.lines)
            self._end(f"its reply is over {self._max_reply} bytes")
        else:
            self._take(lines)

    def receive_message(self, message: bytes, now: float) -> None:
        """Take in a message of a websocket."""
        self._note_arrival(now)
        self._take([message])

    def _note_arrival(self, now: float) -> None:
        self._received_at = now
        self._asked_at = None

    def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            if self.fault:
                return
            try:
                self._calls.received(line)
            except ParseError as error:
                foreign = not_a_task_server(line)
                self.is_foreign = bool(foreign)
                self._end(foreign or f"it is no task server: {error}")
                return
        if self._calls.is_refused:
            self._calls.fail_unread(lost(self.server, _REFUSED, sent=False))
            if not len(self._calls):
                self._end(_REFUSED)
        if self._is_leaving and not self._is_awaiting:
            self._end(_LEAVING)
        if self._calls.denial is not None and not len(self._calls):
            self._end(self._calls.denial.message)
        if self._shown is not None and self._shown.renews_in is not None:
            self._renews_at = self._received_at + self._shown.renews_in
            self._shown.renews_in = None
        if not self._is_awaiting:
            self._is_quiet = True

    def refused(self, failure: Failure) -> None:
        """Take in that the server has refused a message, if it shows whose that is: one call is in flight."""
        if len(self._calls) == 1:
            self._calls.refuse_oldest(failure)

    def turned_away(self, denial: Failure) -> None:
        """End: the server has closed the connection because of its token."""
        if self._shown is not None and self._shown.was_accepted:
            self.lost(denial.message)  # calls may have been run before that
        else:
            self.deny(denial)

    def lost(self, why: str) -> None:
        """End: the connection could not be made, or is lost.

        What `data_to_send` has returned counts as sent.
        """
        if self.fault:
            return
        cut_off = self._splitter.receive(b"\n") if self._splitter.unfinished else []
        foreign = not_a_task_server(cut_off[0]) if cut_off else ""
        self.is_foreign = bool(foreign)
        denial = self._calls.denial
        self._end(foreign or (why if denial is None else denial.message))

    def _end(self, why: str) -> None:
        if self.fault:
            return
        self.fault = why
        self._lines.clear()
        self._calls.fail(lambda sent: self.unreachable(sent=sent and not self.is_foreign))

    def unreachable(self, *, sent: bool) -> Unreachable:
        """Return the error of a call that was lost with the connection, for the reason that is known."""
        return lost(self.server, self.fault, sent=sent)

    # --- the heartbeat ---

    @property
    def _is_awaiting(self) -> bool:
        return self.is_watching or len(self._calls) > 0

    def next_beat(self) -> float | None:
        """Return when `beat` must be called next; None if nothing is awaited."""
        ping = self._next_ping()
        return ping if ping is None or self._renews_at is None else min(ping, self._renews_at)

    def _next_ping(self) -> float | None:
        if self.fault or not self._is_awaiting:
            return None
        due = max(min(self._sent_at, self._received_at), self._pinged_at) + self._interval
        return due if self._asked_at is None else min(due, self._asked_at + self._timeout)

    def beat(self, now: float) -> None:
        """Send a ping if one is due, or give the connection up. Pass on what has arrived before.

        Ask for another token if this one is about to expire.
        """
        due = self._next_ping()
        if due is not None and self._renews_at is not None and now >= self._renews_at:
            self._renews_at = None
            self._renew()
        was_held_up = now - self._beaten_at > 2 * self._interval
        self._beaten_at = now
        if due is None or now < due:
            return
        if self._asked_at is not None and now - self._asked_at >= self._timeout:
            if not was_held_up:
                self._end(f"it has not answered for {self._timeout:g} s")
                return
            self._asked_at = now  # this process was stopped, and may have missed the answer
        self._pinged_at = now
        if self._asked_at is None:
            self._asked_at = now
        self._lines.append(self._ping)
