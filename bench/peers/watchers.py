"""Many watchers of one batch, each on a connection of its own; prints a line of JSON.

python watchers.py --port 12345 --watchers 1000 --tasks 1000

The function `stored` must be paused: it is resumed when all of them watch.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import time
from typing import Any

PATIENCE = 60.0
"""Seconds without any event after which none comes."""


def ask(sock: socket.socket, method: str, **params: Any) -> Any:
    """One request, and the answer."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    sock.sendall(json.dumps(request).encode() + b"\n")
    reply = b""
    while not reply.endswith(b"\n"):
        reply += sock.recv(65536)
    answer = json.loads(reply.partition(b"\n")[0])
    if "error" in answer:
        raise SystemExit(f"{method}: {answer['error']}")
    return answer["result"]


def connect(port: int) -> socket.socket:
    """A connection to the server."""
    return socket.create_connection(("127.0.0.1", port), 30)


def main() -> None:
    """Watch, and note when each has its last event."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=1000)
    options = parser.parse_args()
    asker = connect(options.port)
    batch = ask(asker, "taskd.submit_batch", function="stored", args=[[0]] * options.tasks)["batch"]
    selector = selectors.DefaultSelector()
    for _ in range(options.watchers):
        sock = connect(options.port)
        ask(sock, "taskd.attach", batch=batch)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, bytearray())
    ask(asker, "taskd.resume", function="stored")
    ends: list[float] = []
    received = 0
    while len(ends) < options.watchers:
        ready = selector.select(PATIENCE)
        if not ready:
            raise SystemExit(f"{len(ends)} of {options.watchers} watchers have seen the end")
        for key, _ in ready:
            data = key.fileobj.recv(65536)
            if not data:
                raise SystemExit("a watcher was closed")
            received += len(data)
            key.data.extend(data)
            if b'"ended"' in key.data and key.data.endswith(b"\n"):
                ends.append(time.monotonic())
                selector.unregister(key.fileobj)
    print(json.dumps({"first": ends[0], "last": ends[-1], "bytes": received}))


if __name__ == "__main__":
    main()
