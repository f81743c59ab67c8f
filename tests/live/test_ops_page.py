"""The operator's page in a real browser, on a server that asks for tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.live.browser import CHROMIUM, Browser, in_browser
from tests.live.support import APPS, TIMEOUT, Daemon, rpc

ROOT = Path(__file__).parents[2]
UNIT_TESTS = ROOT / "tests" / "pages" / "ops"
NODE = shutil.which("node")

SECTIONS = ("overview", "tasks", "queue", "workers", "functions", "schedules", "audit")
MANY = 30
"""Tasks of one bulk action: more than the page has in flight at once would be slow in a debug build."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def token(name):
    """Return a token of the form that the server gives out, always the same for a name."""
    secret = base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=")
    return f"taskd_{secret}"


def token_file(**roles):
    """Return the text of a file with a token for each name, of that role."""
    hashes = {name: hashlib.sha256(token(name).encode()).hexdigest() for name in roles}
    tables = [f'[tokens.{name}]\nhash = "sha256:{hashes[name]}"\nrole = "{roles[name]}"\n' for name in roles]
    return "\n".join(tables)


class Operated(Daemon):
    """A daemon with tokens, and a connection of an operator to it."""

    def call(self, method, **params):
        """Call a method as the operator, and return its result."""
        connection = self.connect()
        connection.ask(rpc("auth", "taskd.auth", token=token("operator")))
        answer = connection.ask({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        connection.close()
        assert "result" in answer, answer
        return answer["result"]

    def submit(self, function, *args, **options):
        """Have a task stored, and return its id."""
        return self.call("taskd.submit", function=function, args=list(args), options=options)["task"]

    def wait(self, task):
        """Wait for the end of a task, and return its state."""
        return self.call("taskd.wait", task=task, timeout=TIMEOUT)["state"]

    @property
    def page(self):
        """The address of the operator's page."""
        return f"http://127.0.0.1:{self.port(2)}/ops"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon whose tokens are `operator` and `watcher`."""
    directory = tmp_path_factory.mktemp("operated")
    tokens = directory / "tokens.toml"
    tokens.write_text(token_file(operator="operate", watcher="watch"))
    tokens.chmod(0o600)
    options = [
        "--app",
        str(APPS / "operated.py"),
        "--workers",
        "2",
        "--tokens",
        str(tokens),
        "--store",
        "memory",
    ]
    daemon = Operated(*options, "--tokens", str(tokens), directory=directory)
    daemon.wait_until_ready()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def browser():
    """The browser of all tests."""
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser, daemon):
    """Return a function that opens the page at a section, with a token. An error in a page fails the test."""
    profiles, wrong = [], []

    def open_one(hash_="overview", name="operator", **options):
        profile = browser.new_profile(viewport={"width": 1280, "height": 800}, **options)
        profiles.append(profile)
        page = profile.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        if name is not None:
            page.add_init_script(f"sessionStorage.setItem('taskd.token', {json.dumps(token(name))})")
        page.goto(f"{daemon.page}#{hash_}")
        return page

    expect.set_options(timeout=TIMEOUT * 1000)
    yield open_one
    for profile in profiles:
        browser.run(profile.close)
    assert wrong == []


@pytest.fixture
def gate(tmp_path):
    """The file that closed gates wait for: it is there at the end in any case."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def drawer(page):
    """Return the drawer with a task."""
    return page.get_by_role("dialog")


# --- who may look ---


@in_browser
def test_without_a_token_the_page_asks_for_one_and_takes_only_one_that_is_known(browser, open_page):
    page = open_page(name=None)
    page.get_by_label("Token").fill("taskd_" + "A" * 43)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("does not know this token")).to_be_visible()
    page.get_by_label("Token").fill(token("operator"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    assert token("operator") not in page.url


@in_browser
def test_a_token_that_may_only_watch_gets_no_buttons_but_the_reason(browser, open_page):
    page = open_page(name="watcher")
    expect(page.get_by_text("that takes one with the role operate")).to_be_visible()
    expect(page.get_by_role("button", name="Drain")).to_be_hidden()


# --- what the page shows ---


@pytest.mark.parametrize("scheme", ["light", "dark"])
@in_browser
def test_axe_finds_nothing_in_any_section(browser, open_page, daemon, gate, scheme):
    task = daemon.submit("deliver", "a parcel", str(gate), key="parcel")
    daemon.wait(task)
    page = open_page(color_scheme=scheme)
    for section in SECTIONS:
        page.goto(f"{daemon.page}#{section}")
        expect(page.locator("#content h1")).to_have_count(1)
        found = Axe().run(page)
        assert found.violations_count == 0, f"{section}: {found.generate_report()}"
    page.goto(f"{daemon.page}#tasks?task={task}")
    expect(drawer(page).get_by_text("Attempt 2")).to_be_visible()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@in_browser
def test_a_log_has_every_attempt_with_its_traceback_and_what_it_printed(browser, open_page, daemon, gate):
    task = daemon.submit("deliver", "a box", str(gate))
    assert daemon.wait(task) == "failed"
    page = open_page(f"tasks?function=deliver&task={task}")
    attempts = drawer(page).locator(".attempts > li")
    expect(attempts).to_have_count(2)
    expect(attempts.first).to_contain_text("Attempt 2")
    expect(attempts.first).to_contain_text("PermissionError: the gate is closed for a box")
    expect(attempts.first).to_contain_text("Traceback (most recent call last)")
    expect(attempts.first).to_contain_text("carrying a box")
    attempts.last.locator("summary").click()
    expect(attempts.last).to_contain_text("Traceback (most recent call last)")
    drawer(page).get_by_role("button", name="Show the arguments").click()
    expect(drawer(page).locator(".args")).to_contain_text('"a box"')


@in_browser
def test_the_stack_of_a_worker_shows_its_task(browser, open_page, daemon, gate):
    task = daemon.submit("guard", str(gate))
    page = open_page(f"tasks?task={task}")
    expect(drawer(page).get_by_role("progressbar")).to_be_visible()  # it has begun
    page.goto(f"{daemon.page}#workers")
    row = page.get_by_role("row").filter(has_text="guard")
    row.get_by_role("button", name=re.compile("right now")).click()
    expect(page.get_by_role("dialog")).to_contain_text("operated.py")
    gate.touch()
    assert daemon.wait(task) == "succeeded"


@in_browser
def test_a_running_task_is_followed_to_its_end(browser, open_page, daemon, gate):
    task = daemon.submit("guard", str(gate))
    page = open_page(f"tasks?task={task}")
    expect(drawer(page).get_by_role("progressbar")).to_be_visible()
    gate.touch()
    expect(drawer(page).locator("header")).to_contain_text("Done")
    expect(drawer(page).locator(".result")).to_be_visible()


# --- what operators do ---


@in_browser
def test_failed_tasks_are_put_back_together(browser, open_page, daemon, gate):
    tasks = [daemon.submit("deliver", f"letter {number}", str(gate)) for number in range(MANY)]
    assert {daemon.wait(task) for task in tasks} == {"failed"}
    page = open_page("tasks")
    page.get_by_label("State").select_option("Failed")
    page.get_by_label("Text of the error").fill("closed for letter")
    expect(page.get_by_text(f"{MANY} tasks")).to_be_visible()
    page.get_by_label("Select all rows").check()
    gate.touch()
    page.get_by_role("button", name=f"Put back {MANY}").click()
    page.get_by_role("dialog").get_by_role("button", name="Put back").click()
    expect(page.get_by_text(f"{MANY} tasks are put back.")).to_be_visible()
    assert {daemon.wait(task) for task in tasks} == {"succeeded"}
    expect(page.get_by_text("No task matches.")).to_be_visible()


@in_browser
def test_a_task_of_a_paused_function_shows_why_it_waits_and_is_cancelled(browser, open_page, daemon, gate):
    page = open_page("functions")
    page.get_by_role("button", name="Pause deliver").click()
    expect(page.get_by_role("button", name="Resume deliver")).to_be_visible()
    expect(page.locator("#notices")).to_contain_text("Paused: deliver")
    task = daemon.submit("deliver", "late", str(gate))
    page.goto(f"{daemon.page}#tasks?task={task}")
    expect(drawer(page).get_by_text("deliver is paused, until taskd.resume")).to_be_visible()
    drawer(page).get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog", name="Cancel this task?").get_by_role("button", name="Cancel").click()
    expect(drawer(page).locator("header")).to_contain_text("Cancelled")
    page.goto(f"{daemon.page}#functions")
    page.get_by_role("button", name="Resume deliver").click()
    expect(page.get_by_role("button", name="Pause deliver")).to_be_visible()
    assert daemon.call("taskd.status")["store"]["paused"] == []


@in_browser
def test_the_server_is_drained_and_takes_tasks_again(browser, open_page, daemon):
    page = open_page()
    page.get_by_role("button", name="Drain").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(page.get_by_text("Not ready")).to_be_visible()
    expect(page.locator("#notices")).to_contain_text("draining")
    page.get_by_role("button", name="Take tasks again").click()
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    page.goto(f"{daemon.page}#audit")
    expect(page.get_by_role("row").filter(has_text="Drain").first).to_contain_text("token:operator")


@in_browser
def test_a_server_with_a_store_of_its_own_shows_no_nodes(browser, open_page):
    page = open_page("workers")
    expect(page.get_by_role("row").nth(1)).to_be_visible()
    expect(page.get_by_role("region", name="Nodes that share the store")).to_be_hidden()
    expect(page.get_by_text("Workers of this node")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@in_browser
def test_the_nodes_of_a_shared_store_are_shown_and_drained(browser, open_page, daemon, scheme):
    own = daemon.call("taskd.nodes")[0]
    nodes = [
        {**own, "node": 3, "labels": ["gpu"]},
        {**own, "node": 5, "name": "far:17", "seen_ago": 8.0, "this": False},
    ]
    asked = []
    page = open_page("overview", color_scheme=scheme)
    page.route_web_socket(re.compile("."), lambda socket: answer_for_nodes(socket, nodes, asked))
    page.reload()
    page.goto(f"{daemon.page}#workers")
    panel = page.get_by_role("region", name="Nodes that share the store")
    expect(panel.get_by_role("row").filter(has_text="(this one)")).to_contain_text("gpu")
    expect(panel.get_by_role("row").filter(has_text="far:17")).to_contain_text("Silent")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    panel.get_by_role("button", name="Drain node 5").click()
    page.get_by_role("dialog", name="Drain node 5?").get_by_role("button", name="Drain").click()
    expect(panel.get_by_role("row").filter(has_text="far:17")).to_contain_text("Draining")
    panel.get_by_role("button", name="Have node 5 take tasks again").click()
    expect(panel.get_by_role("button", name="Drain node 5")).to_be_visible()
    assert asked == [{"node": 5, "drained": True}, {"node": 5, "drained": False}]


def answer_for_nodes(socket, nodes, asked):
    """Answer a page about these nodes in place of the server, and do to them what the page asks for."""
    server = socket.connect_to_server()

    def from_page(text):
        message = json.loads(text)
        if message["method"] == "taskd.drain":
            asked.append(message["params"])
            [node] = [each for each in nodes if each["node"] == message["params"]["node"]]
            node["draining"] = message["params"]["drained"]
            result = {"draining": node["draining"], "node": node["node"]}
        elif message["method"] == "taskd.nodes":
            result = nodes
        else:
            server.send(text)
            return
        socket.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))

    socket.on_message(from_page)


@in_browser
def test_everything_is_reached_by_keys(browser, open_page, daemon, gate):
    for number in range(3):
        daemon.wait(daemon.submit("deliver", f"key {number}", str(gate)))
    page = open_page()
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    page.keyboard.press("2")
    expect(page.locator("#content h1")).to_have_text("Tasks")
    rows = page.locator("tbody tr[data-key]")
    rows.first.get_by_role("link").focus()
    second = rows.nth(1).get_attribute("data-key")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(drawer(page)).to_contain_text(second)
    page.keyboard.press("Escape")
    expect(drawer(page)).to_be_hidden()
    assert page.evaluate("document.activeElement.closest('tr')?.dataset.key") == second
    page.keyboard.press("/")
    expect(page.get_by_label("Function", exact=True)).to_be_focused()


# --- its modules ---


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_modules_of_the_page_pass_their_own_tests():
    files = sorted(str(path) for path in UNIT_TESTS.glob("*.test.mjs"))
    command = [NODE, "--test", *files]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert files
    assert ended.returncode == 0, ended.stdout
