"""The operator's page while a thousand tasks a second begin and end: how long it keeps its browser busy.

``python -m bench.ops_page [SECONDS]`` opens each section in turn. For each it prints the changes on the
server, the longest task of the page's main thread, and the part of the time for which that was busy. It
needs what the tests need: Playwright and the program ``chromium``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.live.support import APPS, Daemon

RATE = 500
"""Tasks a second: each is accepted and ends, which makes a thousand changes."""

SECTIONS = ("overview", "tasks", "queue", "functions", "workers", "audit")

TARGET_MS = 50.0
"""What browsers call a long task of the main thread: one that delays a key or a click noticeably."""

TOKEN = "taskd_" + "b" * 43

WATCH = """() => {
  window.longTasks = [];
  new PerformanceObserver(list => {
    for (const each of list.getEntries()) window.longTasks.push(each.duration);
  }).observe({ type: "longtask" });
}"""


class Client:
    """A connection of an operator."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._lines = self._socket.makefile("rb")
        self.ask("taskd.auth", token=TOKEN)

    def ask(self, method: str, **params: Any) -> Any:
        """Call a method, and return its result."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        return json.loads(self._lines.readline())["result"]


def submit(client: Client, stopped: threading.Event) -> None:
    """Submit tasks at the rate, until it is stopped."""
    tasks = [[number] for number in range(RATE // 10)]
    at = time.monotonic()
    while not stopped.wait(max(0.0, at - time.monotonic())):
        client.ask("taskd.submit_batch", function="plain", args=tasks)
        at += 0.1


def measure(page: Page, asking: Client, address: str, section: str, seconds: float) -> None:
    """Look at a section for some seconds, and print how busy its page was."""
    page.goto("about:blank")
    page.goto(f"{address}#{section}")
    page.wait_for_selector("#content h1")
    page.wait_for_timeout(1500)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    before, done = _busy(session), _done(asking)
    page.evaluate(WATCH)
    page.wait_for_timeout(seconds * 1000)
    long = page.evaluate("window.longTasks")
    busy, changes = _busy(session) - before, 2 * (_done(asking) - done)
    longest = f"{max(long):.0f} ms" if long else f"under {TARGET_MS:.0f} ms"
    print(
        f"{section:10} {changes / seconds:6.0f} changes/s   longest task {longest}   "
        f"{len(long)} long ones   busy {100 * busy / seconds:4.1f} %",
        flush=True,
    )


def _busy(session: Any) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))


def _done(asking: Client) -> int:
    return int(asking.ask("taskd.status")["counts"]["done"])


def main() -> None:
    """Measure each section."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        tokens = Path(name, "tokens.toml")
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        tokens.write_text(f'[tokens.bench]\nhash = "sha256:{digest}"\nrole = "operate"\n')
        tokens.chmod(0o600)
        options = ("--app", str(APPS / "lasting.py"), "--store", "memory", "--tokens", str(tokens))
        daemon = Daemon(*options, directory=Path(name)).wait_until_ready()
        asking, stopped = Client(daemon.port(1)), threading.Event()
        load = threading.Thread(target=submit, args=(Client(daemon.port(1)), stopped))
        load.start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.add_init_script(f"sessionStorage.setItem('taskd.token', '{TOKEN}')")
        for section in SECTIONS:
            measure(page, asking, f"http://127.0.0.1:{daemon.port(2)}/ops", section, seconds)
        stopped.set()
        load.join()
        browser.close()
        daemon.stop()


if __name__ == "__main__":
    main()
