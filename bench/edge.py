"""The gateway's edge: idle websockets, one task's progress to many of them, and one that never reads.

``python -m bench.edge [--number N] [--tokens]`` prints how fast so many websockets are opened, one client
with 64 handshakes at a time; what each costs the daemon, as growth of its PSS; how long it takes until a
thousand of them have each report of one task; and what one that reads nothing costs.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import secrets
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt

from bench.processes import pss_kib
from bench.servers import free_port, wait_for_port

TASKD = Path(sys.executable).with_name("taskd")

APP = """
import time
from taskd import progress, task

@task
def steps(count: int, pause: float = 0.6) -> int:
    for _ in range(count):
        time.sleep(pause)
        progress(time.time())
    return count

@task
def long(size: int) -> str:
    return "x" * size
"""

AT_ONCE = 64
"""Handshakes in flight at the same time."""

WATCHERS = 1000
REPORTS = 8
LONG = 1_000_000
"""Bytes of each result that is left unread."""


class Page:
    """One websocket, as a browser opens it."""

    def __init__(self, port: int, token: str | None) -> None:
        protocols = "" if token is None else f"Sec-WebSocket-Protocol: taskd, taskd.token.{token}\r\n"
        key = base64.b64encode(os.urandom(16)).decode()
        self._head = (
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{protocols}\r\n"
        ).encode()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))
        self._read = b""
        self._has_sent = False

    def step(self) -> bool:
        """Go on with the handshake; return whether it is complete. Raises `ConnectionError`."""
        if not self._has_sent:
            self.socket.send(self._head)
            self._has_sent = True
            return False
        data = self.socket.recv(4096)
        self._read += data
        if not data or not self._read.startswith(b"HTTP/1.1 101"[: len(self._read)]):
            raise ConnectionError(f"the handshake was refused: {self._read[:200]!r}")
        return b"\r\n\r\n" in self._read

    @property
    def wants(self) -> int:
        """What to wait for."""
        return selectors.EVENT_READ if self._has_sent else selectors.EVENT_WRITE

    def send(self, method: str, **params: object) -> None:
        """Send a request."""
        text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        mask = os.urandom(4)
        size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(text))
        self.socket.setblocking(True)
        self.socket.sendall(b"\x81" + size + mask + masked)


def opened(port: int, tokens: list[str | None]) -> list[Page]:
    """Open a websocket for each token."""
    pages: list[Page] = []
    selector = selectors.DefaultSelector()
    left = iter(tokens)
    open_now = 0

    def one_more() -> int:
        for token in left:
            page = Page(port, token)
            selector.register(page.socket, page.wants, page)
            return 1
        return 0

    for _ in range(AT_ONCE):
        open_now += one_more()
    while open_now:
        for key, _ in selector.select():
            page = key.data
            if page.step():
                selector.unregister(page.socket)
                pages.append(page)
                open_now += one_more() - 1
            else:
                selector.modify(page.socket, page.wants, page)
    selector.close()
    return pages


def fanned_out(pages: list[Page], task: str) -> list[float]:
    """Attach pages to a task; return the seconds until all of them had each of its reports."""
    selector = selectors.DefaultSelector()
    for page in pages:
        page.send("taskd.attach", task=task)
        selector.register(page.socket, selectors.EVENT_READ)
    had: dict[float, list[float]] = {}
    ended = 0
    while ended < len(pages):
        for key, _ in selector.select(timeout=30):
            data = key.fileobj.recv(65536)  # type: ignore[union-attr]
            now = time.time()
            for part in data.split(b'"done":')[1:]:
                stamp = float(part.split(b",")[0].split(b"}")[0])
                had.setdefault(stamp, []).append(now - stamp)
            if b'"event":"succeeded"' in data:
                ended += 1
                selector.unregister(key.fileobj)
    selector.close()
    return [max(each) for each in had.values() if len(each) == len(pages)]


class Operator:
    """A connection to the task server, with a token if that asks for one."""

    def __init__(self, port: int, token: str | None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._lines = self._socket.makefile("rb")
        if token is not None:
            self.ask("taskd.auth", token=token)

    def ask(self, method: str, **params: object) -> Any:
        """Call a method, and return its result."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        return json.loads(self._lines.readline())["result"]

    def done(self) -> int:
        """How many tasks have been done."""
        return sum(function["done"] for function in self.ask("taskd.status")["functions"])


def unread(daemon: int, operator: Operator, page: Page) -> float:
    """Return the KiB that the daemon holds for a page that asks for long results and reads none of them."""
    before = pss_kib(daemon)
    for _ in range(30):
        page.send("long", size=LONG)
    done = -1
    while done != (done := operator.done()):
        time.sleep(0.5)
    return pss_kib(daemon) - before


def measure(daemon: int, listen: int, websocket: int, number: int, signed: Callable[..., str | None]) -> None:
    """Print the figures of a daemon."""
    operator = Operator(listen, signed("operator", role="operate"))
    operator.ask("taskd.functions")  # answered when the app is imported
    tokens = [signed(f"user-{each}") for each in range(number)]
    before = pss_kib(daemon)
    begun = time.monotonic()
    pages = opened(websocket, tokens)
    took = time.monotonic() - begun
    time.sleep(1)
    each = (pss_kib(daemon) - before) / number
    print(f"{number} websockets: {number / took:.0f}/s, {each:.2f} KiB each", flush=True)
    watchers = opened(websocket, [signed("watched") for _ in range(WATCHERS)])
    options = {} if tokens[0] is None else {"owner": "watched"}
    task = operator.ask("taskd.submit", function="steps", args=[REPORTS], options=options)["task"]
    delays = fanned_out(watchers, task)
    print(
        f"progress to {WATCHERS} of them: the last had it after {statistics.median(delays) * 1000:.0f} ms "
        f"(median of {len(delays)} reports, longest {max(delays) * 1000:.0f} ms)",
        flush=True,
    )
    print(f"one that reads nothing: {unread(daemon, operator, pages[0])} KiB")


def main() -> None:
    """Start a daemon, measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument(
        "--tokens", action="store_true", help="each websocket shows a signed token of its own"
    )
    given = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 3 * given.number)), hard))
    secret = secrets.token_urlsafe(48)

    def signed(sub: str, **claims: object) -> str | None:
        if not given.tokens:
            return None
        return jwt.encode({"sub": sub, "exp": int(time.time()) + 3600, **claims}, secret, "HS256")

    with tempfile.TemporaryDirectory() as directory:
        app, key = Path(directory, "edge_app.py"), Path(directory, "key")
        app.write_text(APP)
        key.write_text(secret)
        listen, websocket = free_port(), free_port()
        daemon = subprocess.Popen(
            [
                *(TASKD, "serve", "--app", str(app), "--workers", "2", "--link", "local"),
                *("--listen", f"tcp:{listen}:interface=127.0.0.1"),
                *("--websocket", f"tcp:{websocket}:interface=127.0.0.1"),
                *(("--jwt-key", str(key)) if given.tokens else ()),
            ],
            cwd=directory,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for_port(websocket, daemon)
            measure(daemon.pid, listen, websocket, given.number, signed)
        finally:
            daemon.terminate()
            daemon.wait(60)


if __name__ == "__main__":
    main()
