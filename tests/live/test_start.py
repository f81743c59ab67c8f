"""How a server starts: its first lines if no app was named, and a gateway with a local link."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.live.support import (
    APPS,
    BIN,
    TIMEOUT,
    bare,
    connect_unix,
    kept_daemon,
    run_twistd,
    wait_for_exit,
)


def messages(log: str) -> list[str]:
    """Return the log lines of taskd itself, without times."""
    return [line.partition("[taskd#info] ")[2] for line in log.splitlines() if "[taskd#info] " in line]


def test_without_an_app_the_log_begins_with_what_is_served_where_mails_go_and_how_to_change_it(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.delenv("TASKD_MAIL_URL", raising=False)
    with kept_daemon("--workers", "1", directory=tmp_path) as daemon:
        app, mails, own, *others = messages(daemon.log)
        assert "taskd.apps.mail" in app
        assert f"the Maildir {tmp_path}/outbox" in mails
        assert "--app YOUR_MODULE" in own
        assert all(line.startswith("listening on") for line in others)
        daemon.connect().ask(
            {"function": "send_mail", "args": {"from": "a@x.example", "to": "b@x.example", "contents": "hi"}}
        )
    assert len(list((tmp_path / "outbox" / "new").iterdir())) == 1


def test_the_password_of_a_mail_server_is_not_logged(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TASKD_MAIL_URL", "smtps://ann:secret@mail.example")
    with kept_daemon("--workers", "1", directory=tmp_path) as daemon:
        assert "mails go to smtps://mail.example:465 (" in daemon.log
        assert "secret" not in daemon.log


def test_the_default_app_is_not_mentioned_if_an_app_is_given(tmp_path: Path) -> None:
    for app in str(APPS / "plain.py"), "taskd.apps.mail":
        with kept_daemon("--app", app, "--workers", "1", directory=tmp_path) as daemon:
            assert "--app" not in daemon.log
            assert "mails go to" not in daemon.log


def test_a_gateway_without_a_task_server_logs_nothing_about_an_app(tmp_path: Path, start, shared) -> None:
    gateway = start("--listen", "none", "--task-server", shared.tcp)
    gateway.wait_for_log("listening on")
    assert "--app" not in gateway.log


def test_a_gateway_with_a_local_link_calls_its_own_task_server_and_a_stop_waits_for_it(start, gate) -> None:
    daemon = start("--link", "local", "--workers", "1").wait_until_ready()
    calling = subprocess.Popen(
        [BIN / "taskd", "call", "--via", daemon.ws, "wait_for", f"path={gate.path}"], stdout=subprocess.PIPE
    )
    gate.wait_until_entered()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_log(r"Port \d+ Closed", 2)
    gate.release("finished")
    output, _ = calling.communicate(timeout=TIMEOUT)
    assert (calling.returncode, output) == (0, b'"finished"\n')
    assert daemon.wait_for_end() == -signal.SIGTERM


def test_a_background_start_of_a_broken_app_shows_the_whole_reason(tmp_path: Path, pool_name: str) -> None:
    (tmp_path / "broken.py").write_text("def function():\n    raise OSError('x' * 300)\n\nfunction()\n")
    endpoints = ["--listen", f"unix:{tmp_path}/socket", "--websocket", "none"]
    ended = run_twistd(tmp_path, pool_name, "taskd", "--app", "broken", *endpoints)
    assert ended.returncode == 1
    assert f"OSError: {'x' * 300}\n" in ended.stdout
    assert f'File "{tmp_path}/broken.py", line 2, in function' in ended.stdout
    assert f"taskd: not started; the log is {tmp_path}/twistd.log" in ended.stdout
    assert f"OSError: {'x' * 300}\n" in (tmp_path / "twistd.log").read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--logfile=nowhere/taskd.log"], "cannot write the log file"),
        (["--logfile=-"], "cannot log to standard output"),
        (["--pidfile=nowhere/taskd.pid"], "cannot write the pid file"),
        (["--rundir=nowhere"], "there is no such directory"),
    ],
)
def test_a_file_that_twistd_cannot_write_is_named_in_one_line(
    tmp_path: Path, pool_name: str, options: list[str], reason: str
) -> None:
    ended = run_twistd(tmp_path, pool_name, *options, "taskd")
    (line,) = ended.stdout.splitlines()
    assert (ended.returncode, line.startswith("taskd: ")) == (1, True)
    assert reason in line
    assert list(tmp_path.iterdir()) == []


def test_an_option_of_twistd_after_the_word_taskd_is_explained_in_one_line(
    tmp_path: Path, pool_name: str
) -> None:
    ended = run_twistd(tmp_path, pool_name, "taskd", "--logfile=x")
    (line,) = ended.stdout.splitlines()
    assert "--logfile is an option of twistd itself: write twistd --logfile … taskd …" in line


def test_a_log_file_is_reopened_at_sigusr1_and_the_daemon_serves_on(tmp_path: Path, pool_name: str) -> None:
    log, listen = tmp_path / "own.log", ["--listen", f"unix:{tmp_path}/socket", "--websocket", "none"]
    app = ["--app", str(APPS / "plain.py"), "--workers", "1"]
    options = [f"--logfile={log}", "--pidfile=own.pid", "taskd", *app, *listen]
    assert run_twistd(tmp_path, pool_name, *options).returncode == 0
    daemon = int((tmp_path / "own.pid").read_text())
    client = connect_unix(tmp_path / "socket")
    assert client.ask(bare("say", "before")) is None
    log.rename(tmp_path / "own.log.1")
    os.kill(daemon, signal.SIGUSR1)
    while not log.exists():
        assert client.ask(bare("hello")) == "Hello, World!"
    # Truncated by others, as by logrotate's copytruncate: no gap before the next line.
    assert client.ask(bare("say", "after")) is None
    while "after" not in log.read_text():
        assert client.ask(bare("hello")) == "Hello, World!"
    os.truncate(log, 0)
    assert client.ask(bare("say", "the end")) is None
    os.kill(daemon, signal.SIGTERM)
    wait_for_exit(daemon)
    assert "before" in (tmp_path / "own.log.1").read_text()
    assert re.match(r"\d{4}-.*the end\n", log.read_text())


def test_sigusr1_does_not_end_a_daemon_that_logs_to_standard_output(start) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    daemon.process.send_signal(signal.SIGUSR1)
    daemon.wait_for_log("SIGUSR1: the log goes to standard output")
    assert daemon.connect().ask(bare("hello")) == "Hello, World!"
