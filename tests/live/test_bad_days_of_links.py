"""A node that is cut off or stands still: it ends its tasks before others begin them, and joins again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.link import How, Link
from tests.live.bad_days import FOUND_DEAD, must_have_succeeded, now, repeated, unsettled, until
from tests.live.nodes import Load, Node, Nodes, submit
from tests.live.support import Gate

DEAD_SECONDS = 10.0
"""Seconds after which a node that has not renewed its lease may be found dead."""


@pytest.fixture
def link(nodes: Nodes) -> Iterator[Link]:
    """A link to the database's server; what functions note goes by another way."""
    with Link(nodes.database.server.port) as made:
        yield made


def start_behind(nodes: Nodes, link: Link) -> Node:
    """Start a node behind the link."""
    database = nodes.database
    return nodes.start(store=database.server.dsn(database.name, port=link.port)).wait_until_ready()


def number(node: Node) -> int:
    return node.status()["store"]["node"]


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("how", ["rst", "drop"])
def test_a_node_that_is_cut_off_ends_its_tasks_before_others_run_them(
    nodes: Nodes, link: Link, how: How, stubborn: bool
) -> None:
    behind = start_behind(nodes, link)
    client, before = behind.connect(), number(behind)
    running = [submit(client, "record_alive", 60.0, stubborn) for _ in range(2)]
    until(nodes, lambda: nodes.runs.nodes()["n1"] == 2, "they have not begun")
    other = nodes.start().wait_until_ready()  # later, so that it has none of them
    loads = [Load(node, args=lambda number: [number, 0.02]) for node in (behind, other)]
    loads[1].wait_for(50)
    cut = now(nodes)
    link.cut(how)
    until(nodes, lambda: set(running) <= repeated(nodes).keys(), "they do not run elsewhere")
    runs = [nodes.runs.of(task) for task in running]
    for first, second in runs:
        assert first.ended is None
        assert first.alive is not None
        assert first.alive - cut < DEAD_SECONDS - 0.5
        assert first.alive < second.at < cut + FOUND_DEAD
        assert second.node == "n2"
    link.heal()
    until(nodes, lambda: number(behind) != before, "it has not joined again")
    loads[0].wait_for(20)
    accepted = [*loads[0].stop(), *loads[1].stop()]
    must_have_succeeded(nodes, [*accepted, *running])
    assert nodes.runs.overlapping() == set()


def test_a_halted_node_is_another_one_when_it_goes_on_and_ends_what_it_ran(nodes: Nodes, gate: Gate) -> None:
    halted, other = nodes.start_many(2)
    client, before = halted.connect(), number(halted)
    task = submit(client, "record_at", gate.path)
    until(nodes, lambda: nodes.runs.of(task), "it has not begun")
    loads = [Load(node, args=lambda number: [number, 0.02]) for node in (halted, other)]
    for load in loads:
        load.wait_for(50)
    at = now(nodes)
    halted.halt()
    left = unsettled(nodes, {run.id for run in nodes.runs.all() if run.node == "n1"})
    until(nodes, lambda: len(nodes.runs.of(task)) == 2, "it does not run elsewhere")
    assert nodes.runs.of(task)[1].at - at < FOUND_DEAD
    halted.go_on()
    halted.wait_for_log(rf"record_at {task}: attempt 1 is not its own any more: its end is dropped")
    until(nodes, lambda: number(halted) != before, "it has not joined again")
    gate.release()
    loads[0].wait_for(20)
    accepted = [*loads[0].stop(), *loads[1].stop()]
    must_have_succeeded(nodes, [*accepted, task])
    assert nodes.runs.of(task)[0].ended is None
    assert set(repeated(nodes)) <= left
