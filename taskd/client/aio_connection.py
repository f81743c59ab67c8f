"""A connection of an `AsyncClient`: an asyncio transport below a `Conversation`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from msgspec import Raw

from taskd.client.addresses import Address, UnixAddress, WebSocketAddress
from taskd.client.conversation import MAX_CALLS, PING_INTERVAL, PING_TIMEOUT, Conversation
from taskd.client.pending import Waiter
from taskd.client.sockets import ConnectFailed, Framing, LineFraming, set_options, why_lost, why_not
from taskd.client.tokens import Credentials, ShownToken
from taskd.errors import NotAllowed
from taskd.model import Call, Failure

if TYPE_CHECKING:
    from taskd.client.websocket_frames import Handshake

__all__ = ["AsyncConnection"]

_log = logging.getLogger("taskd.client")


class AsyncConnection(asyncio.Protocol):
    """One connection: it is made by `connect`, and `on_over` is called once nothing more can come of it.

    With `credentials` it shows a token ahead of all calls, and another before that expires.
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
        ping_interval: float = PING_INTERVAL,
        ping_timeout: float = PING_TIMEOUT,
        credentials: Credentials | None = None,
    ) -> None:
        self.is_open = False
        """Whether calls are sent as they come, and not only once the connection is made."""
        self.was_open = False
        self.may_pass = True
        """Whether another attempt may succeed, if this one has failed."""
        self._loop = loop
        self._address = address
        self._tls = tls
        self._on_over = on_over
        self._transport: asyncio.Transport | None = None
        self._is_flushing = False
        self._beat: asyncio.TimerHandle | None = None
        self._has_reported = False
        self._credentials = credentials
        self._token: str | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._framing: Framing = LineFraming()
        self._handshake: Handshake | None = None
        self.window = MAX_CALLS
        if isinstance(address, WebSocketAddress):
            from taskd.client.websocket_frames import WINDOW, Handshake  # which needs wsproto

            self.window = WINDOW
            self._handshake = Handshake(address)
        self.talk = Conversation(
            address.text,
            window=self.window,
            is_gateway=isinstance(address, WebSocketAddress),
            on_event=on_event,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            shown=None if credentials is None else ShownToken(is_renewable=credentials.is_renewable),
            renew=self._renew,
        )

    @property
    def may_try_again(self) -> bool:
        """Whether another connection may do what this one could not."""
        return self.may_pass and not self.talk.is_foreign

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
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        transport = self._transport
        if transport is None or not self.is_open:
            return
        data = self._framing.outgoing(self.talk, self._loop.time())
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
            if self._credentials is not None:
                self._token = await self._asked_in_time(self._credentials, timeout)
            async with asyncio.timeout(timeout):
                await self._connect()
                await self._ready.wait()
        except NotAllowed as error:
            _log.debug("there is no token for %s", self.talk.server, exc_info=error.__cause__)
            self.talk.deny(Failure.of(error))
            self._end()
        except ssl.SSLError as error:
            self.may_pass = False
            self.fail(self._why_refused(error))
        except OSError as error:
            self.may_pass = not isinstance(error, PermissionError)
            if error.errno and not isinstance(
                error, socket.gaierror
            ):  # asyncio's own text has the address, and no reason
                error = OSError(error.errno, os.strerror(error.errno))
            self.fail(why_not(error))
        except BaseException:
            self.fail("the attempt to connect was given up")
            raise

    async def _asked_in_time(self, credentials: Credentials, seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds):
                return await credentials.awaited()
        except TimeoutError:
            why = f"there is no token: the function for it has not returned within {seconds:g} s"
            raise NotAllowed(why, reason="no token") from None

    def _renew(self) -> None:
        self._renewal = self._loop.create_task(self._show_another())

    async def _show_another(self) -> None:
        """Show another token. If there is none, the server closes the connection when this one expires."""
        assert self._credentials is not None
        try:
            self.talk.show(await self._credentials.awaited())
        except NotAllowed as error:
            _log.warning("no new token for %s: %s", self.talk.server, error, exc_info=error.__cause__)
        self._flush_soon()

    async def _connect(self) -> None:
        address = self._address
        if isinstance(address, UnixAddress):
            await self._loop.create_unix_connection(lambda: self, address.path)
            return
        name = None if self._tls is None else address.host
        await self._loop.create_connection(
            lambda: self, address.host, address.port, ssl=self._tls, server_hostname=name
        )

    def _why_refused(self, error: ssl.SSLError) -> str:
        from taskd.client.tls_context import why_refused

        return why_refused(error, "" if isinstance(self._address, UnixAddress) else self._address.host)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what waits to be sent."""
        self._transport = cast("asyncio.Transport", transport)
        if not isinstance(self._address, UnixAddress):
            set_options(transport.get_extra_info("socket"))
        if self.talk.is_over:
            self._transport.abort()
        elif self._handshake is None:
            self._opened()
        else:
            self._transport.write(self._handshake.request)

    def _opened(self) -> None:
        self.is_open = self.was_open = True
        self._ready.set()
        self.talk.opened(self._loop.time(), self._token)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Pass on what has arrived."""
        if self._handshake is not None:
            self._take_handshake(self._handshake, data)
            return
        self._framing.incoming(data, self.talk, self._loop.time())
        if self.talk.is_over:
            self._end()
        elif not self._is_flushing and (self.talk.has_data_to_send or self.window != MAX_CALLS):
            self._flush_soon()  # on a websocket there may be a pong

    def _take_handshake(self, handshake: Handshake, data: bytes) -> None:
        try:
            framing = handshake.receive(data)
        except ConnectFailed as error:
            self.may_pass = error.may_pass
            self.fail(error.why)
            return
        if framing is not None:
            self._framing = framing
            self._handshake = None
            self._opened()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the calls."""
        if exc is None:
            self.fail("it closed the connection")
        elif isinstance(exc, ssl.SSLError):
            self.may_pass = self.was_open
            self.fail(self._why_refused(exc))
        else:
            self.fail(why_lost(exc) if isinstance(exc, OSError) else str(exc))

    def fail(self, why: str) -> None:
        """Fail the calls, and close: the connection could not be made, is lost, or is not wanted any more."""
        self.talk.lost(why)
        self._end()

    def close(self, why: str) -> None:
        """Close behind what has been sent, and fail the calls."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
        self.fail(why)

    def abandon(self) -> None:
        """End the connection, whose event loop is closed. The socket itself goes with its transport."""
        if self._transport is not None:
            with suppress(OSError, TypeError, AttributeError):  # it is closed, or uvloop's
                self._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._transport = None

    def _end(self) -> None:
        self.is_open = False
        self._ready.set()
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        if self._renewal is not None:
            self._renewal.cancel()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
        if not self._has_reported:
            self._has_reported = True
            self._on_over(self)
