"""A proxy that forwards TCP connections, and cuts those on which nothing has come for a while."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Proxy:
    """Forwards to a port of this machine, in a thread.

    A connection is cut if one of its ends has sent nothing for `idle` seconds, as proxies
    do with timeouts for each side. `cut` cuts all of them now.
    """

    def __init__(self, port: int, idle: float | None = None) -> None:
        self._port = port
        self._idle = idle
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self.connections += 1
                for end in (client, server):
                    end.settimeout(self._idle)
                    self._open.add(end)
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # TimeoutError among them
            while data := source.recv(65536):
                target.sendall(data)
        self._cut(source)
        self._cut(target)

    def _cut(self, end: socket.socket) -> None:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        self._open.discard(end)
        end.close()

    def cut(self) -> None:
        """Cut every connection."""
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut every connection, and accept no other."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
