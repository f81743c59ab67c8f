"""The JavaScript client: its own tests, its package and its types; and real servers, restarted under it.

Needs Node 20 or newer; the page runs where the program `chromium` is installed.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import pytest_twisted

from taskd import __version__
from tests.live.peers import in_thread
from tests.live.support import APPS, TIMEOUT, rpc
from tests.live.test_browser import CHROMIUM, Browser, Tab
from tests.live.test_events import LINKS, Steps, check

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "js"
JAVASCRIPT_DOCS = ROOT / "docs" / "javascript.md"
SCRIPTS = Path(__file__).parent / "js"
NODE = shutil.which("node")
NPM = shutil.which("npm")

INSTALL_TIMEOUT = 120.0
"""Seconds for npm, which may have to download."""

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")
no_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def websocket_option():
    """Return the option with which Node has websockets of its own: those before 22 need it."""
    ended = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True)
    version = int(ended.stdout.removeprefix("v").partition(".")[0])
    return ["--experimental-websocket"] if version < 22 else []


def run(*command, cwd, timeout=TIMEOUT):
    """Run a command, which must succeed; return what it has printed."""
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A directory in which npm installs packages; the test is skipped if it cannot."""
    directory = tmp_path_factory.mktemp("packages")
    (directory / "package.json").write_text("{}")

    def install(*names):
        if NPM is None:
            pytest.skip("npm is not installed")
        command = [NPM, "install", "--prefer-offline", "--no-audit", "--no-fund", *names]
        ended = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
        )
        if ended.returncode:
            pytest.skip(f"npm cannot install {' '.join(names)}: {ended.stderr[-200:]}")
        return directory

    return install


# --- without a server --------------------------------------------------------


def test_the_javascript_client_passes_its_own_tests():
    tests = sorted((CLIENT / "test").glob("*.test.mjs"))
    run(NODE, "--test", *tests, cwd=CLIENT, timeout=2 * TIMEOUT)


def test_the_npm_package_has_the_version_of_taskd_and_what_it_needs():
    package = json.loads((CLIENT / "package.json").read_text())
    assert package["version"] == __version__
    assert "dependencies" not in package
    assert (CLIENT / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    if NPM is None:
        pytest.skip("npm is not installed")
    (packed,) = json.loads(run(NPM, "pack", "--dry-run", "--json", cwd=CLIENT))
    files = {file["path"] for file in packed["files"]}
    assert files == {"package.json", "taskd.js", "taskd.d.ts", "README.md", "LICENSE"}


def test_the_types_accept_right_uses_and_refuse_wrong_ones(packages, tmp_path):
    directory = packages("typescript")
    for name in ("taskd.js", "taskd.d.ts", "package.json"):
        shutil.copy(CLIENT / name, tmp_path)
    shutil.copy(CLIENT / "test" / "uses.ts", tmp_path)
    tsc = directory / "node_modules" / ".bin" / "tsc"
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2023,dom"]
    run(tsc, *options, "uses.ts", cwd=tmp_path, timeout=INSTALL_TIMEOUT)


# --- a real server -----------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
def test_every_method_of_the_javascript_client_works_with_a_real_server(clean_start, tmp_path, link):
    daemon = clean_start("--app", str(APPS / "called.py"), "--workers", "2", "--link", link)
    url = daemon.wait_until_ready().ws
    run(NODE, *websocket_option(), SCRIPTS / "methods.mjs", CLIENT / "taskd.js", url, tmp_path, cwd=tmp_path)


@no_chromium
@pytest_twisted.ensureDeferred
async def test_the_first_code_of_the_javascript_docs_works_in_a_page_of_the_gateway(
    shared, websocket, tmp_path
):
    page = shared.ws.replace("ws:", "http:")
    code = re.search(r"```js\n(.*?)```", JAVASCRIPT_DOCS.read_text(), re.DOTALL)[1]
    code = code.replace("http://127.0.0.1:8080", page.rstrip("/")).replace("ws://127.0.0.1:8080", shared.ws)
    code = re.sub(r'import (\{.*?\}) from (".*?");', r"const \1 = await import(\2);", code)
    browser = await in_thread(Browser, tmp_path / "profile")
    try:
        tab = Tab(await websocket(await in_thread(browser.open_tab, page)))
        await tab.wait_until('document.querySelector("main")')
        shown = "let shown; const console = { log: value => { shown = value; } };"
        script = f"(async () => {{ {shown} {code}; return shown; }})()"
        assert await tab.evaluate(script) == "Hello, Ann!"
    finally:
        await in_thread(browser.close)


# --- a server that is restarted ----------------------------------------------


class InNode:
    """The program in Node."""

    def __init__(self, *arguments):
        self._process = subprocess.Popen(
            [NODE, *websocket_option(), SCRIPTS / "restarts_in_node.mjs", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._states = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._states.put(json.loads(line))
        self._states.put(None)

    async def state(self, name, least=1):
        """Wait until a member of the state is there, and at least so large if it is a number."""
        return await in_thread(self._wait, name, least)

    def _wait(self, name, least):
        while True:
            state = self._states.get(timeout=TIMEOUT)
            assert state is not None, self._process.stderr.read()
            value = state.get(name, 0)
            if (value if isinstance(value, int) else least) >= least:
                return value

    async def end(self):
        """Wait until the program has ended by itself, without a complaint."""
        assert await in_thread(self._process.wait, TIMEOUT) == 0
        assert "Error" not in self._process.stderr.read()

    def kill(self):
        self._process.kill()
        self._process.wait(TIMEOUT)
        self._process.stdout.close()
        self._process.stderr.close()


class InPage:
    """The program in a page of Chromium, which imports the client from the gateway."""

    def __init__(self, tab):
        self._tab = tab

    async def state(self, name, least=1):
        value = f"window.state?.{name}"
        await self._tab.wait_until(f"typeof {value} === 'number' ? {value} >= {least} : {value}")
        return await self._tab.evaluate(value)

    async def end(self):
        assert await self._tab.evaluate("window.unhandled") == []


@pytest.fixture
def pages():
    """The address at which the test's own page is served."""

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = {".html": "text/html", ".mjs": "text/javascript"}

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=SCRIPTS))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def program(request, tmp_path, packages, pages, websocket):
    """Start the program where the test wants it."""
    where = request.param
    running = []

    async def start(url):
        if where == "page":
            running.append(browser := Browser(tmp_path / "profile"))
            tab = await in_thread(browser.open_tab, f"{pages}?gateway={url}")
            return InPage(Tab(await websocket(tab)))
        more = []
        if where == "node with ws":
            more = [await in_thread(packages, "ws") / "node_modules" / "ws" / "wrapper.mjs"]
        running.append(InNode(CLIENT / "taskd.js", url, *more))
        return running[0]

    yield start
    for each in running:
        each.close() if isinstance(each, Browser) else each.kill()


@pytest.mark.parametrize(
    "program", ["node", "node with ws", pytest.param("page", marks=no_chromium)], indirect=True
)
@pytest_twisted.ensureDeferred
async def test_a_program_goes_on_while_its_server_is_restarted(start, clean_start, tmp_path, program):
    options = ("--app", str(APPS / "restarted.py"), "--workers", "3", "--stop-timeout", "0.5")
    chapters = Steps(tmp_path / "chapters")
    daemon = start(*options)
    url = await in_thread(lambda: daemon.wait_until_ready().ws)
    fixed = ("--websocket", f"tcp:{url.rpartition(':')[2]}:interface=127.0.0.1")
    running = await program(url)
    for number, starting, number_of_signal in ((1, start, signal.SIGKILL), (2, clean_start, signal.SIGTERM)):
        chapters.to(number)
        await running.state("chapters", number)
        await running.state("calls", 10 * number)
        os.kill(daemon.process.pid, number_of_signal)
        await in_thread(lambda gone: (gone.wait_for_end(), gone.wait_until_gone()), daemon)
        daemon = starting(*options, *fixed)
    chapters.to(3)
    await running.state("chapters", 3)
    chapters.end()
    report = await running.state("report")
    await running.end()
    tasks = await in_thread(lambda: daemon.connect().ask(rpc(1, "taskd.list", limit=1000))["result"])
    marks = Counter((tmp_path / "marks").read_text().splitlines())

    # Every event once, as in the log; progress may have been replaced by newer progress.
    names = check(report["events"])
    assert names[:3] == ["queued", "started", "partial"]
    assert names[-2:] == ["partial", "succeeded"]
    assert [each["value"] for each in report["events"] if each["event"] == "partial"] == [
        f"Chapter {number}" for number in (1, 2, 3)
    ]
    assert names == check(report["again"])
    # A call runs once if it has a result, and at most once otherwise.
    ended = {each["number"]: each for each in report["calls"]}
    assert len(ended) == len(report["calls"]) > 20
    for number, call in ended.items():
        runs = marks[f"plain {number}"]
        if "result" in call:
            assert (call["result"], runs) == (number, 1)
        else:
            assert call["code"] in {-32007, -32005, -32003}, call
            assert runs <= (0 if call.get("sent") is False else 1), call
    # Each submit is one task, however often it was sent. One that was killed is run again; its first start
    # may not have been stored.
    stored = {each["task"]: each for each in tasks if each["function"] == "mark"}
    assert set(stored) == {each["id"] for each in report["submits"]}
    for submitted in report["submits"]:
        number, attempts = submitted["number"], stored[submitted["id"]]["attempts"]
        assert submitted["result"] == number
        assert 1 <= marks[f"mark {number}"] <= attempts + 1
