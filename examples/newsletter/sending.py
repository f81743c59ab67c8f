"""The first part of the demo: the mails are sent with ``taskd map``, through the websocket.

A small task is asked for all the while, over a websocket too: how long do those
requests take while the heavy work runs?
"""

from __future__ import annotations

import os
import statistics
import time

from server import BIN, HERE, Server
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from taskd.client import TaskClient
from taskd.errors import TaskdError
from taskd.net.reactor import Reactor

OUTBOX = HERE / "outbox"


class Command(ProcessProtocol):
    """A `taskd` command that writes to this terminal; `ended` fires with its exit status."""

    def __init__(self, reactor: Reactor, *arguments: str) -> None:
        self.ended: Deferred[int] = Deferred()
        shown = [os.path.relpath(each) if os.path.isabs(each) else each for each in arguments]
        print(" ".join(["taskd", *shown]) + "\n", flush=True)
        command = [str(BIN / "taskd"), *arguments]
        process = reactor.spawnProcess(
            self, command[0], command, env=None, path=str(HERE), childFDs={0: 0, 1: 1, 2: 2}
        )
        reactor.addSystemEventTrigger(
            "before", "shutdown", lambda: process.pid and process.signalProcess("KILL")
        )

    def processEnded(self, reason: Failure) -> None:
        """Fire `ended`."""
        self.ended.callback(reason.value.exitCode if reason.value.exitCode is not None else 1)


async def measure(reactor: Reactor, client: TaskClient, meanwhile: Deferred[int]) -> list[float]:
    """Make small requests from the first mail until `meanwhile` fires; return the seconds of each."""
    while not meanwhile.called:
        state = await client.request("taskd.status")
        if any(function["name"] == "send_mail" for function in state["functions"]):
            break
        await deferLater(reactor, 0.01)
    times = []
    while not meanwhile.called:
        begun = time.perf_counter()
        await client.call("hello", name="reader")
        times.append(time.perf_counter() - begun)
    return times


async def send(reactor: Reactor, server: Server) -> int:
    """Send the newsletter into a Maildir; return the exit status of `taskd map`."""
    client = await server.wait_until_ready(reactor)
    began = time.monotonic()
    sending = Command(reactor, "map", "send_mail", str(HERE / "users.csv"), "--via", server.url)
    try:
        times = await measure(reactor, client, sending.ended)
    except TaskdError as error:
        raise SystemExit(f"\nThe demo was cut short: {error}") from None
    status = await sending.ended
    if len(times) < 2:
        raise SystemExit("\nThe demo was cut short: nothing was measured.")
    seconds = time.monotonic() - began
    state = await client.request("taskd.status")
    client.close()
    mail = next(function for function in state["functions"] if function["name"] == "send_mail")
    percentiles = statistics.quantiles(times, n=100)
    print(
        f"\nsent                {mail['done']} mails with {len(state['workers'])} processes\n"
        f"failed              {mail['failed'] + mail['lost']}\n"
        f"seconds             {seconds:.1f}\n"
        f"small requests      {len(times)} meanwhile: median {percentiles[49] * 1000:.1f} ms, "
        f"99th percentile {percentiles[98] * 1000:.1f} ms\n"
        f"the mails lie in    {os.path.relpath(OUTBOX)}/new\n",
        flush=True,
    )
    return status
