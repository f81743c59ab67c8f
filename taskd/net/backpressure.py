"""Backpressure: queues replies for a peer that reads slowly, limits them, and detects a stalled peer."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.protocols.policies import ProtocolWrapper
from zope.interface import implementer

from taskd.net.buffered_socket import HIGH_WATER, BufferedSocket, Handle, socket_under

__all__ = ["MAX_UNSENT", "STALL_GRACE", "ReplySender"]

MAX_UNSENT = 1024 * 1024
"""Bytes of replies that a client may leave unread before the server stops reading from it."""

STALL_GRACE = 60.0
"""Seconds without progress after which such a client is disconnected: longer than a laptop's
wireless connection takes to come back, short enough to free the memory of the replies."""

SLICE = 65536
"""Bytes passed to the transport at once: about as many as it buffers before it pauses its producer."""


class Producible(Protocol):
    """The transport that a sender needs: one that pauses its producer."""

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:  # noqa: FBT001, N802
        """Pause this producer while too much is unsent."""

    def unregisterProducer(self) -> None:  # noqa: N802
        """Forget the producer."""


@implementer(IPushProducer)
class ReplySender:
    """A queue of the replies that a transport cannot take yet.

    `write` passes bytes to `transport`, and is called only while that keeps up.
    `on_change` is called when `full` may have changed, or when everything has
    been sent. `on_stalled` is called when the peer has taken nothing for `grace`
    seconds although more than `limit` bytes are queued or the connection is
    about to close. Bytes are cut into slices of `SLICE`, unless `whole` is True:
    then each `send` is one message that must not be cut.

    The sender registers itself as the transport's only producer. After `close`
    it keeps no reference to its owner.
    """

    __slots__ = (
        "_clock",
        "_grace",
        "_latest",
        "_limit",
        "_on_change",
        "_on_stalled",
        "_size",
        "_slice",
        "_timer",
        "_transport",
        "_unsent",
        "_write",
        "congested",
        "full",
    )

    def __init__(
        self,
        clock: IReactorTime,
        transport: Producible,
        write: Callable[[bytes], None],
        on_change: Callable[[], None],
        on_stalled: Callable[[], None],
        *,
        limit: int = MAX_UNSENT,
        grace: float = STALL_GRACE,
        whole: bool = False,
    ) -> None:
        self._clock = clock
        self._transport = transport
        self._write = write
        self._on_change = on_change
        self._on_stalled = on_stalled
        self._limit = limit
        self._grace = grace
        self._slice = sys.maxsize if whole else SLICE
        # None until it is needed: an empty deque takes 760 bytes, and most peers are never slow.
        self._unsent: deque[bytes | memoryview] | None = None
        self._size = 0
        self._latest = b""
        self._timer: IDelayedCall | None = None
        self.congested = False
        self.full = False
        """Whether more than the limit is unsent."""
        transport.registerProducer(self, True)

    @property
    def handle(self) -> Handle:
        """The socket under the transport, through TLS if need be."""
        transport: Any = self._transport
        while isinstance(transport, ProtocolWrapper):
            transport = transport.transport
        handle: Handle = transport.getHandle()
        return handle

    @property
    def unsent(self) -> int:
        """The bytes that are held here and in the transport."""
        below = socket_under(self._transport)
        if below is not None:
            return self._size + below.unsent
        return self._size + (HIGH_WATER + SLICE if self.congested else 0)

    def read_at_once(self, size: int) -> None:
        """Have the transport read at most `size` bytes at once."""
        below = socket_under(self._transport)
        if below is not None:
            below.read_size = size

    @property
    def empty(self) -> bool:
        """Whether everything has been passed to the transport."""
        return not self._unsent

    def send(self, data: bytes | memoryview) -> None:
        """Send these bytes, now or when the peer has read those before them."""
        if not self.congested and len(data) <= self._slice:
            self._write(data)  # type: ignore[arg-type]  # a view is as good
            return
        if self._unsent is None:
            self._unsent = deque()
        self._unsent.append(data if len(data) <= self._slice else memoryview(data))
        self._size += len(data)
        if not self.congested:
            self._send_more()
        self._watch()

    def send_latest(self, data: bytes) -> None:
        """Send these bytes now, or in place of others of this kind that still wait to be sent.

        They are sent before all that is queued, and are no part of it.
        """
        if self.congested:
            self._latest = data
        else:
            self._write(data)

    def finish(self) -> None:
        """Prepare for the transport's close, once everything has been passed to it.

        If the peer does not take the rest within `grace` seconds, it is stalled.
        """
        self._transport.unregisterProducer()
        # Twisted's own transports do not show whether the kernel has taken everything.
        is_flushed = isinstance(self._transport, BufferedSocket) and self._transport.flushed
        if self._timer is None and not is_flushed:
            self._timer = self._clock.callLater(self._grace, self._stalled)

    def close(self) -> None:
        """Drop everything, since the connection is gone."""
        self._unsent = None
        self._latest = b""
        self._size = 0
        self.full = False
        self._on_change = self._on_stalled = _ignore
        if not isinstance(self._transport, BufferedSocket):
            self._transport.unregisterProducer()  # one of TLS keeps its producer, which is a reference cycle
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send_more(self) -> None:
        while self._unsent and not self.congested:
            data = self._unsent.popleft()
            if len(data) > self._slice:
                self._unsent.appendleft(data[self._slice :])
                data = data[: self._slice]
            self._size -= len(data)
            self._write(bytes(data))

    def _watch(self) -> None:
        """Run the timer while, and only while, too much is unsent."""
        self.full = self._size > self._limit
        if self.full and self._timer is None:
            self._timer = self._clock.callLater(self._grace, self._stalled)
        elif not self.full and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stalled(self) -> None:
        self._timer = None
        self._on_stalled()

    # --- IPushProducer, called by the transport ---

    def pauseProducing(self) -> None:
        """Stop writing, since the transport has enough to send."""
        self.congested = True

    def resumeProducing(self) -> None:
        """Write again, since the transport has sent what it had."""
        self.congested = False
        if self._timer is not None:
            self._timer.reset(self._grace)
        if self._latest:
            latest, self._latest = self._latest, b""
            self._write(latest)
        self._send_more()
        self._watch()
        self._on_change()

    def stopProducing(self) -> None:
        """Drop everything, since the connection is lost."""
        self.close()


def _ignore() -> None:
    """Do nothing, in place of the callbacks of a closed sender."""
