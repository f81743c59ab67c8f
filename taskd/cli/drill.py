"""The subcommand ``taskd drill``: kills its own nodes and workers under load, and reports what was lost."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import datetime
from typing import TYPE_CHECKING

import click

from taskd import __version__
from taskd.cli.console import err, json_text
from taskd.cli.options import json_option
from taskd.cli.running import FAILED, INTERRUPTED, USAGE, fail
from taskd.printable import printable

if TYPE_CHECKING:
    from taskd.drill.conduct import Drill, DrillConfig
    from taskd.drill.evidence import Evidence
    from taskd.drill.findings import Findings
    from taskd.drill.stores import Place

__all__ = ["drill"]

DEFAULT_WORKERS = 4
DEFAULT_SECONDS = 60.0
DEFAULT_RATE = 50.0
DEFAULT_LATE = 10.0

_above_zero = click.FloatRange(0, min_open=True)


def _targets(ctx: click.Context, param: click.Parameter, value: str | None) -> frozenset[str] | None:
    """Return what a list with commas has."""
    if value is None:
        return None
    from taskd.drill.plan import TARGETS

    given = frozenset(filter(None, (each.strip() for each in value.split(","))))
    for each in sorted(given - set(TARGETS)):
        raise click.BadParameter(f"{each!r} is none of {', '.join(TARGETS)}", ctx, param)
    return given


@click.command()
@click.option(
    "--store",
    metavar="STORE",
    help="A store like that of the server: memory, sqlite:PATH or postgres:DATABASE. Its own is beside it. "
    "Default: sqlite:taskd.db.",
)
@click.option("--nodes", type=click.IntRange(1), metavar="N", default=1, show_default=True, help="Nodes.")
@click.option(
    *("--workers",),
    type=click.IntRange(1),
    metavar="N",
    default=DEFAULT_WORKERS,
    show_default=True,
    help="Workers of each node.",
)
@click.option(
    *("--seconds",),
    type=_above_zero,
    metavar="S",
    default=DEFAULT_SECONDS,
    show_default=True,
    help="Seconds of load.",
)
@click.option(
    *("--rate",),
    type=_above_zero,
    metavar="R",
    default=DEFAULT_RATE,
    show_default=True,
    help="Tasks a second.",
)
@click.option(
    *("--kill", "targets"),
    callback=_targets,
    metavar="WHAT",
    help="What is killed: of workers, nodes and store-link, with commas; '' for nothing. "
    "Default: all that the store has.",
)
@click.option(
    *("--late",),
    type=_above_zero,
    metavar="SECONDS",
    default=DEFAULT_LATE,
    show_default=True,
    help="A start so long after the task was accepted and due is counted as late.",
)
@click.option("--seed", type=int, metavar="N", help="What load and kills follow from. Default: a random one.")
@click.option("--keep", metavar="DIR", type=click.Path(), help="Keep the logs, the store and the runs there.")
@json_option
def drill(
    store: str | None,
    nodes: int,
    workers: int,
    seconds: float,
    rate: float,
    targets: frozenset[str] | None,
    late: float,
    seed: int | None,
    keep: str | None,
    *,
    as_json: bool,
) -> None:
    """Prove that nothing is lost here: kill workers and nodes under load, and compare.

    Nodes are started for it, with functions and a store of their own; tasks of other servers are never
    touched. The report has what was accepted, lost, doubled and late. Ctrl-C ends the load, and once more
    the wait for what has not ended. The exit status is 0 only if nothing was lost or ended twice, and no
    task that runs once at most ran again.
    """
    from taskd.drill.conduct import Drill, DrillConfig
    from taskd.drill.node import DrillError
    from taskd.drill.oracle import judge
    from taskd.drill.stores import DEFAULT_STORE, place_for, targets_of

    if keep is not None and os.path.lexists(keep):
        fail(f"{keep} exists already: name a directory that does not", USAGE)
    seed = seed if seed is not None else int.from_bytes(os.urandom(2))
    store = store or DEFAULT_STORE
    targets = targets_of(store) if targets is None else targets
    config = DrillConfig(nodes, workers, seconds, rate, targets, seed, late)
    try:
        place = place_for(store, nodes, targets)
    except DrillError as error:
        fail(str(error), USAGE)
    began = datetime.now().astimezone()
    conducted = Drill(config, place, _say)
    try:
        evidence = asyncio.run(_run(conducted))
    except DrillError as error:
        fail(f"{error}; the files are in {place.keep(keep or str(place.directory))}")
    conducted.read_files(evidence)
    found = judge(evidence)
    _print_report(config, place, found, began, keep, as_json=as_json)


def _say(text: str) -> None:
    err.print(printable(text), markup=False, soft_wrap=True)


async def _run(conducted: Drill) -> Evidence:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, conducted.interrupt)
    return await conducted.run()


def _print_report(
    config: DrillConfig,
    place: Place,
    found: Findings,
    began: datetime,
    keep: str | None,
    *,
    as_json: bool,
) -> None:
    """Print the report, put the files where they are kept, and end with the exit status."""
    from taskd.drill.report import About, report_object, report_text

    has_failed = bool(found.faults()) or not (found.accepted or found.was_interrupted)
    was_cut = found.was_interrupted or not found.is_complete
    status = FAILED if has_failed else INTERRUPTED if was_cut else 0
    is_kept = keep is not None or has_failed
    kept = place.keep(keep or str(place.directory)) if is_kept else place.remove()
    about = About(
        began=began.strftime("%Y-%m-%d %H:%M:%S %z"),
        seconds=config.seconds,
        version=f"taskd {__version__}",
        store=place.shown,
        nodes=config.nodes,
        workers=config.workers,
        rate=config.rate,
        targets=sorted(config.targets),
        seed=config.seed,
        kept=kept,
    )
    click.echo(json_text(report_object(about, found, status)) if as_json else report_text(about, found))
    raise SystemExit(status)
