"""Tokens with every client and every way to a real server, which lets nobody in without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_twisted

from taskd.errors import NotAllowed
from tests.contracts.test_clients import (
    Tried,
    _in_a_task,
    _listed_by_a_coroutine,
    _listed_by_a_task,
    _listed_in_a_thread,
    failure,
)
from tests.contracts.test_clients_with_tokens import Tokens
from tests.live import php
from tests.live.peers import within
from tests.live.support import APPS, TASKD, TIMEOUT, Daemon, kept_daemon
from tests.live.test_js_client import CLIENT, NODE, SCRIPTS, websocket_option

KEY = "0123456789abcdef" * 4
"""The secret that signs the tokens of these tests."""

KINDS = [
    *("blocking", "blocking, websocket", "asyncio", "asyncio, websocket"),
    *("twisted, per-call", "twisted, pooled", "twisted, websocket"),
]


def signed(owner: str, seconds: float = 3600, **claims: Any) -> str:
    """Return the token of an owner, which expires in so many seconds."""
    return jwt.encode({"sub": owner, "exp": int(time.time() + seconds), **claims}, KEY, "HS256")


OLD = signed("ann", -3600)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("gated")
    (directory / "jwt.key").write_text(KEY + "\n")
    (directory / "jwt.key").chmod(0o600)
    options = ("--app", str(APPS / "plain.py"), "--workers", "2", "--store", "memory", "--jwt-key", "jwt.key")
    with kept_daemon(*options, directory=directory) as daemon:
        yield daemon


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, gated: Daemon) -> Iterator[Any]:
    """Make a client of a kind with a token; each is closed at the end."""
    from twisted.internet import reactor
    from twisted.internet.defer import maybeDeferred
    from twisted.internet.threads import deferToThread

    from taskd.client import AsyncClient, Client, TaskClient

    kind, _, way = request.param.partition(", ")
    server = gated.ws if way == "websocket" else gated.tcp
    opened: list[Tried] = []

    def make(token: Any) -> Tried:
        if kind == "blocking":
            made = Tried(Client(server, token=token), deferToThread, _listed_in_a_thread)
        elif kind == "asyncio":
            made = Tried(AsyncClient(server, token=token), _in_a_task, _listed_by_a_task)
        else:
            more: Any = {} if way == "websocket" else {"link": way}
            twisted = TaskClient(reactor, server, token=token, **more)
            made = Tried(twisted, maybeDeferred, _listed_by_a_coroutine)
        opened.append(made)
        return made

    yield make
    for each in opened:
        pytest_twisted.blockon(within(each.close()))


@pytest_twisted.ensureDeferred
async def test_a_new_token_follows_one_that_has_expired(client):
    tokens = Tokens(OLD, signed("ann"))
    made = client(tokens)
    assert await within(made.call("hello", name="Ann"), TIMEOUT) == "Hello, Ann!"
    assert tokens.asked >= 2
    task = await within(made.submit("hello"), TIMEOUT)
    assert [event.event for event in await within(task.events(), TIMEOUT)][-1] == "succeeded"
    found = await within(made.map("add", [(1, 2), (3, 4)]), TIMEOUT)
    assert sorted(result for _, result in found) == [3, 7]


@pytest.mark.parametrize(("token", "reason"), [(OLD, "expired"), (signed("ann") + "x", "unknown")])
@pytest_twisted.ensureDeferred
async def test_a_token_that_is_refused_fails_the_call_and_says_why(client, token, reason):
    error = await failure(client(token).call("hello"), NotAllowed)
    assert error.data.get("reason", "unknown") == reason


@pytest_twisted.ensureDeferred
async def test_the_task_of_another_owner_is_refused_and_an_operator_submits_for_others(client):
    ann, bob, site = (
        client(signed("ann")),
        client(signed("bob")),
        client(signed("site", role="operate")),
    )
    task = await within(site.with_options(owner="ann").submit("hello"), TIMEOUT)
    assert await within(ann.task(task.id).result(), TIMEOUT) == "Hello, World!"
    error = await failure(bob.task(task.id).state(), NotAllowed)
    assert error.data["reason"] == "owner"
    error = await failure(bob.with_options(owner="ann").submit("hello"), NotAllowed)
    assert error.data["reason"] == "role"


def taskd(
    server: Daemon, *command: str, token: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a command for a server, with a token in its environment if there is one."""
    if token is not None:
        environ["TASKD_TOKEN"] = token
    return subprocess.run(
        [*TASKD, *command, "--server", server.tcp],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_an_operators_command_submits_for_others_and_nobody_elses(gated, tmp_path):
    root = signed("root", role="operate")
    task = taskd(gated, "submit", "hello", "--owner", "ann", token=root).stdout.strip()
    assert taskd(gated, "wait", task, token=signed("ann")).stdout == '"Hello, World!"\n'
    assert taskd(gated, "wait", task, token=signed("bob")).returncode == 1
    (tmp_path / "rows.jsonl").write_text('{"name": "Ann"}\n')
    rows = ("map", "hello", str(tmp_path / "rows.jsonl"), "--owner", "ann")
    batch = taskd(gated, *rows, "--submit", token=root).stdout.strip()
    assert '"owner": "ann"' in taskd(gated, "list", "--batch", batch, "--json", token=root).stdout
    for command in ("submit", "hello", "--owner", "ann"), (*rows, "--submit"):
        refused = taskd(gated, *command, token=signed("bob"))
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "options.owner: to speak for others needs a token with the role operate" in refused.stderr
        assert taskd(gated, *command, token=signed("ann")).returncode == 0  # for itself
    assert "--owner need --submit" in taskd(gated, *rows, token=root).stderr


def test_a_command_shows_the_token_of_its_file_or_of_the_environment(gated, tmp_path):
    (tmp_path / "token").write_text(signed("ann") + "\n")

    def run(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return taskd(gated, "call", "hello", *options, **environ)

    assert "Hello, World!" in run("--token-file", str(tmp_path / "token")).stdout
    assert "Hello, World!" in run(TASKD_TOKEN=signed("ann")).stdout
    refused = run()
    assert (refused.returncode, refused.stderr.partition(":")[0]) == (1, "taskd")
    assert "token" in refused.stderr
    assert "token has expired" in run(TASKD_TOKEN=OLD).stderr
    missing = run("--token-file", str(tmp_path / "none"))
    assert missing.returncode == 2


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_javascript_client_brings_a_new_token_and_says_what_was_not_run(gated, tmp_path):
    for source in (CLIENT / "taskd.js", SCRIPTS / "tokens.mjs"):
        shutil.copy(source, tmp_path)
    ended = subprocess.run(
        [str(NODE), *websocket_option(), "tokens.mjs", gated.ws, OLD, signed("ann")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["owner"], found["result"], found["left"]) == ("ann", "Hello, Ann!", 0)
    assert found["reasons"] == [[-32008, False], [-32008, False], [-32008, None]]


@pytest.mark.skipif(php.why_not() != "", reason=php.why_not())
def test_the_php_client_brings_a_new_token(gated, tmp_path):
    code = """
        $given = [getenv('OLD'), getenv('GOOD')];
        $client = new Taskd\\Client(token: function () use (&$given) { return array_shift($given); });
        show($client->call('hello', ['name' => 'Ann']));
        show($client->call('taskd.whoami')['owner']);
        try { (new Taskd\\Client(token: getenv('OLD')))->call('hello'); }
        catch (Taskd\\NotAllowed $error) { show($error->data['reason']); }
    """
    program = php.Program(code, Path(tmp_path), TASKD_SERVER=str(gated.port()), OLD=OLD, GOOD=signed("ann"))
    assert program.end() == ["Hello, Ann!", "ann", "expired"]
