"""Running a subcommand with a client: turns errors into messages on stderr and exit statuses."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from taskd.cli.console import err
from taskd.cli.token_file import command_token
from taskd.client import TaskClient
from taskd.errors import TaskdError, Unreachable
from taskd.net.reactor import Reactor
from taskd.printable import printable

__all__ = ["FAILED", "USAGE", "Command", "fail", "report", "run_with_client"]

FAILED = 1
USAGE = 2
"""The exit status for arguments and files that cannot be used, as in click."""
INTERRUPTED = 130
"""The exit status after Ctrl-C, as in shells."""

Command = Callable[[Reactor, TaskClient], Awaitable[None]]
OnEvent = Callable[[dict[str, Any]], object]


def report(message: str) -> None:
    """Print a message on stderr, as one of this command."""
    err.print(f"taskd: {printable(message)}", markup=False, soft_wrap=True)


def fail(message: str, status: int = FAILED) -> NoReturn:
    """Print a message on stderr, and exit with `status`."""
    report(message)
    raise SystemExit(status)


def run_with_client(command: Command, server: str, on_event: OnEvent | None = None) -> NoReturn:
    """Run a command with a client of `server`, an endpoint string or a gateway's URL, and exit.

    `on_event` gets the events that the server pushes.
    A command raises `TaskdError` if the server refused something, and `OSError`
    or `ValueError` if an argument or a file cannot be used.
    """

    async def run(reactor: Reactor) -> None:
        try:
            client = TaskClient(reactor, server, token=command_token(), link="pooled", on_event=on_event)
        except (OSError, ValueError) as error:
            fail(str(error), USAGE)
        stopping: list[bool] = []
        reactor.addSystemEventTrigger("before", "shutdown", stopping.append, True)
        try:
            await command(reactor, client)
        except Unreachable as error:
            if stopping:  # after Ctrl-C: this process closed the connection, not the server
                raise SystemExit(INTERRUPTED) from None
            fail(error.message, os.EX_UNAVAILABLE)
        except TaskdError as error:
            fail(f"{error.name}: {error.message}")
        except BrokenPipeError:
            raise SystemExit(FAILED) from None  # whatever read the output has ended
        except (OSError, ValueError) as error:
            fail(str(error), USAGE)
        finally:
            client.close()

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))
