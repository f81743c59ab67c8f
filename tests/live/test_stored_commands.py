"""The commands about stored tasks, as people and scripts use them: what they print, and how they end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import APPS, Daemon, kept_daemon, run_taskd

FAILED, NOT_YET = 1, 75
"""Exit statuses."""

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("stored")
    app = str(APPS / "lasting.py")
    options = ("--app", app, "--workers", "2", "--store", "sqlite:tasks.db", "--error-details", "traceback")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKS", str(directory / "marks"))
        with kept_daemon(*options, directory=directory) as started:
            yield started


@pytest.fixture
def taskd(daemon: Daemon) -> Command:
    return lambda *arguments: run_taskd(daemon.tcp, *arguments)


def done(ended: subprocess.CompletedProcess[str]) -> str:
    """Return what a command printed; it must have succeeded with nothing on stderr."""
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    return ended.stdout


def answer(ended: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done(ended))


def test_a_submitted_task_is_waited_for_by_any_part_of_its_id(taskd: Command) -> None:
    task = done(taskd("submit", "mark", "number=5")).strip()
    assert done(taskd("wait", task)) == "5\n"
    assert done(taskd("wait", task[-12:])) == "5\n"
    assert answer(taskd("wait", task[:23], "--json"))["state"] == "succeeded"
    ended = taskd("wait", "ffffffffffff")
    assert ended.returncode == FAILED
    assert "whose id begins or ends with ffffffffffff" in ended.stderr


def test_a_submit_is_refused_with_the_function_that_was_meant(taskd: Command) -> None:
    for arguments in ("mrk",), ("mrk", "number=1"):
        ended = taskd("submit", *arguments)
        assert ended.returncode == FAILED
        assert "did you mean mark?" in ended.stderr


def test_a_second_submit_with_the_same_token_prints_the_same_id(taskd: Command) -> None:
    first = answer(taskd("submit", "mark", "number=1", "--token", "once", "--json"))
    second = taskd("submit", "mark", "number=1", "--token", "once")
    assert second.stdout.strip() == first["task"]
    assert "joined" in second.stderr


def test_a_task_that_is_not_due_is_listed_and_cancelled(taskd: Command) -> None:
    task = done(taskd("submit", "mark", "number=7", "--delay", "3600", "--key", "later")).strip()
    assert taskd("wait", task, "--timeout", "0").returncode == NOT_YET
    listed = done(taskd("list", "--state", "scheduled", "--function", "mark"))
    assert f"\n{task[-12:]}  mark" in listed
    assert "key later, due 2" in listed
    assert [each["task"] for each in answer(taskd("list", "--key", "later", "--json"))] == [task]
    assert done(taskd("cancel", task)) == f"{task}: was scheduled\n"
    again = taskd("cancel", task[-14:])
    assert (again.returncode, again.stdout) == (FAILED, f"{task}: is not in flight\n")
    assert json.loads(taskd("cancel", task, "--json").stdout) == [{"task": task, "was": "done"}]
    assert "the task is cancelled" in taskd("wait", task).stderr


def test_a_list_goes_on_after_its_limit(taskd: Command) -> None:
    tasks = [done(taskd("submit", "plain", f"number={number}")).strip() for number in range(3)]
    first = taskd("list", "--function", "plain", "--limit", "2")
    assert first.stdout.count("plain") == 2
    assert f"there are more: --after {tasks[1]}" in first.stderr
    rest = done(taskd("list", "--function", "plain", "--after", tasks[1]))
    assert rest.count("plain") == 1


def test_a_task_is_watched_to_its_end_and_shown_afterwards(taskd: Command) -> None:
    task = done(taskd("submit", "third_time", "number=31")).strip()
    attached = taskd("attach", task)
    assert (attached.returncode, attached.stdout) == (0, '"done"\n')
    for words in ("  queued\n", "  started: attempt 3\n", "  retrying: RuntimeError: not yet; again at "):
        assert words in attached.stderr
    events = [json.loads(line) for line in done(taskd("attach", task, "--json")).splitlines()]
    assert [each["event"] for each in events] == [
        *("queued", "started", "retrying", "started", "retrying", "started", "succeeded")
    ]
    assert answer(taskd("show", task, "--json"))["events"] == events
    shown = done(taskd("show", task[-12:]))
    assert shown.count("RuntimeError: not yet\n") == 2  # the ends of two tracebacks


def test_the_rows_of_a_file_are_a_batch(taskd: Command, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"number": 41}\n{"number": 42, "seconds": -1}\n{"number": 43}\n')
    failed, results = tmp_path / "failed.jsonl", tmp_path / "results.jsonl"
    ended = taskd("map", "mark", rows, "--submit", "--failed", failed, "--output", results)
    assert ended.returncode == FAILED
    assert "2 done, 1 failed, of 3" in ended.stderr
    assert [json.loads(line)["line"] for line in results.read_text().splitlines()] == [1, 3]
    assert "line 2: task failed: ValueError: sleep length" in failed.read_text()
    batch = ended.stdout.strip()
    for part in batch, batch[-12:]:
        assert "2 done, 1 failed, of 3" in done(taskd("show", part))
        assert len(answer(taskd("list", "--batch", part, "--state", "succeeded", "--json"))) == 2
    assert f"\n{batch[-12:]}  mark      failed" in done(taskd("list", "--batches"))
    rows.write_text('{"number": 44}\n')
    next_one = taskd("map", "mark", rows, "--submit").stdout.strip()
    newest = taskd("list", "--batches", "--newest", "--limit", "1", "--json")
    assert [each["batch"] for each in json.loads(newest.stdout)] == [next_one]
    assert f"there are more: --after {next_one}" in newest.stderr
    following = answer(taskd("list", "--batches", "--newest", "--after", next_one[-12:], "--json"))
    assert following[0]["batch"] == batch
    assert "is a batch, not a task" in taskd("why", batch).stderr


def test_a_batch_with_one_wrong_row_is_refused_with_its_line(taskd: Command, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"number": 51}\n{"nmber": 52}\n')
    ended = taskd("map", "mark", rows, "--submit")
    assert (ended.returncode, ended.stdout) == (FAILED, "")
    assert "nothing was submitted: line 2: no parameter 'nmber'" in ended.stderr


def test_a_function_is_paused_and_a_failed_task_is_put_back(taskd: Command) -> None:
    assert done(taskd("pause", "plain")) == "plain: is paused now\n"
    assert "\nstored tasks: in a file; 0 claimed\npaused: plain\n" in done(taskd("status"))
    task = done(taskd("submit", "plain", "number=6")).strip()
    assert "paused" in done(taskd("why", task))
    assert answer(taskd("resume", "plain", "--json")) == {"was": "paused"}
    assert done(taskd("wait", task)) == "6\n"
    ended = taskd("retry", task, "--json")
    assert ended.returncode == FAILED
    assert "has succeeded" in ended.stderr
    aside = done(taskd("submit", "poison")).strip()
    assert "the task is set aside" in taskd("wait", aside).stderr
    assert done(taskd("retry", aside)) == f"{aside}: was set aside, waits again\n"
