"""The calls and the connections of an `AsyncClient` in one event loop."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskd.client.addresses import Address
from taskd.client.aio_connection import AsyncConnection
from taskd.client.answers import Following, lost, not_in_time
from taskd.client.conversation import PING_INTERVAL, PING_TIMEOUT
from taskd.client.tokens import Credentials, has_expired
from taskd.client.watches import Watch, Watches
from taskd.client.words import OnProgress, named_call
from taskd.errors import TaskdError, Unreachable
from taskd.model import Call, Outcome, Progress
from taskd.protocol.method_names import ATTACH, DETACH

__all__ = ["AsyncLink"]

MAX_CONNECTIONS = 8
"""Connections to one server: one takes `MAX_CALLS`, of which waits for stored tasks are some."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
"""Seconds before the second attempt to connect, and between two later ones: a restart takes about one."""

CLOSED = "this client closed the connection"
"""Why a call failed whose client was closed."""

_log = logging.getLogger("taskd.client")


class _Waiter:
    """One call, and the future of its outcome. Is a `taskd.client.pending.Waiter`."""

    __slots__ = (
        *("call", "connection", "give_up_at", "has_renewed"),
        *("link", "on_progress", "outcome", "request_id"),
    )

    connection: AsyncConnection
    request_id: bytes

    def __init__(
        self, link: AsyncLink, call: Call, outcome: asyncio.Future[Outcome], on_progress: OnProgress | None
    ) -> None:
        self.link = link
        self.call = call
        self.outcome = outcome
        self.on_progress = on_progress
        self.give_up_at: float | None = None
        self.has_renewed = False
        """Whether it was refused, and sent again, since the token had expired."""

    def progressed(self, progress: Progress) -> None:
        """Pass progress on. What the callback raises is logged, and harms no other call."""
        if self.on_progress is not None and not self.outcome.done():
            try:
                self.on_progress(progress)
            except Exception:
                _log.exception("an on_progress callback raised")

    def ended(self, outcome: Outcome) -> None:
        """Take the outcome, or send the call once more, with a new token."""
        if not self.outcome.done() and not self.link.renews(self, outcome):
            self.outcome.set_result(outcome)

    def failed(self, error: Unreachable) -> None:
        """Send the call again if it was not sent; else fail."""
        if not self.outcome.done() and not self.link.sends_again(self, error):
            self.outcome.set_exception(error)

    def give_up(self, error: TaskdError) -> None:
        """Fail: the wait has taken too long."""
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.connection.drop(self.request_id)


class _Attach(_Waiter):
    """The call that begins a watch, over one connection and no other."""

    __slots__ = ("watch",)

    def __init__(self, link: AsyncLink, call: Call, watch: Watch) -> None:
        super().__init__(link, call, link.loop.create_future(), None)
        self.watch = watch
        self.give_up_at = 0.0
        self.has_renewed = True  # which another connection would do

    def ended(self, outcome: Outcome) -> None:
        """Begin at once: events may follow the outcome in the same read."""
        self.watch.begin()
        super().ended(outcome)


class AsyncLink:
    """Keeps connections to one server, and finds one for each call."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: Address,
        tls: ssl.SSLContext | None,
        connect_timeout: float,
        ping_interval: float = PING_INTERVAL,
        ping_timeout: float = PING_TIMEOUT,
        credentials: Credentials | None = None,
    ) -> None:
        self.loop = loop
        self._credentials = credentials
        self._address = address
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._pings = {"ping_interval": ping_interval, "ping_timeout": ping_timeout}
        self._connections: dict[AsyncConnection, Watches] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._failures = 0  # attempts to connect, since one has succeeded
        self._is_closed = False

    # --- calls ---

    async def outcome(
        self, call: Call, on_progress: OnProgress | None = None, wait: float | None = None
    ) -> Outcome:
        """Send a call and wait for its outcome, for `wait` seconds at most.

        A call that was not sent is sent again, for `connect_timeout` seconds. Raises
        `Unreachable`, or `WaitTimeout`. The end of the wait, and being cancelled,
        cancel the task.
        """
        waiter = _Waiter(self, call, self.loop.create_future(), on_progress)
        self._send(waiter)
        timer = None
        if wait is not None:
            error = not_in_time(call.function, wait, "it was asked to be cancelled")
            timer = self.loop.call_later(wait, waiter.give_up, error)
        try:
            return await waiter.outcome
        except asyncio.CancelledError:
            waiter.connection.drop(waiter.request_id)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _send(self, waiter: _Waiter) -> None:
        connection = self._with_room()
        if not connection.is_open and waiter.give_up_at is None:
            waiter.give_up_at = self.loop.time() + self._connect_timeout
        waiter.connection = connection
        waiter.request_id = connection.call(waiter.call, waiter)

    def sends_again(self, waiter: _Waiter, error: Unreachable) -> bool:
        """Send a call again, on another connection, if it was not sent and there is time left."""
        if error.data["sent"] or self._is_closed or not waiter.connection.may_try_again:
            return False
        now = self.loop.time()
        if waiter.give_up_at is None:
            waiter.give_up_at = now + self._connect_timeout
        if now >= waiter.give_up_at:
            return False
        self._send(waiter)
        return True

    @property
    def _is_renewable(self) -> bool:
        return self._credentials is not None and self._credentials.is_renewable

    def renews(self, waiter: _Waiter, outcome: Outcome) -> bool:
        """Send a call again that was refused, and not run, since the token had expired: once."""
        if not has_expired(outcome) or waiter.has_renewed or self._is_closed or not self._is_renewable:
            return False
        waiter.has_renewed = True
        self._send(waiter)
        return True

    def clock(self) -> float:
        """Return the seconds of the event loop's clock."""
        return self.loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait before another attempt."""
        await asyncio.sleep(seconds)

    # --- connections ---

    def _with_room(self) -> AsyncConnection:
        """Return the first connection that is not full, or a new one; if there are too many, the emptiest."""
        if self._is_closed:
            raise lost(self._address.text, CLOSED, sent=False)
        for connection in self._connections:
            if len(connection.talk) < connection.window and connection.talk.takes_calls:
                return connection
        alive = [each for each in self._connections if each.talk.takes_calls]
        if len(alive) >= MAX_CONNECTIONS:
            return min(alive, key=lambda each: len(each.talk))
        return self._connect()

    def _connect(self) -> AsyncConnection:
        watches = Watches()
        connection = AsyncConnection(
            self.loop,
            self._address,
            self._tls,
            on_event=watches.pushed,
            on_over=self._is_over,
            **self._pings,
            credentials=self._credentials,
        )
        self._connections[connection] = watches
        pause = min(FIRST_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE) if self._failures else 0.0
        task = self.loop.create_task(self._make(connection, pause))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return connection

    async def _make(self, connection: AsyncConnection, pause: float) -> None:
        try:
            await asyncio.sleep(pause)
        except asyncio.CancelledError:
            connection.fail("the attempt to connect was given up")
            raise
        await connection.connect(self._connect_timeout)
        if connection.is_open:
            self._failures = 0

    def _is_over(self, connection: AsyncConnection) -> None:
        watches = self._connections.pop(connection, None)
        if not connection.was_open:
            self._failures += 1
        if watches is not None:
            watches.lost(lost(self._address.text, connection.talk.fault, sent=True))

    async def close(self) -> None:
        """Drop the connections; calls in flight fail, and their tasks go on."""
        self._is_closed = True
        for connection in list(self._connections):
            connection.close(CLOSED)
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    def abandon(self) -> None:
        """Drop the connections of an event loop that is closed."""
        for connection in self._connections:
            connection.abandon()
        self._connections.clear()

    # --- events ---

    @asynccontextmanager
    async def watching(self, following: Following) -> AsyncIterator[Watch]:
        """Watch the events of a task or a batch over one connection. Raises the server's refusal."""
        connection = self._with_room()
        watches = self._connections[connection]
        watch = Watch(asyncio.Event(), following)
        after = watches.add(watch)
        connection.talk.is_watching = True
        try:
            attach = named_call(ATTACH, {following.kind: following.id, "after": after})
            outcome = await self._attached(connection, attach, watch)
            if self._is_renewable and has_expired(outcome):
                raise lost(self._address.text, "its token had expired", sent=False)
            following.attached(outcome)
            yield watch
        finally:
            if watches.remove(watch):
                connection.talk.is_watching = bool(watches)
                if not connection.talk.is_over:
                    self._send_unheeded(connection, named_call(DETACH, {following.kind: following.id}))

    def _send_unheeded(self, connection: AsyncConnection, call: Call) -> None:
        """Send a call over this connection, whose outcome nobody awaits."""
        waiter = _Waiter(self, call, self.loop.create_future(), None)
        connection.talk.detach(connection.call(call, waiter))

    async def _attached(self, connection: AsyncConnection, call: Call, watch: Watch) -> Outcome:
        """Send an attach over this connection and no other, and wait for its outcome."""
        waiter = _Attach(self, call, watch)
        waiter.connection = connection
        waiter.request_id = connection.call(call, waiter)
        try:
            return await waiter.outcome
        finally:
            if not connection.talk.is_over:
                connection.talk.detach(waiter.request_id)
