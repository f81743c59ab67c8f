"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from taskd.cli.token_file import token_option
from taskd.model import PRIORITY, Options, SubmitOptions

__all__ = ["call_options", "gateway_url", "json_option", "server_options", "submit_options"]

DEFAULT_SERVER = "tcp:127.0.0.1:12345"

ClickFunction = Callable[..., None]


def server_options(function: ClickFunction) -> ClickFunction:
    """Add ``--server``, ``--via`` and ``--token-file``; the function gets the address as `server`."""

    @click.option(
        "--server",
        metavar="ENDPOINT",
        default=DEFAULT_SERVER,
        envvar="TASKD_SERVER",
        show_default=True,
        help="The task server: HOST:PORT, unix:PATH or tls:HOST:PORT[:trustRoots=FILE].",
    )
    @click.option("--via", metavar="URL", help="A gateway instead: ws://HOST:PORT or wss://….")
    @token_option
    @wraps(function)
    def with_server(*, server: str, via: str | None, **others: Any) -> None:
        if via is not None:
            server = gateway_url(via)
        function(server=server, **others)

    return with_server


def gateway_url(via: str) -> str:
    """Return the URL that ``--via`` means: without a scheme it would be the address of a task server."""
    return via if "://" in via else f"ws://{via}"


def call_options(function: ClickFunction) -> ClickFunction:
    """Add the options of the calls that a command makes; the function gets them as `options`."""
    above_zero = click.FloatRange(0, min_open=True)

    @click.option(
        "--timeout", type=above_zero, metavar="SECONDS", help="Stop the task after it has run for so long."
    )
    @click.option(
        "--deadline", type=above_zero, metavar="SECONDS", help="Do not start the task later than that."
    )
    @click.option(
        "--priority", type=click.IntRange(0, 9), default=PRIORITY, show_default=True, help="0 is first."
    )
    @wraps(function)
    def with_options(*, timeout: float | None, deadline: float | None, priority: int, **others: Any) -> None:
        function(options=Options(timeout, deadline, priority), **others)

    return with_options


def submit_options(function: ClickFunction) -> ClickFunction:
    """Add the options of the tasks that a command submits; the function gets them as `options`."""
    seconds = click.FloatRange(0)

    @click.option(
        "--delay", type=seconds, metavar="SECONDS", default=0.0, help="Do not start it before that."
    )
    @click.option("--at", metavar="TIME", help="Do not start it before that: 2030-01-31T09:00:00+01:00.")
    @click.option("--retries", type=click.IntRange(0), help="Try it so many times more if it fails.")
    @click.option("--keep", type=seconds, metavar="SECONDS", help="Forget it so long after its end.")
    @click.option("--owner", metavar="NAME", help="Submit for this owner; needs an operator's token.")
    @call_options
    @wraps(function)
    def with_options(
        *,
        options: Options,
        delay: float,
        at: str | None,
        retries: int | None,
        keep: float | None,
        owner: str | None,
        **others: Any,
    ) -> None:
        asked = SubmitOptions(
            timeout=options.timeout,
            priority=options.priority,
            delay=delay,
            at=at,
            deadline=options.deadline,
            retries=retries,
            keep=keep,
            owner=owner,
        )
        function(options=asked, **others)

    return with_options


def json_option(function: ClickFunction) -> ClickFunction:
    """Add ``--json``, which the function gets as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
