"""A connection of an `AsyncClient`: an asyncio transport below a `Conversation`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from msgspec import Raw

from taskd.client.addresses import Address, UnixAddress, WebSocketAddress
from taskd.client.conversation import MAX_CALLS, Conversation
from taskd.client.pending import Waiter
from taskd.model import Call

__all__ = ["MAX_CALLS_PER_WEBSOCKET", "AsyncConnection"]

MAX_CALLS_PER_WEBSOCKET = 80
"""Calls that are sent and not answered: less than the 100 that a gateway takes,
so that it reads on, and what cancels them is not kept waiting."""


class AsyncConnection(asyncio.Protocol):
    """One connection: it is made by `connect`, and `on_over` is called once nothing more can come of it.

    Calls may be given to it before it is open. What is asked in one turn of the loop is written in one piece.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: Address,
        tls: ssl.SSLContext | None,
        *,
        on_event: Callable[[Raw], object],
        on_over: Callable[[AsyncConnection], object],
    ) -> None:
        self.window = MAX_CALLS_PER_WEBSOCKET if isinstance(address, WebSocketAddress) else MAX_CALLS
        self.talk = Conversation(address.text, window=self.window, on_event=on_event)
        self.is_open = False
        """Whether calls are sent as they come, and not only once the connection is made."""
        self.was_open = False
        self.is_refused = False
        """Whether the server's certificate was refused, so that another attempt would be no use."""
        self._loop = loop
        self._address = address
        self._tls = tls
        self._on_over = on_over
        self._transport: asyncio.Transport | None = None
        self._is_flushing = False
        self._beat: asyncio.TimerHandle | None = None
        self._has_reported = False
        self._ready = asyncio.Event()
        if isinstance(address, WebSocketAddress):
            from taskd.client.websocket_wire import (
                WebSocketWire,  # which those without websockets need not have
            )

            self._wire: WebSocketWire | None = WebSocketWire(address)
        else:
            self._wire = None

    # --- calls ---

    def call(self, call: Call, waiter: Waiter) -> bytes:
        """Send a call, now or once the connection is open. As `Conversation.call`."""
        request_id = self.talk.call(call, waiter)
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)
        return request_id

    def drop(self, request_id: bytes) -> None:
        """Have the task of a call cancelled, whose end nobody awaits any more."""
        self.talk.cancel(request_id)
        self.talk.detach(request_id)
        self.flush_soon()

    def flush_soon(self) -> None:
        """Write what there is when this turn of the loop ends."""
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        transport = self._transport
        if transport is None or not self.is_open:
            return
        now = self._loop.time()
        if self._wire is None:
            data = self.talk.data_to_send(now)
        else:
            messages = self.talk.messages_to_send(now)
            if messages:
                self._wire.send(messages)
            data = self._wire.data_to_send()
        if data:
            transport.write(data)
            if self._beat is None:
                self._set_beat()

    # --- the heartbeat ---

    def _set_beat(self) -> None:
        due = self.talk.next_beat()
        self._beat = None if due is None else self._loop.call_at(due, self._beat_is_due)

    def _beat_is_due(self) -> None:
        self._beat = None
        self.talk.beat(self._loop.time())
        if self.talk.is_over:
            self._end()
            return
        self._flush()
        if self._beat is None:
            self._set_beat()

    # --- the connection ---

    async def connect(self, timeout: float) -> None:
        """Connect within so many seconds; if that is not possible, the calls fail, and nothing is raised."""
        try:
            async with asyncio.timeout(timeout):
                await self._connect()
                await self._ready.wait()
        except (OSError, ssl.SSLError) as error:
            self.is_refused = isinstance(error, ssl.SSLCertVerificationError)
            self.fail(self._explained(error, timeout))
        except BaseException:
            self.fail("the attempt to connect was given up")
            raise

    async def _connect(self) -> None:
        address = self._address
        if isinstance(address, UnixAddress):
            await self._loop.create_unix_connection(lambda: self, address.path)
            return
        name = None if self._tls is None else address.host
        await self._loop.create_connection(
            lambda: self, address.host, address.port, ssl=self._tls, server_hostname=name
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what waits to be sent."""
        self._transport = cast("asyncio.Transport", transport)
        if self.talk.is_over:
            self._transport.abort()
        elif self._wire is None:
            self._opened()
        else:
            self._transport.write(self._wire.data_to_send())

    def _opened(self) -> None:
        self.is_open = self.was_open = True
        self._ready.set()
        self.talk.opened(self._loop.time())
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Pass on what has arrived."""
        talk = self.talk
        if self._wire is None:
            talk.receive(data, self._loop.time())
        else:
            self._received_frames(data)
        if talk.is_over:
            self._end()
        elif not self._is_flushing and talk.has_data_to_send:
            self.flush_soon()

    def _received_frames(self, data: bytes) -> None:
        wire = self._wire
        assert wire is not None
        messages = wire.receive(data)
        if wire.is_open and not self.is_open:
            self._opened()
        now = self._loop.time()
        for message in messages:
            self.talk.receive_message(message, now)
        if wire.fault:
            self.talk.lost(wire.fault, was_written=self.is_open)
        elif not self.talk.is_over:
            self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the calls."""
        self.fail("it closed the connection" if exc is None else self._explained(exc))

    def fail(self, why: str) -> None:
        """Fail the calls, and close: the connection could not be made, is lost, or is not wanted any more."""
        self.talk.lost(why, was_written=self.is_open)
        self._end()

    def close(self, why: str) -> None:
        """Close behind what has been sent, and fail the calls."""
        self._flush()
        if self._wire is not None and self._transport is not None:
            self._wire.close()
            self._transport.write(self._wire.data_to_send())
        if self._transport is not None:
            self._transport.close()
        self.fail(why)

    def _end(self) -> None:
        self.is_open = False
        self._ready.set()
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
        if not self._has_reported:
            self._has_reported = True
            self._on_over(self)

    def _explained(self, error: Exception, timeout: float = 0.0) -> str:
        """Return why the connection could not be made or was lost, in words."""
        if isinstance(error, ssl.SSLError):
            from taskd.client.tls_context import why_refused

            host = "" if isinstance(self._address, UnixAddress) else self._address.host
            return why_refused(error, host)
        if isinstance(error, TimeoutError) and not error.strerror:
            return f"it has not answered within {timeout:g} s"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        return str(error) or type(error).__name__
