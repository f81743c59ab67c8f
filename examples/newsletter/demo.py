"""``make demo``: a newsletter to 1 000 users, and small requests meanwhile; then a crash in the middle.

The first part measures how long small requests take while the mails are sent.
In the second part the same mails are stored tasks, and the daemon is killed
while it sends them: none of them is missing at the end.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from contextlib import ExitStack

from sending import OUTBOX, send
from server import HERE, LOG, STORE, Server
from surviving import survive
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from taskd.net.reactor import Reactor


class Servers:
    """The servers of the demo, one after the other, on the same ports; a context manager that stops them."""

    def __init__(self, port: int, task_port: int) -> None:
        self._ports = port, task_port
        self._stack = ExitStack()
        self._last: Server | None = None

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def start(self, mail_url: str) -> Server:
        """Start a server that sends mails to `mail_url`, after the one before it has ended."""
        if self._last is not None:
            self._last.stop()
        self._last = self._stack.enter_context(Server(*self._ports, mail_url))
        return self._last

    def processes(self) -> list[int]:
        """Return the ids of the processes that are left."""
        return self._last.processes() if self._last is not None else []


async def run(reactor: Reactor, servers: Servers) -> int:
    """Run both parts; return the exit status of the demo."""
    status = await send(reactor, servers.start(f"maildir:{OUTBOX}"))
    return await survive(reactor, servers.start) or status


def main() -> None:
    """Run the demo, and stop the server whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="of the websocket")
    parser.add_argument("--task-port", type=int, default=12345, help="of the task server")
    options = parser.parse_args()
    shutil.rmtree(OUTBOX, ignore_errors=True)
    for file in (LOG, *HERE.glob(f"{STORE.name}*")):
        file.unlink(missing_ok=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    status: object = 1
    with Servers(options.port, options.task_port) as servers:
        try:
            react(lambda reactor: Deferred.fromCoroutine(run(reactor, servers)))
        except SystemExit as ended:
            status = ended.code
            if isinstance(status, str):
                print(status, file=sys.stderr)
                status = 1
        except KeyboardInterrupt:
            status = 130
    left = servers.processes()
    print(f"server stopped; {len(left)} of its processes left")
    sys.exit(1 if left else status)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
