"""A daemon in one process with clients that come and go: which of its objects are left without a collector?

Run with the kind of the connections, a certificate and its key. Prints what is left.
"""

import gc
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from twisted.internet import reactor

from taskd.daemon.config import ServiceConfig
from taskd.daemon.lifecycle import UnstartedDaemon
from taskd.daemon.options import DaemonOptions
from taskd.daemon.supervisor import Supervisor

APP = Path(__file__).with_name("apps") / "plain.py"

CLIENTS = 20

PATIENCE = 20.0
"""Seconds in which everything must be freed."""

WATCHED = {
    *("Peer", "Session", "TaskProtocol", "WebSocketProtocol", "ReplySender", "Request"),
    *("ServerTransport", "ClientTransport", "RefusingPlain", "GatewayChannel", "_Exchange"),
}

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

CALL = b'{"jsonrpc":"2.0","id":1,"method":"echo"}'


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def left() -> Counter[str]:
    """Count the objects that belong to connections."""
    kinds = (type(each).__name__ for each in gc.get_objects())
    return Counter(kind for kind in kinds if kind in WATCHED)


def visit(kind: str, ports: list[int]) -> socket.socket:
    """Connect, ask for something and get it; the caller closes the socket."""
    port = ports[{"tcp": 0, "tls": 1}.get(kind, 2)]
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    if kind == "tls":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    if kind == "page":
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while sock.recv(65536):
            pass
        return sock
    if kind == "websocket":
        sock.sendall(UPGRADE)
        while not sock.recv(65536).endswith(b"\r\n\r\n"):
            pass
        sock.sendall(bytes([0x81, 0x80 | len(CALL)]) + b"\0\0\0\0" + CALL)
    else:
        sock.sendall(CALL + b"\n")
    assert sock.recv(65536)
    return sock


def visit_many(kind: str, ports: list[int]) -> None:
    """Visit with many connections at once, and print what is left when they are closed."""
    visit(kind, ports).close()  # whatever is made once is made now
    gc.collect()
    gc.disable()
    for sock in [visit(kind, ports) for _ in range(CLIENTS)]:
        sock.close()
    ending = time.monotonic() + PATIENCE
    while (found := left()) and time.monotonic() < ending:
        time.sleep(0.05)
    print(dict(found) or "nothing is left", flush=True)


def main(kind: str, certificate: str, key: str) -> None:
    """Run the daemon and the visits."""
    options = DaemonOptions()
    ports = free_ports(3)
    tcp, tls, websocket = (f"{port}:interface=127.0.0.1" for port in ports)
    listen = [f"--listen=tcp:{tcp}", f"--listen=ssl:{tls}:privateKey={key}:certKey={certificate}"]
    options.parseOptions([f"--app={APP}", "--workers=1", *listen, f"--websocket=tcp:{websocket}"])
    daemon = UnstartedDaemon(reactor, ServiceConfig.of(options.settings, "."), int)  # type: ignore[arg-type]
    daemon.bind()
    running = daemon.start(Supervisor(reactor, None))  # type: ignore[arg-type]

    def stop() -> None:
        running.close().addBoth(lambda _: reactor.stop())

    def run() -> None:
        try:
            visit_many(kind, ports)
        finally:
            reactor.callFromThread(stop)

    running.loaded.addCallback(lambda _: threading.Thread(target=run).start())
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
