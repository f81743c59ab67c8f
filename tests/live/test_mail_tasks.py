"""Mails as stored tasks: tried again, or not, and sent twice under one Message-ID if they have to be."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from tests.live.mail_servers import Handler, MailServer, refusing
from tests.live.support import APPS, Connection, Daemon, kept_daemon, rpc

MAIL = {"from": "Ann <ann@example.org>", "to": "bob@example.org", "contents": "x"}

Start = Callable[[MailServer], Daemon]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a daemon that sends mails to a server, one after the other."""
    with ExitStack() as stack:

        def start_one(server: MailServer) -> Daemon:
            monkeypatch.setenv("TASKD_MAIL_URL", server.url())
            options = (
                "--app",
                str(APPS / "impatient_mail.py"),
                "--workers",
                "1",
                "--store",
                f"sqlite:mails-{server.port}.db",
            )
            return stack.enter_context(kept_daemon(*options, directory=tmp_path))

        yield start_one


def send(client: Connection) -> dict[str, Any]:
    """Send a mail, and return its task once that has ended."""
    task = client.ask(
        {"jsonrpc": "2.0", "id": 1, "method": "taskd.submit", "params": {"function": "send", "args": MAIL}}
    )
    return client.ask(rpc(2, "taskd.wait", task["result"]["task"]))["result"]


def message_ids(handler: Handler) -> list[str]:
    return [str(message_from_bytes(envelope.content)["Message-ID"]) for _, envelope in handler.taken]


def test_a_mail_that_is_refused_for_now_is_tried_again_and_one_refused_for_good_is_not(start: Start) -> None:
    with MailServer(refusing("RCPT", "450 come again")) as server:
        client = start(server).connect()
        ended = send(client)
        assert (ended["state"], ended["attempts"], ended["errors"]) == ("succeeded", 2, 1)
        assert message_ids(server.handler) == [f"<{ended['task']}@example.org>"]
        assert ended["result"] == {"message_id": f"<{ended['task']}@example.org>"}
    with MailServer(refusing("RCPT", "550 no such user")) as server:
        ended = send(start(server).connect())
        assert (ended["state"], ended["attempts"]) == ("failed", 1)
        assert "550 no such user" in ended["error"]["message"]
        assert server.handler.taken == []


def test_a_server_that_is_away_is_tried_again(start: Start) -> None:
    with MailServer() as server:
        daemon = start(server)
    ended = send(daemon.connect())
    assert (ended["state"], ended["attempts"], ended["errors"]) == ("failed", 3, 3)
    assert "Connection refused" in ended["error"]["message"]


def test_a_mail_whose_process_dies_is_sent_again_with_the_same_message_id(start: Start) -> None:
    class Killing(Handler):
        workers: list[int] = []

        async def handle_DATA(self, server, session, envelope) -> str:
            answer = await super().handle_DATA(server, session, envelope)
            while self.workers:
                os.kill(self.workers.pop(), signal.SIGKILL)
            return answer

    handler = Killing()
    with MailServer(handler) as server:
        daemon = start(server)
        daemon.wait_for_workers(1)
        handler.workers = daemon.workers
        ended = send(daemon.connect())
    assert (ended["state"], ended["attempts"], ended["losses"]) == ("succeeded", 2, 1)
    assert message_ids(handler) == [f"<{ended['task']}@example.org>"] * 2
