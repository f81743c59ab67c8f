"""How a server starts: its first lines if no app was named, and a gateway with a local link."""

import signal
import subprocess
from pathlib import Path

from tests.live.support import APPS, BIN, TIMEOUT, kept_daemon


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
