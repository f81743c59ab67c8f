"""The page in examples/page, in a real browser: it shows every event once, however often it is loaded again.

Runs where the program `chromium` is installed. It is driven over its own debugging protocol.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_twisted

from tests.live.peers import in_thread, rpc
from tests.live.support import APPS, TIMEOUT
from tests.live.test_events import LINKS, Steps

PAGE = Path(__file__).parents[2] / "examples" / "page"
CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Browser:
    """A Chromium without a window, and a profile of its own."""

    def __init__(self, profile):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        self.process = subprocess.Popen(
            [CHROMIUM, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for line in self.process.stderr:
            if listening := re.search(r"DevTools listening on ws://(\S+?)/", line):
                self.address = listening[1]
                break
        # What it writes afterwards concerns nobody, but must be read.
        self._reader = threading.Thread(target=self.process.stderr.read, daemon=True)
        self._reader.start()

    def open_tab(self, url):
        """Open a tab; return the URL by which it is driven."""
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT)
        connection.request("PUT", f"/json/new?{quote(url, safe='')}")
        tab = json.loads(connection.getresponse().read())
        connection.close()
        return tab["webSocketDebuggerUrl"]

    def close(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)


class Tab:
    """A tab of the browser."""

    def __init__(self, ws):
        self._ws = ws
        self._numbers = count(1)

    async def call(self, method, **params):
        """Call a method of the debugging protocol."""
        number = next(self._numbers)
        self._ws.send({"id": number, "method": method, "params": params})
        while True:
            message = await self._ws.receive_json()
            if message.get("id") == number:
                return message

    async def evaluate(self, script):
        """Return the value of an expression, once it is settled if it is a promise.

        It is None if the page has gone meanwhile.
        """
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer.get("result", {}), answer
        return answer["result"]["result"].get("value") if "result" in answer else None

    async def reload(self):
        """Load the page again, and return when the new one is there."""
        await self.evaluate("window.isOld = true")
        await self.call("Page.reload")
        while not await self.evaluate('!window.isOld && document.readyState === "complete"'):
            pass

    async def wait_until(self, condition):
        """Wait until an expression is true, in this page or the one that takes its place."""
        script = (
            "new Promise(done => {"
            f"  const look = () => {{ if ({condition}) done(true); else setTimeout(look, 10); }};"
            "  look();"
            "})"
        )
        while not await self.evaluate(script):
            pass

    async def lines(self):
        """Return the number and the text of each event that is shown."""
        return await self.evaluate(
            '[...document.querySelectorAll("li")].map(line => [Number(line.dataset.seq), line.textContent])'
        )


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.fixture
def site():
    """The address at which the example's page is served."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=PAGE))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


IS_IDLE = 'document.querySelector("button")?.disabled === false'
"""Whether the page follows no task: not before it has the client, and the server has answered."""


def shows(text):
    return f'[...document.querySelectorAll("li")].at(-1)?.textContent.includes("{text}")'


@pytest.mark.parametrize("link", LINKS)
@pytest_twisted.ensureDeferred
async def test_a_page_shows_every_event_once_although_it_is_loaded_again(
    clean_start, websocket, browser, site, tmp_path, link
):
    daemon = clean_start(
        "--app", str(APPS / "watched.py"), "--workers", "1", "--store", "sqlite:tasks.db", "--link", link
    )
    chapters = Steps(tmp_path / "chapters")
    gateway = await in_thread(lambda: daemon.wait_until_ready().ws)
    tab = Tab(await websocket(await in_thread(browser.open_tab, f"{site}?gateway={gateway}")))
    await tab.wait_until(IS_IDLE)
    await tab.evaluate('document.querySelector("button").click()')
    await tab.reload()  # maybe before the answer has come, which has the id of the task
    for number in (1, 2):
        chapters.to(number)
        await tab.wait_until(shows(f"Chapter {number}"))
        await tab.reload()
    # This one may be written before the page is connected again, or after.
    chapters.to(3)
    chapters.end()
    await tab.wait_until(shows("succeeded"))
    await tab.reload()
    await tab.wait_until(f'{IS_IDLE} && document.querySelector("#state").textContent === "succeeded"')
    lines = await tab.lines()
    numbers = [number for number, _ in lines]
    assert numbers == sorted(set(numbers))
    # Progress that is reported while the page is away may have been replaced by newer progress.
    assert [text.strip() for _, text in lines if "progress" not in text] == [
        *("queued", "started", "partial Chapter 1", "partial Chapter 2", "partial Chapter 3", "succeeded")
    ]
    assert len(await in_thread(lambda: daemon.connect().ask(rpc("taskd.list"))["result"])) == 1
