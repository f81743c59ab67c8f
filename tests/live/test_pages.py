"""The visitor's page and the element for other pages, in a real browser.

Runs where the program `chromium` is installed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.live.browser import CHROMIUM, Browser, in_browser
from tests.live.support import APPS, TIMEOUT, Daemon

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

MOST_BYTES = 150 * 1024
"""Bytes of everything that the page loads."""

FIRST_PAINT = 0.5
"""Seconds to the first paint, which the fastest of a few loads must keep to."""


SECRET = "a secret of the web application, with which it signs tokens"


def token_for(owner, seconds=3600.0, **claims):
    """Return a token as a web application would sign it."""

    def text(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    body = {"sub": owner, "exp": time.time() + seconds, **claims}
    signed = b".".join(text(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, body))
    signature = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + text(signature)).decode()


class Site:
    """A daemon with the app `visited.py`, which may be restarted on the same ports."""

    def __init__(self, directory, *options):
        self.directory = directory
        self._options = options
        self._ports = ("tcp:0:interface=127.0.0.1",) * 2
        self.start()

    def start(self):
        listen, websocket = self._ports
        self.daemon = Daemon(
            *("--app", str(APPS / "visited.py"), "--workers", "2", "--store", "sqlite:tasks.db"),
            *("--listen", listen, "--websocket", websocket, "--stop-timeout", "0.1"),
            *self._options,
            directory=self.directory,
        ).wait_until_ready()
        self._ports = tuple(f"tcp:{self.daemon.port(nth)}:interface=127.0.0.1" for nth in (1, 2))
        self.url = self.daemon.ws.replace("ws://", "http://") + "/"

    def kill(self):
        os.kill(self.daemon.process.pid, signal.SIGKILL)
        self.daemon.wait_for_end()
        self.daemon.wait_until_gone()

    def stop(self):
        self.daemon.stop()
        self.daemon.wait_until_gone()


class Gate:
    """A file that says how far `count_to` may count."""

    def __init__(self, path):
        self.path = path
        self.open_to(0)

    def open_to(self, number):
        new = self.path.with_suffix(".new")
        new.write_text(str(number))
        new.rename(self.path)


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.stop()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A site whose visitors need a signed token."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "key").write_text(SECRET)
    (directory / "key").chmod(0o600)
    site = Site(directory, "--jwt-key", "key")
    yield site
    site.stop()


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path / "gate")


@pytest.fixture
def page(browser, site):
    """The visitor's page, of somebody who has not been there before. No mistake of it goes unnoticed."""
    mistakes = []

    def open_it():
        profile = browser.new_profile()
        page = profile.new_page()
        page.on("pageerror", lambda error: mistakes.append(str(error)))
        page.on(
            "console",
            lambda message: mistakes.append(message.text) if "Content Security" in message.text else None,
        )
        page.goto(site.url)
        return page

    page = browser.run(open_it)
    yield page
    browser.run(page.context.close)
    assert mistakes == []


def form_of(page, title):
    """Open the form of a function, and return it."""
    part = page.locator("details.function").filter(has=page.get_by_text(title, exact=True))
    if part.get_attribute("open") is None:
        part.locator("summary").first.click()
    return part


def start_counting(page, gate, number=10, note=""):
    form = form_of(page, "Count to")
    form.get_by_label("Number").fill(str(number))
    form.get_by_role("textbox", name="Gate").fill(str(gate.path))
    form.get_by_role("textbox", name="Note").fill(note)
    form.get_by_role("button", name="Start", exact=True).click()
    return page.locator(".card").filter(has_text=note or "Count to")


def state_of(card, state):
    """Wait until a card shows a state."""
    card.locator(f'.state[data-state="{state}"]').wait_for()


def axe(page):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]


# --- one task ----------------------------------------------------------------


@in_browser
def test_a_task_is_started_by_its_form_and_watched_to_its_result(browser, page, gate):
    card = start_counting(page, gate, 10, "watched")
    gate.open_to(4)
    card.get_by_text("4 of 10 · at 4").wait_for()
    assert card.locator("progress").get_attribute("value") == "4"
    state_of(card, "running")
    gate.open_to(10)
    state_of(card, "succeeded")
    card.get_by_text('{"counted":10,"note":"watched"}').wait_for()


@in_browser
def test_each_kind_of_parameter_has_its_field_and_what_is_wrong_is_shown_there(browser, page):
    form = form_of(page, "Send invoice")
    form.get_by_role("button", name="Start", exact=True).click()
    assert form.locator('[aria-invalid="true"]').count() == 3, "what is required"
    assert page.evaluate("document.activeElement.labels[0].textContent") == "Customer"
    form.get_by_role("textbox", name="Customer").fill("Ann")
    form.get_by_label("Amount").fill("12.5")
    form.get_by_label("Due").fill("2026-12-24")
    form.get_by_label("Copies").fill("1.5")
    form.get_by_label("Paper").select_option("A5")
    form.get_by_role("button", name="Start", exact=True).click()
    form.get_by_text("is not a whole number").wait_for()
    form.get_by_label("Copies").fill("2")
    form.get_by_role("button", name="Start", exact=True).click()
    page.get_by_text("2 x A5 for Ann: 12.50, due 2026-12-24").wait_for()


@in_browser
def test_a_file_is_read_into_a_list_and_an_error_of_the_function_is_shown_and_tried_again(
    browser, page, tmp_path
):
    names = tmp_path / "names.txt"
    names.write_text("Ann\nBob\n\nCid\n")
    form = form_of(page, "Import people")
    form.locator("[data-control=list] input[type=file]").set_input_files(names)
    form.get_by_role("button", name="Start", exact=True).click()
    people = page.locator(".card").filter(has_text="Import people")
    state_of(people, "succeeded")
    people.locator(".result", has_text="3").wait_for()
    form = form_of(page, "Divide")
    form.get_by_label("Numerator").fill("1")
    form.get_by_label("Denominator").fill("0")
    form.get_by_role("button", name="Start", exact=True).click()
    card = page.locator(".card").filter(has_text="Divide")
    card.get_by_text("float division by zero").wait_for()
    card.locator("summary").click()
    card.get_by_role("button", name="Try Divide again").click()
    card.locator(".events li", has_text="Failed:").nth(1).wait_for()
    state_of(card, "failed")


@in_browser
def test_a_running_task_is_cancelled(browser, page, gate):
    card = start_counting(page, gate, 3, "cancelled")
    state_of(card, "running")
    card.get_by_role("button", name="Cancel Count to").click()
    state_of(card, "cancelled")
    assert card.get_by_role("button", name="Cancel Count to").is_hidden()


# --- reloads and restarts ----------------------------------------------------


@in_browser
def test_a_task_is_there_again_after_a_reload_and_after_a_restart_of_the_server(browser, site, page, gate):
    card = start_counting(page, gate, 6, "kept")
    gate.open_to(1)
    card.get_by_text("1 of 6").wait_for()
    page.reload()
    card.get_by_text("1 of 6").wait_for()
    gate.open_to(2)
    card.get_by_text("2 of 6").wait_for()
    site.kill()
    page.locator("#connection:not(:empty)").wait_for()
    site.start()
    page.locator("#connection:empty").wait_for(state="attached")
    gate.open_to(6)
    state_of(card, "succeeded")
    card.locator("summary").click()
    card.locator(".events li", has_text="attempt 2").wait_for()
    page.reload()
    state_of(card, "succeeded")


@in_browser
def test_a_submit_without_an_answer_is_sent_again_after_a_reload_and_stored_once(browser, site, page):
    page.evaluate(
        """sessionStorage.setItem("taskd.pending", JSON.stringify({
            "the same": {name: "add", args: {first: 40, second: 2}, options: {}, label: "40 · 2"},
        }))"""
    )
    for _ in range(2):
        page.reload()
        page.locator(".card .result", has_text="42").wait_for()
    assert page.locator(".card").count() == 1
    assert page.evaluate("sessionStorage.getItem('taskd.pending')") == "{}"


# --- many tasks --------------------------------------------------------------


@in_browser
def test_a_thousand_rows_are_pasted_shown_corrected_and_sent_as_one_batch(browser, page):
    form = form_of(page, "Add")
    form.get_by_role("button", name="From a table").click()
    table = form.get_by_label("A table, as CSV")
    rows = [f"{number};{number}" for number in range(1000)]
    table.fill("\n".join(["first;second", *rows[:-1], "999;many"]))
    form.get_by_text("Line 1,001, second: “many” is not a whole number.").wait_for()
    assert form.get_by_role("button", name="Start the tasks").get_attribute("aria-disabled") == "true"
    table.fill("\n".join(["first;second", *rows]))
    form.get_by_text("The first 10 of 1,000 rows").wait_for()
    form.get_by_role("button", name="Start 1,000 tasks").click()
    card = page.locator(".card").filter(has_text="of 1,000")
    state_of(card, "succeeded")
    card.get_by_text("1,000 of 1,000").wait_for()
    page.reload()
    card.get_by_text("1,000 of 1,000").wait_for()


@in_browser
def test_a_table_is_dropped_and_the_failed_tasks_of_its_batch_are_shown(browser, page):
    form = form_of(page, "Divide")
    form.get_by_role("button", name="From a table").click()
    data = page.evaluate_handle(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["numerator,denominator\\n1,2\\n1,0\\n"], "table.csv"));
            return data;
        }"""
    )
    form.locator("form.bulk").dispatch_event("drop", {"dataTransfer": data})
    form.get_by_role("button", name="Start 2 tasks").click()
    card = page.locator(".card").filter(has_text="1 failed")
    state_of(card, "failed")
    card.locator("summary").click()
    card.locator(".failures", has_text="float division by zero").wait_for()


# --- for everybody -----------------------------------------------------------


@in_browser
def test_axe_finds_nothing_in_light_and_dark_on_a_phone_and_on_a_wide_screen(browser, page, gate):
    form = form_of(page, "Send invoice")
    form.get_by_role("button", name="Start", exact=True).click()
    card = start_counting(page, gate, 3, "seen")
    card.locator("summary").click()
    form = form_of(page, "Add")
    form.get_by_role("button", name="From a table").click()
    form.get_by_label("A table, as CSV").fill("first,second\n1,x\n")
    form.get_by_text("There is a problem").wait_for()
    for scheme, width in (("light", 1280), ("dark", 390)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


@in_browser
def test_a_task_is_started_and_cancelled_with_the_keyboard_alone(browser, page, gate):
    def press_until(condition, key="Tab", most=60):
        for _ in range(most):
            page.keyboard.press(key)
            if page.evaluate(condition):
                return
        raise AssertionError(condition)

    page.locator("details.function").first.wait_for()
    press_until('document.activeElement.textContent.startsWith("Count to")')
    page.keyboard.press("Enter")
    press_until('document.activeElement.labels?.[0]?.textContent === "Number"')
    page.keyboard.type("3")
    press_until('document.activeElement.labels?.[0]?.textContent.startsWith("Gate")')
    page.keyboard.type(str(gate.path))
    page.keyboard.press("Enter")
    state_of(page.locator(".card"), "running")
    press_until('document.activeElement.getAttribute("aria-label") === "Cancel Count to"')
    page.keyboard.press("Enter")
    state_of(page.locator(".card"), "cancelled")
    page.locator("[role=status]", has_text="Count to: Cancelled").wait_for(state="attached")


@in_browser
def test_the_page_is_small_and_shows_something_soon(browser, site, page):
    sizes, paints = [], []
    for _ in range(3):
        profile = browser.new_profile()
        visit = profile.new_page()
        visit.goto(site.url)
        visit.locator("details.function").first.wait_for()
        found = visit.evaluate(
            """({
                bytes: ["resource", "navigation"].flatMap(type => performance.getEntriesByType(type))
                    .reduce((sum, {decodedBodySize}) => sum + decodedBodySize, 0),
                paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
            })"""
        )
        sizes.append(found["bytes"])
        paints.append(found["paint"])
        profile.close()
    print("bytes:", sizes[0], "first paint in ms:", paints)
    assert sizes[0] < MOST_BYTES
    assert min(paint for paint in paints if paint is not None) < FIRST_PAINT * 1000


# --- tokens ------------------------------------------------------------------


def sign_in(page, token):
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Token").fill(token)
    dialog.get_by_role("button", name="Sign in").click()
    dialog.wait_for(state="detached")


@in_browser
def test_a_visitor_signs_in_and_finds_the_tasks_on_another_device_but_nobody_else_does(
    browser, guarded, gate
):
    first = browser.new_profile().new_page()
    first.goto(guarded.url)
    assert axe(first) == []
    first.get_by_label("Token").fill("no such token")
    first.get_by_role("button", name="Sign in").click()
    first.get_by_text("This is no token").wait_for()
    first.get_by_label("Token").fill("taskd_" + 43 * "x")
    first.get_by_role("button", name="Sign in").click()
    first.get_by_text("does not know this token").wait_for()
    sign_in(first, token_for("ann", functions=["count_*", "add"]))
    first.locator("details.function").first.wait_for()
    assert first.locator(".function-name").all_text_contents() == ["count_to", "add"]
    card = start_counting(first, gate, 5, "of Ann")
    state_of(card, "running")
    assert token_for("")[:10] not in first.url
    assert first.evaluate("Object.keys(localStorage)") == []
    second = browser.new_profile().new_page()
    second.goto(guarded.url)
    sign_in(second, token_for("ann", role="watch"))
    gate.open_to(3)
    again = second.locator(".card", has_text="of Ann")
    again.get_by_text("3 of 5").wait_for()
    assert second.locator("details.function").count() == 0
    other = browser.new_profile().new_page()
    other.goto(guarded.url)
    sign_in(other, token_for("bob"))
    other.locator("details.function").first.wait_for()
    other.get_by_text("There are none yet").wait_for()
    gate.open_to(5)
    for seen in (card, again):
        state_of(seen, "succeeded")
    for page in (first, second, other):
        page.context.close()


@in_browser
def test_another_owners_task_is_refused(browser, guarded):
    page = browser.new_profile().new_page()
    page.goto(guarded.url)
    sign_in(page, token_for("ann"))
    form = form_of(page, "Add")
    form.get_by_label("First").fill("1")
    form.get_by_label("Second").fill("2")
    form.get_by_role("button", name="Start", exact=True).click()
    card = page.locator(".card", has_text="1 · 2")
    state_of(card, "succeeded")
    card.locator("summary").click()
    task = card.locator("code.id").text_content()
    code = """async ([task, token]) => {
        const { connect } = await import("/taskd.js");
        const client = connect(location.href, { token });
        try {
            return await client.call("taskd.get", { task });
        } catch (error) {
            return [error.code, error.data.reason];
        } finally {
            client.close();
        }
    }"""
    assert page.evaluate(code, [task, token_for("bob")]) == [-32008, "owner"]
    assert page.evaluate(code, [task, token_for("ann")])["result"] == 3
    page.context.close()


@in_browser
def test_a_token_that_expires_is_asked_for_again_and_the_page_goes_on(browser, guarded, gate):
    page = browser.new_profile().new_page()
    page.goto(guarded.url)
    sign_in(page, token_for("cid", seconds=4))
    card = start_counting(page, gate, 4, "of Cid")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("has ended").wait_for()
    gate.open_to(2)
    sign_in(page, token_for("cid"))
    card.get_by_text("2 of 4").wait_for()
    gate.open_to(4)
    state_of(card, "succeeded")
    page.get_by_role("button", name="Sign out").click()
    dialog.wait_for()
    assert page.evaluate("sessionStorage.getItem('taskd.token')") is None
    page.context.close()


# --- the element -------------------------------------------------------------


@pytest.fixture
def other_site(tmp_path, site):
    """The address of a page of somebody else, with an element whose task is in the address."""
    (tmp_path / "index.html").write_text(
        f"""<!DOCTYPE html><html lang="en"><title>Elsewhere</title>
        <meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'
            {site.url}; connect-src {site.url} {site.daemon.ws}">
        <script type="module" src="{site.url}taskd-progress.js"></script>
        <main><h1>Elsewhere</h1><taskd-progress cancellable></taskd-progress></main>
        <script>
            const element = document.querySelector("taskd-progress");
            element.addEventListener("taskd-end", ({{detail}}) => {{ window.ended = detail.result; }});
            element.setAttribute("task", location.hash.slice(1));
        </script></html>"""
    )

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join(TIMEOUT)
    server.server_close()


@in_browser
def test_the_element_shows_a_task_in_a_page_of_somebody_else(browser, site, page, gate, other_site):
    start_counting(page, gate, 4, "elsewhere")
    page.locator(".card").wait_for()
    task = page.evaluate("JSON.parse(localStorage.getItem('taskd.tasks'))[0].id")
    elsewhere = browser.new_profile().new_page()
    elsewhere.goto(f"{other_site}#{task}")
    gate.open_to(2)
    elsewhere.get_by_text("2 of 4 · at 2").wait_for()
    assert axe(elsewhere) == []
    elsewhere.get_by_role("button", name="Cancel").wait_for()
    gate.open_to(4)
    elsewhere.get_by_text("Done", exact=True).wait_for()
    elsewhere.wait_for_function("window.ended?.counted === 4")
    assert elsewhere.locator("taskd-progress").get_attribute("state") == "succeeded"
    elsewhere.context.close()
