"""A secret argument, let out in every way that code has: nothing that the daemon shows or stores has it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import APPS, TASKD, TIMEOUT, Daemon, kept_daemon, title_of
from tests.postgres_server import Database

SENTINEL = "hunter2sentinel"
"""What is looked for: a part of the secret that is the same in each way of writing it."""

PASSWORD = f'pä"ss\\ {SENTINEL} & 1'
MASK = "[secret]"
HOWS = ("done", "raise", "result", "crash", "exit", "later", "stop")

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
"""A key of Fernet: 32 bytes in Base64."""


@pytest.fixture(scope="module", params=["text", "json"])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A daemon with a store, which has keys in one of the two cases, and its directory."""
    directory = tmp_path_factory.mktemp("secrets")
    (directory / "keys").write_text(f"{KEY}\n")
    (directory / "keys").chmod(0o600)
    options = ["--app", str(APPS / "secretive.py"), "--store", "sqlite:tasks.db", "--workers", "2"]
    options += ["--error-details", "traceback", "--log-format", request.param, "--secret-key", "keys"]
    with kept_daemon(*options, directory=directory) as daemon:
        yield daemon, directory


class Shown:
    """Everything that a daemon has answered."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.connection = daemon.connect()
        self.texts: list[str] = []

    def ask(self, method: str, **params: Any) -> Any:
        """Call a method or a function; return its reply. What comes before that is kept as well."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self.connection.send(request | {"options": {"progress": True}})
        while True:
            line = self.connection.receive()
            self.texts.append(json.dumps(line, ensure_ascii=False))
            if "id" in line:
                return line

    def http(self, method: str, path: str, body: str | None = None, kind: str = "application/json") -> str:
        """Send a request to the gateway; return the text of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port(2), timeout=TIMEOUT)
        connection.request(method, path, body, {"Content-Type": kind} if body else {})
        response = connection.getresponse()
        text = f"{response.headers}{response.read().decode()}"
        self.texts.append(text)
        connection.close()
        return text

    @property
    def all(self) -> str:
        """All of it as one text."""
        return "\n".join(self.texts)


def call_all(shown: Shown) -> None:
    """Have the secret let out, by tasks of all kinds."""
    for function in "plainly", "durably", "generated":
        for how in HOWS:
            shown.ask(function, how=how, password=PASSWORD)
            shown.ask("after", text="between")
        shown.ask(function, how="done", password=[PASSWORD])
        shown.ask(function, how="done", password=PASSWORD, login={"user": "bad", "password": PASSWORD})
        shown.ask(function, how="done", password=PASSWORD, login={"user": 1, "password": PASSWORD})


def submit_all(shown: Shown) -> None:
    """Submit tasks, right and wrong ones, over both ports."""
    right, wrong = {"how": "raise", "password": PASSWORD}, {"how": "raise", "password": [PASSWORD]}
    batch = shown.ask("taskd.submit_batch", function="durably", args=[right, ["raise", PASSWORD]])["result"]
    shown.ask("taskd.wait", batch=batch["batch"])
    shown.ask("taskd.submit_batch", function="durably", args=[right, wrong])
    shown.ask("taskd.submit", function="durably", args=wrong)
    for args in right, wrong:
        shown.http("POST", "/api/v1/tasks?wait=10", json.dumps({"function": "durably", "args": args}))
        shown.http("POST", "/api/v1/batches", json.dumps({"function": "durably", "args": [args]}))
    rows = f"how,password\nraise,{SENTINEL}\n"
    shown.http("POST", "/api/v1/batches?function=durably", rows, "text/csv")
    waiting = {"function": "durably", "args": right, "options": {"delay": 1000}}
    assert "result" in shown.ask("taskd.submit", **waiting)


def look_at_all(shown: Shown) -> list[dict[str, Any]]:
    """Ask for everything that can be asked for; return the tasks with their arguments."""
    for path in "/api/v1/functions", "/api/v1/openapi.json", "/api/v1/status", "/metrics", "/api/v1/tasks":
        shown.http("GET", path)
    for method in "taskd.functions", "taskd.status":
        shown.ask(method)
    tasks = []
    for listed in shown.ask("taskd.list", limit=1000)["result"]:
        task = listed["task"]
        tasks.append(shown.ask("taskd.get", task=task, with_args=True)["result"])
        shown.ask("taskd.events", task=task)
        shown.ask("taskd.why", task=task)
        shown.ask("taskd.attach", task=task)
        shown.http("GET", f"/api/v1/tasks/{task}?with_args=true")
        shown.http("GET", f"/api/v1/tasks/{task}/log")
    return tasks


def test_nothing_that_the_daemon_shows_or_stores_has_a_secret(started: tuple[Daemon, Path]) -> None:
    daemon, directory = started
    shown = Shown(daemon)
    call_all(shown)
    submit_all(shown)
    tasks = look_at_all(shown)
    titles = [title_of(pid) for pid in daemon.family()]

    assert SENTINEL not in shown.all
    assert SENTINEL not in "\n".join(titles)
    # All of what was let out is there, but for the secret.
    for text in (
        "RuntimeError: the password is",
        "a note on",
        "stopped with",
        "with [secret]",
        "a child [secret]",
    ):
        assert text in shown.all, text
    for task in tasks:
        values = task["args"].values() if isinstance(task["args"], dict) else task["args"]
        assert MASK in list(values)
    assert {"raise", "done"} <= {str(task["args"]["how"]) for task in tasks if isinstance(task["args"], dict)}

    daemon.wait_for_log("a thread")
    for text in "print", "logging", "warnings", "a child", "stderr", "a thread":
        assert f"{text} {MASK}" in daemon.log or f"{text} '{MASK}'" in daemon.log, text
    assert SENTINEL not in daemon.log

    files = [file for file in directory.iterdir() if file.name != "keys"]
    assert any(b'"how":"raise"' in file.read_bytes() for file in files)
    for file in files:
        assert SENTINEL.encode() not in file.read_bytes(), file


def test_a_failed_attempt_keeps_the_tail_of_its_output_and_its_memory(started: tuple[Daemon, Path]) -> None:
    daemon, _ = started
    shown = Shown(daemon)
    for how in "raise", "exit", "stop":
        task = shown.ask("taskd.submit", function="durably", args=[how, PASSWORD])["result"]["task"]
        shown.ask("taskd.wait", task=task)
        ends = [each for each in shown.ask("taskd.events", task=task)["result"] if "error" in each]
        assert len(ends) == 2
        for end in ends:
            assert f"print {MASK}" in end["output"], end
            assert f"stderr '{MASK}'" in end["output"], end
            assert end["memory"] > 1000


NEW_KEY = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="


@pytest.mark.parametrize("is_shared", [False, True])
def test_the_key_of_the_secrets_is_changed_without_a_restart_and_the_old_one_dropped(
    tmp_path: Path, database: Database, is_shared: bool
) -> None:
    store, named = (database.dsn, database.name) if is_shared else ("sqlite:tasks.db", "tasks.db")
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    options = ("--app", str(APPS / "secretive.py"), "--store", store, "--workers", "1")
    options += ("--secret-key", "keys")

    def submit(shown: Shown) -> str:
        task = shown.ask("taskd.submit", function="durably", args=["done", PASSWORD])["result"]["task"]
        return str(task)

    def reseal() -> subprocess.CompletedProcess[str]:
        command = [*TASKD, "store", "reseal", store, "--secret-key", "keys"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)

    with kept_daemon(*options, directory=tmp_path) as daemon:
        shown = Shown(daemon)
        shown.ask("taskd.pause", function="durably")
        first = submit(shown)
        keys.write_text("no key\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_log(r"--secret-key are not read again: .*keys:1: a key is")
        keys.write_text(f"{NEW_KEY}\n{KEY}\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_log("the keys of --secret-key read again: 2")
        second = submit(shown)
        refused = reseal()
        assert (refused.returncode, refused.stdout) == (1, "")
        assert named in refused.stderr
    ended = reseal()
    assert ended.stdout.startswith("1 tasks have the first key now, 1 had it already\n"), ended
    assert "the other keys can be taken out of keys" in ended.stdout
    keys.write_text(f"{NEW_KEY}\n")
    with kept_daemon(*options, directory=tmp_path) as daemon:
        shown = Shown(daemon)
        shown.ask("taskd.resume", function="durably")
        for task in first, second:
            assert shown.ask("taskd.wait", task=task)["result"]["state"] == "succeeded"
    keys.write_text(f"{KEY}\n")
    ended = reseal()
    assert (ended.returncode, ended.stdout) == (1, "0 tasks have the first key now, 0 had it already\n")
    assert (
        f"no key opens the secrets of 2 tasks, which are left as they are: {first}, {second}" in ended.stderr
    )
