"""Pings on a gateway's websockets, in both directions, while a client is read and while it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskd.net.paused import arrived, unacknowledged, unread
from taskd.net.websocket_fastpath import TextServerProtocol
from taskd.protocol.websocket_frames import PING_INTERVAL, pong_frame

if TYPE_CHECKING:
    from taskd.listeners.peer import Peer
    from taskd.listeners.websocket import WebSocketFactory

__all__ = ["PingedProtocol"]

LITTLE_UNREAD = 4096
"""Bytes from a client that never fill what the kernel keeps for a connection: after more of them, a
pong may be unable to arrive."""


class PingedProtocol(TextServerProtocol):
    """A websocket whose pings are answered as fast as the client reads, and whose client answers pings.

    It has a `client` while it is open.
    """

    factory: WebSocketFactory
    client: Peer[Any] | None = None
    _had_arrived = 0

    def answer_pings(self, payloads: list[bytes]) -> None:
        """Answer these pings; only the last of all, while the client does not read the answers."""
        if self.client is None or self.ignores_input:
            return
        if self.client.sender.congested:
            del payloads[:-1]
        self.client.sender.send_latest(b"".join([pong_frame(payload) for payload in payloads]))

    def probe(self) -> None:
        """Send a pong that answers no ping: RFC 6455 (5.5.3) allows it, and nobody answers it."""
        if self.client is not None and not self.client.sender.congested and not self.ignores_input:
            self.client.sender.send_latest(pong_frame(b""))

    def sendPing(self, payload: bytes | None = None) -> None:  # noqa: N802  # Autobahn's name
        """Send a ping, and note how much of what the client sent before is unread."""
        self._had_arrived = arrived(self.transport)
        super().sendPing(payload)

    def onAutoPingTimeout(self) -> None:
        """Drop a peer that has not answered a ping.

        While the client is not read, its answer is unread as well, but not
        unnoticed: something must have arrived since the ping was sent, or the
        kernel has no room for it and the client's own has confirmed the ping.
        """
        client = self.client
        if client is None or client.is_reading or not self._may_be_alive():
            super().onAutoPingTimeout()
            return
        # Autobahn sends the next ping only after a pong.
        again = self.factory.clock.callLater(PING_INTERVAL, self.onAutoPingTimeout)
        self.autoPingTimeoutCall = again  # type: ignore[assignment]  # Autobahn declares None
        if not client.sender.congested:
            self.sendPing(self.autoPingPending)

    def _may_be_alive(self) -> bool:
        transport = self.transport
        if self.has_unread or arrived(transport) > self._had_arrived:
            return True
        return unread(transport) > LITTLE_UNREAD and not unacknowledged(transport)
