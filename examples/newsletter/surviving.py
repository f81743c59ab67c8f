"""The second part of the demo: the same mails, and the daemon is killed while they are sent.

They are one batch of stored tasks, in an SQLite file, and go to an SMTP server. When
that has accepted a part of them, the daemon gets a SIGKILL, and is started again.
``taskd map --submit`` waits for the end of the batch all the while.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable

from mail_server import MailServer
from sending import Command
from server import HERE, Server
from twisted.internet.defer import DeferredList

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
        (await server.wait_until_ready(reactor)).close()
        began = time.monotonic()
        middle = mail_server.reached(KILLED_AFTER)
        sending = Command(
            reactor, "map", "send_mail", str(HERE / "users.csv"), "--submit", "--via", server.url
        )
        await DeferredList([middle, sending.ended], fireOnOneCallback=True)
        server.kill()
        before = mail_server.accepted
        print(
            f"\nThe daemon was killed, with SIGKILL, after {before} mails; now it is started again.",
            flush=True,
        )
        (await start(mail_server.url).wait_until_ready(reactor)).close()
        status = await sending.ended
    finally:
        await mail_server.close()
    ids = mail_server.message_ids
    missing = [mail["to"] for mail in mails if address(mail["to"]) not in ids]
    twice = [set(each) for each in ids.values() if len(each) > 1]
    print(
        f"\naccepted            {len(ids)} mails by the SMTP server\n"
        f"missing             {len(missing)}\n"
        f"sent twice          {len(twice)}, {sum(len(each) == 1 for each in twice)} of them under the same "
        "Message-ID: they were on their way when the daemon was killed\n"
        f"seconds             {time.monotonic() - began:.1f}",
        flush=True,
    )
    return 1 if missing else status


def address(mailbox: str) -> str:
    """Return the bare address of ``Name <address>``."""
    return mailbox.rpartition("<")[2].rstrip(">")
