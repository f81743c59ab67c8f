"""The second part of the demo: the same mails, and the daemon is killed while they are sent.

They are stored tasks, in an SQLite file, and go to an SMTP server. When that
has accepted a part of them, the daemon gets a SIGKILL, and is started again.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable

from mail_server import MailServer
from server import HERE, STORE, Server
from twisted.internet.defer import gatherResults

from taskd.client import TaskClient
from taskd.errors import TaskdError
from taskd.net.reactor import Reactor

KILLED_AFTER = 400
"""Mails that have been accepted when the daemon is killed: somewhere in the middle."""


async def survive(reactor: Reactor, start: Callable[[str], Server]) -> int:
    """Send the newsletter with a daemon that is killed meanwhile; return 0 if no mail is missing.

    `start` starts a server for a mail server's URL; whoever passes it stops the servers.
    """
    with (HERE / "users.csv").open(newline="", encoding="utf-8") as file:
        mails = list(csv.DictReader(file))
    mail_server = MailServer(reactor)
    try:
        server = start(mail_server.url)
        client = await server.wait_until_ready(reactor)
        began = time.monotonic()
        middle = mail_server.reached(KILLED_AFTER)
        tasks = await submit(client, mails)
        print(f"stored              {len(tasks)} tasks in {STORE.name}, {time.monotonic() - began:.1f} s")
        await middle
        server.kill()
        client.close()
        before = mail_server.accepted
        print(f"killed              the daemon, with SIGKILL, after {before} mails", flush=True)
        client = await start(mail_server.url).wait_until_ready(reactor)
        print("started again       it goes on by itself", flush=True)
        ended = await gatherResults([client.request("taskd.wait", [task]) for task in tasks])
        client.close()
    except TaskdError as error:
        raise SystemExit(f"\nThe demo was cut short: {error}") from None
    finally:
        await mail_server.close()
    ids = mail_server.message_ids
    missing = [mail["to"] for mail in mails if address(mail["to"]) not in ids]
    failed = [each for each in ended if each["state"] != "succeeded"]
    twice = [set(each) for each in ids.values() if len(each) > 1]
    print(
        f"\naccepted            {len(ids)} mails by the SMTP server\n"
        f"missing             {len(missing)}\n"
        f"failed              {len(failed)}\n"
        f"sent twice          {len(twice)}, {sum(len(each) == 1 for each in twice)} of them under the same "
        "Message-ID: they were on their way when the daemon was killed\n"
        f"seconds             {time.monotonic() - began:.1f}",
        flush=True,
    )
    return 1 if missing or failed else 0


async def submit(client: TaskClient, mails: list[dict[str, str]]) -> list[str]:
    """Submit a task for each mail; return their ids, once all of them are stored."""
    answers = await gatherResults(
        [client.request("taskd.submit", {"function": "send_mail", "args": mail}) for mail in mails]
    )
    return [answer["task"] for answer in answers]


def address(mailbox: str) -> str:
    """Return the bare address of ``Name <address>``."""
    return mailbox.rpartition("<")[2].rstrip(">")
