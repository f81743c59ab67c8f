"""The subcommand ``taskd attach``: shows the events of a stored task or a batch as they happen."""

from __future__ import annotations

from collections.abc import Callable

import click
import msgspec

from taskd.cli.batch_view import show_batch
from taskd.cli.console import err
from taskd.cli.following import Event, Follower
from taskd.cli.options import json_option, server_options
from taskd.cli.progress_view import ProgressView, progress_view
from taskd.cli.running import FAILED, report, run_with_client
from taskd.cli.show import event_lines
from taskd.cli.stored_ids import find_target
from taskd.cli.wait import print_end
from taskd.client import TaskClient
from taskd.model import Progress
from taskd.net.reactor import Reactor

__all__ = ["attach"]


@click.command()
@click.argument("task", metavar="ID")
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="SEQ", help="Leave out the events up to this one."
)
@json_option
@server_options
def attach(task: str, after: int, server: str, *, as_json: bool) -> None:
    """Show the progress and the events of the task or batch ID until it has ended, and print its result.

    The ID may be shortened to how it begins or ends. Ctrl-C ends this
    command, not the task. If the server is restarted meanwhile, this goes on when
    it is back. With --json, every event is a line on stdout, and nothing else is.
    """
    follower = Follower(after=after, on_lost=_lost)

    async def run(reactor: Reactor, client: TaskClient) -> None:
        target, now = await find_target(client, task)
        if as_json:
            answer = await follower.follow(reactor, client, target, _print_json)
            if answer["state"] != "succeeded":
                raise SystemExit(FAILED)
            return
        is_batch = target.kind == "batch"
        with progress_view(now["function"], each_message=not is_batch) as view:
            answer = await follower.follow(reactor, client, target, _shower(view, is_batch=is_batch))
        print_end(answer, as_json=False)

    run_with_client(run, server, on_event=follower.pushed)


def _lost(why: str) -> None:
    report(f"{why}; waiting for the server")


def _print_json(event: Event) -> None:
    click.echo(msgspec.json.encode(event))


def _shower(view: ProgressView, *, is_batch: bool) -> Callable[[Event], None]:
    """Return a function that shows an event: progress in `view`, any other on a line of its own."""

    def show(event: Event) -> None:
        if is_batch:
            show_batch(view, event)
        elif event["event"] == "progress":
            view.show(Progress(event.get("done", 0), event.get("total"), event.get("message")))
        else:
            for line in event_lines(event):
                err.print(line, markup=False, soft_wrap=True)

    return show
