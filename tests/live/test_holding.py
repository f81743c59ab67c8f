"""Stored tasks that are held: by the limits of their function, or because it is paused."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import APPS, Connection, Daemon, kept_daemon, rpc
from tests.live.test_store import submit, wait

Start = Callable[[], Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        os.environ["MARKS"] = str(tmp_path / "marks")
        options = ("--app", str(APPS / "limited.py"), "--workers", "4", "--store", "sqlite:tasks.db")
        yield lambda: stack.enter_context(kept_daemon(*options, directory=tmp_path))


def ask(client: Connection, method: str, *params: Any) -> Any:
    return client.ask(rpc(1, method, *params))["result"]


def kill(daemon: Daemon) -> None:
    os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.wait_for_end()
    daemon.wait_until_gone()


def most_at_once(marks: Path) -> Counter[str]:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for line in marks.read_text().splitlines():
        what, account = line.split()
        running[account] += 1 if what == "begin" else -1
        most[account] = max(most[account], running[account])
    return most


def test_a_key_that_is_full_holds_its_own_tasks_alone_before_and_after_a_restart(
    start: Start, tmp_path: Path
) -> None:
    daemon = start()
    client = daemon.connect()
    slow = [submit(client, "send", "slow") for _ in range(60)]
    assert wait(client, submit(client, "send", "other"))["state"] == "succeeded"
    held = ask(client, "taskd.why", slow[-1])
    assert held["state"] == "waiting"
    assert held["concurrency"]["limit"] == 2
    assert held["concurrency"]["running"] == slow[:2]
    assert ask(client, "taskd.why", slow[0])["reason"] == "nothing holds it: attempt 1 is running"
    kill(daemon)
    (tmp_path / "marks").unlink()
    client = start().connect()
    assert wait(client, submit(client, "send", "other"))["state"] == "succeeded"
    assert ask(client, "taskd.cancel", None, slow[-1]) == {"was": "waiting"}
    (tmp_path / "go").touch()
    assert [wait(client, task)["state"] for task in slow] == ["succeeded"] * 59 + ["cancelled"]
    assert most_at_once(tmp_path / "marks") == {"slow": 2, "other": 1}


def test_a_pause_outlives_the_daemon(start: Start, tmp_path: Path) -> None:
    daemon = start()
    client = daemon.connect()
    assert ask(client, "taskd.pause", "send") == {"was": "running"}
    task = submit(client, "send", "a")
    kill(daemon)
    client = start().connect()
    assert ask(client, "taskd.why", task)["paused"] is True
    assert ask(client, "taskd.status")["store"]["paused"] == ["send"]
    assert ask(client, "taskd.resume", "send") == {"was": "paused"}
    assert wait(client, task)["state"] == "succeeded"


def test_a_rate_holds_what_is_beyond_it(start: Start) -> None:
    client = start().connect()
    tasks = [submit(client, "rare") for _ in range(3)]
    assert [wait(client, task)["state"] for task in tasks[:2]] == ["succeeded"] * 2
    held = ask(client, "taskd.why", tasks[2])
    assert (held["rate"]["count"], held["rate"]["seconds"]) == (2, 86400.0)
    assert 86000 < held["rate"]["next_start"] <= 86400
