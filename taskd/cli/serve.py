"""The subcommand ``taskd serve``: runs a server in the foreground."""

from __future__ import annotations

from typing import Any

import click

from taskd.cli.daemon_command import DaemonCommand, settings_of

__all__ = ["serve"]


@click.command(
    cls=DaemonCommand,
    params=[],
    epilog="Every option can also be set in a file, or by a variable: TASKD_WORKERS for --workers.",
)
def serve(**params: Any) -> None:
    """Run a server: the functions of an app in a pool of processes.

    They are called over TCP (one JSON message, one line) and over websockets, and each result is
    pushed back when it is ready. The server stays in the foreground, and logs to standard output.
    """
    settings = settings_of(params)
    # The daemon is imported only here: the other commands do not need it.
    from taskd.daemon.foreground import run_in_foreground

    run_in_foreground(settings)
