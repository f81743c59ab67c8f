"""`twistd`, whose gateways send each message back instead of running it: what the conformance suite talks to.

Everything else is the gateway as it is: its port, its transport, its handshake, its protocol class.
"""

from __future__ import annotations

from twisted.scripts.twistd import run

from taskd.listeners.websocket import WebSocketFactory, WebSocketProtocol

__all__: list[str] = []


class Echo(WebSocketProtocol):
    """A websocket of the gateway that returns messages, binary ones too."""

    def texts_received(self, texts: list[bytes]) -> None:
        """Send the texts back."""
        for frames in self.frames(texts):
            self.write_frames(frames)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803
        """Send a message back that Autobahn has read."""
        if isBinary:
            self.sendMessage(payload, isBinary=True)
        else:
            super().onMessage(payload, isBinary)


WebSocketFactory.protocol = Echo  # type: ignore[assignment]

if __name__ == "__main__":
    run()
