"""Nodes that die, stand still, or are called alike: their tasks end, and no outcome of theirs comes late."""

from __future__ import annotations

from tests.live.bad_days import FOUND_DEAD, must_have_succeeded, now, repeated, unsettled
from tests.live.nodes import Load, Nodes


def test_the_tasks_of_a_node_that_is_killed_under_load_run_elsewhere_within_12_seconds(nodes: Nodes) -> None:
    first, second, _ = nodes.start_many(3)
    loads = [Load(node, args=lambda number: [number, 0.02]) for node in (first, second)]
    for load in loads:
        load.wait_for(60)
    killed = now(nodes)
    first.kill()
    left = unsettled(nodes, {run.id for run in nodes.runs.all() if run.node == "n1"})
    loads[1].wait_for(60)
    accepted = [*loads[0].stop(), *loads[1].stop()]
    must_have_succeeded(nodes, accepted)
    again = repeated(nodes)
    assert set(again) <= left
    assert again
    assert {runs[1].node for runs in again.values()} <= {"n2", "n3"}
    assert max(runs[1].at for runs in again.values()) - killed < FOUND_DEAD
    assert nodes.runs.overlapping() == set()
