"""Calls that share a connection, told apart by ids of our own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from twisted.internet.defer import Deferred

from taskd.client.link import OnProgress, report
from taskd.errors import Unreachable
from taskd.model import Call, Outcome, Progress
from taskd.protocol.methods import cancel_line
from taskd.protocol.requests import json_rpc_line, parse_reply

__all__ = ["PendingCalls"]


class _Waiting(Deferred[Outcome]):
    """One call: fires with how it ended."""

    def __init__(
        self, request_id: bytes, on_progress: OnProgress | None, cancel: Callable[[Deferred[Outcome]], None]
    ) -> None:
        super().__init__(cancel)
        self.request_id = request_id
        self.on_progress = on_progress


class PendingCalls:
    """Who waits for a reply on one connection.

    Every call is sent as JSON-RPC under a number, by whose text it is known. A notification is sent as a
    request too, so that a full queue shows. At most `window` calls are sent
    and not answered, the others wait here. `send` gets lines without their LF;
    it is called only between `opened` and `fail`.
    """

    def __init__(self, send: Callable[[bytes], None], window: int) -> None:
        self._send = send
        self._window = window
        self._numbers = count(1)
        # None: nobody waits for this one any more. It has its place until it
        # is answered, so that no more are sent than the server takes.
        self._waiting: dict[bytes, _Waiting | None] = {}
        self._unsent: dict[bytes, bytes] = {}  # of those that wait, in order
        self._is_open = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, call: Call, on_progress: OnProgress | None) -> Deferred[Outcome]:
        """Send a call, now or when the connection is there; fires with its outcome."""
        request_id = b"%d" % next(self._numbers)
        line = json_rpc_line(call, request_id)
        done = _Waiting(request_id, on_progress, self._cancelled)
        self._waiting[request_id] = done
        if self._is_open and len(self._waiting) <= self._window:
            self._send(line)
        else:
            self._unsent[request_id] = line
        return done

    def opened(self) -> None:
        """The connection is there: send what waited for it."""
        self._is_open = True
        self._send_more()

    def _send_more(self) -> None:
        unsent = self._unsent
        while unsent and len(self._waiting) - len(unsent) < self._window:
            self._send(unsent.pop(next(iter(unsent))))

    def received(self, line: bytes) -> None:
        """A reply, or progress. Raises `ParseError` for what is neither."""
        reply = parse_reply(line)
        request_id = b"" if reply.id is None else bytes(reply.id)
        if isinstance(reply.body, Progress):
            waiting = self._waiting.get(request_id)
            if waiting is not None:
                report(waiting.on_progress, reply.body)
        else:
            waiting = self._waiting.pop(request_id, None)
            if self._unsent:
                self._send_more()
            if waiting is not None:
                waiting.callback(reply.body)

    def _cancelled(self, done: Deferred[Outcome]) -> None:
        """Its Deferred was cancelled: so is the task."""
        if not self._has(done):
            return  # it fails along with others, and one of those has cancelled it
        assert isinstance(done, _Waiting)
        if self._unsent.pop(done.request_id, None) is not None:
            del self._waiting[done.request_id]
        else:
            self._waiting[done.request_id] = None
            self._ask_to_cancel(done)

    def _ask_to_cancel(self, done: _Waiting) -> None:
        self._send(cancel_line(done.request_id))

    def ask_to_cancel(self, done: Deferred[Outcome]) -> bool:
        """As `Link.ask_to_cancel`."""
        if not self._has(done):
            return False
        assert isinstance(done, _Waiting)
        if done.request_id in self._unsent:
            done.cancel()
        else:
            self._ask_to_cancel(done)
        return True

    def let_go(self, done: Deferred[Outcome]) -> bool:
        """As `Link.let_go`. The connection is others' too: it stays, and the outcome is read."""
        return self._has(done)

    def _has(self, done: Deferred[Outcome]) -> bool:
        return isinstance(done, _Waiting) and self._waiting.get(done.request_id) is done

    def fail(self, error: Unreachable) -> None:
        """The connection is lost, and with it every call."""
        waiting, self._waiting, self._unsent = self._waiting, {}, {}
        self._is_open = False
        for done in waiting.values():
            # The end of one may have been the reason to cancel another.
            if done is not None and not done.called:
                done.errback(error)
