"""taskd through its own client, in one Twisted program; prints what window.py prints.

python taskd_client.py --server tcp:127.0.0.1:12345 --in-flight 800 --seconds 3
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from deferreds import keep_calling
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from window import Meter, arguments

from taskd.client import TaskClient


async def run(reactor: Any, options: Namespace) -> None:
    """Call a server that runs already."""
    client = TaskClient(reactor, options.server, link="pooled")
    meter = Meter(options.warm_up, options.seconds)
    await keep_calling(lambda number: client.request("echo", [number]), meter, options.in_flight)
    meter.print()
    client.close()


def main(reactor: Any) -> Deferred[None]:
    """Attempt until the time is over."""
    parser = arguments()
    parser.add_argument("--server", default="tcp:127.0.0.1:12345")
    return Deferred.fromCoroutine(run(reactor, parser.parse_args()))


if __name__ == "__main__":
    react(main)
