"""A client's websocket without I/O: bytes in and out, and the messages that they carry."""

from __future__ import annotations

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from taskd.client.addresses import WebSocketAddress
from taskd.net.strangers import not_a_task_server

__all__ = ["WebSocketWire"]


class WebSocketWire:
    """One websocket to a gateway, from its handshake on. Once there is a `fault`, it must be closed."""

    def __init__(self, address: WebSocketAddress) -> None:
        host = f"[{address.host}]" if ":" in address.host else address.host
        self.fault = ""
        """Why nothing more can come over it, in words; "" as long as something can."""
        self.is_open = False
        """Whether the handshake is done."""
        self._wire = WSConnection(ConnectionType.CLIENT)
        self._out = [self._wire.send(Request(host=f"{host}:{address.port}", target=address.resource))]
        self._first = b""
        self._parts: list[str] = []
        self._messages: list[bytes] = []

    def data_to_send(self) -> bytes:
        """Return what must be sent now, and forget it."""
        out, self._out = self._out, []
        return b"".join(out)

    def send(self, messages: list[bytes]) -> None:
        """Send messages; possible once it `is_open`."""
        self._out += [self._wire.send(TextMessage(message.decode())) for message in messages]

    def close(self) -> None:
        """Begin to close."""
        if self.is_open and not self.fault:
            self.is_open = False
            self._out.append(self._wire.send(CloseConnection(code=1000)))

    def receive(self, data: bytes) -> list[bytes]:
        """Take in what has arrived, cut in any way; return the messages that are complete."""
        if not self._first:
            self._first = data[:64]
        try:
            self._wire.receive_data(data)
            for event in self._wire.events():
                self._take(event)
        except (RemoteProtocolError, LocalProtocolError) as error:
            self.fault = _not_a_gateway(self._first) or f"it is no gateway: {error}"
        messages, self._messages = self._messages, []
        return messages

    def _take(self, event: Event) -> None:
        match event:
            case TextMessage():
                self._parts.append(event.data)
                if event.message_finished:
                    self._messages.append("".join(self._parts).encode())
                    self._parts.clear()
            case Ping():
                self._out.append(self._wire.send(event.response()))
            case AcceptConnection():
                self.is_open = True
            case CloseConnection():
                self.is_open = False
                self.fault = f"{event.reason or 'it closed the connection'} (code {event.code})"
            case RejectConnection():
                self.fault = f"it has refused the websocket with the HTTP status {event.status_code}"
            case RejectData():
                pass  # the page that comes with a refusal


def _not_a_gateway(first: bytes) -> str:
    """Return what the other end is if its first bytes show that it is no gateway, else an empty text."""
    if first.startswith(b"{"):
        return "that port is a task server's: its address is tcp:HOST:PORT"
    if first.startswith(b"HTTP/"):
        return ""
    return "that port speaks TLS: write wss://HOST:PORT" if not_a_task_server(first) else ""
