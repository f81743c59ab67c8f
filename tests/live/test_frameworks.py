"""README and the pages of docs/frameworks, users and coming-from, followed by somebody who has a shell."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import pytest_twisted

from tests.live import pages
from tests.live.peers import in_thread
from tests.live.test_browser import CHROMIUM, Browser, Tab
from tests.live.test_workerman import PROGRAMS, why_not

CLIENTS = pages.ROOT / "clients"

NEEDS = {
    "frameworks/django.md": ("curl",),
    "frameworks/fastapi.md": ("curl",),
    "frameworks/flask.md": ("curl",),
    "frameworks/node.md": ("curl", "node", "npm"),
    "frameworks/php.md": ("curl", "php"),
    "frameworks/twisted.md": ("curl",),
    "frameworks/browser.md": (),
    "../README.md": ("curl", "node", "npm", "php"),
    "coming-from/celery.md": ("redis-server",),
    "coming-from/rq.md": ("redis-server",),
    "coming-from/workerman.md": ("php",),
    "users/django.md": ("curl",),
    "users/fastapi.md": ("curl",),
    "users/flask.md": ("curl",),
    "users/php.md": ("curl", "php"),
}
"""The programs that each page needs; Python's packages are installed for the tests."""

FOLDERS = ("frameworks", "users", "coming-from")

USE_PHP = {"../README.md", "coming-from/workerman.md", "frameworks/php.md"}
USE_NODE = {"../README.md", "frameworks/node.md"}

FOLLOWED_BY_HAND = {"frameworks/browser.md"}
"""Pages whose reader does something that is no command."""


@pytest.fixture
def reader(tmp_path):
    """Make the reader of a page, who has written its files."""
    readers = []

    def read(name):
        if reason := pages.missing(*NEEDS[name]):
            pytest.skip(reason)
        try:
            pages.environment()
        except subprocess.CalledProcessError:
            pytest.skip("the frameworks cannot be installed here")
        left_out = ["With Workerman"] if why_not() else []
        readers.append(pages.Reader(pages.Page(name, "See it run", *left_out), tmp_path))
        return readers[-1]

    yield read
    for each in readers:
        each.leave()


def test_every_page_is_followed():
    found = {f"{folder}/{path.name}" for folder in FOLDERS for path in (pages.DOCS / folder).glob("*.md")}
    indexes = {f"{folder}/index.md" for folder in FOLDERS}
    assert (found - indexes) | {"../README.md"} == NEEDS.keys()


@pytest.mark.parametrize("name", sorted(name for name in NEEDS if name.startswith("frameworks")))
def test_a_page_needs_few_lines_of_the_readers_own(name):
    page = pages.Page(name)
    assert "tasks.py" in page.files
    assert 0 < page.own_lines() <= pages.LINES


@pytest.mark.parametrize("name", sorted(NEEDS.keys() - FOLLOWED_BY_HAND))
def test_a_page_can_be_followed(name, reader, tmp_path):
    follower = reader(name)
    if name in USE_PHP:
        shutil.copy(CLIENTS / "php" / "Taskd.php", tmp_path)
    if name == "coming-from/workerman.md":
        # What its installation makes.
        (tmp_path / "vendor").mkdir()
        (tmp_path / "vendor" / "autoload.php").write_text(f"<?php require '{PROGRAMS}/autoload.php';")
        follower.environ["WORKERMAN_FILES"] = str(tmp_path)
    if name in USE_NODE:
        npm = ["npm", "install", "--silent", "--prefix", str(tmp_path), "ws"]
        if subprocess.run(npm, stdin=subprocess.DEVNULL).returncode:
            pytest.skip("the package ws cannot be installed here")
    sessions = follower.page.sessions
    first = next((each for each in sessions if "startproject" in each.commands[0]), None)
    if first is not None:
        follower.run(first)  # it makes files that the page then replaces
    follower.write_files()
    follower.follow(but=first)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest_twisted.ensureDeferred
async def test_the_button_of_the_page_in_a_browser_shows_progress_and_the_result(
    reader, websocket, tmp_path, tmp_path_factory
):
    follower = reader("frameworks/browser.md")
    follower.write_files()
    await in_thread(follower.follow)
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        address = follower.with_ports("http://127.0.0.1:8000/")
        tab = Tab(await websocket(await in_thread(browser.open_tab, address)))
        await tab.wait_until('document.querySelector("button")?.onclick')
        await tab.evaluate('document.querySelector("button").click()')
        await tab.wait_until('document.querySelector("output").value === "a report of 5 pages"')
        assert await tab.evaluate('document.querySelector("progress").value') == 1
    finally:
        browser.close()
