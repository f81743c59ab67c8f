"""Limits of functions over all servers that share one database: `concurrency` and `rate`, also by key."""

import time
from collections.abc import Iterable
from itertools import pairwise

from tests.live.bad_days import FOUND_DEAD
from tests.live.nodes import Nodes, submit
from tests.live.runs import Run
from tests.live.support import Connection, rpc


def most_at_once(runs: Iterable[Run], died: float = float("inf")) -> int:
    """Return the largest number of runs that overlapped; those that never ended did so when they `died`."""
    changes = []
    for run in runs:
        changes += [(run.at, 1), (died if run.ended is None else run.ended, -1)]
    most = running = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def clients_of(nodes: Nodes, count: int = 3) -> list[Connection]:
    return [node.connect() for node in nodes.start_many(count)]


def test_no_more_tasks_of_a_function_run_on_all_nodes_than_may(nodes: Nodes) -> None:
    clients = clients_of(nodes)
    began = time.monotonic()
    accepted = [submit(clients[number % 3], "record_two", number, 0.05) for number in range(60)]
    nodes.runs.wait_for(accepted)
    took = time.monotonic() - began
    runs = nodes.runs.all()
    assert most_at_once(runs) == 2
    assert nodes.runs.doubled() == set()
    # 30 turns of 50 ms: the next one begins soon after each end.
    assert took < 5.0, f"{took} s for 1.5 s of work"


def test_no_more_tasks_of_a_key_run_on_all_nodes_than_may(nodes: Nodes) -> None:
    clients = clients_of(nodes)
    accepted = {
        submit(clients[number % 3], "record_two_of", "ab"[number % 2], number, 0.05): "ab"[number % 2]
        for number in range(60)
    }
    nodes.runs.wait_for(accepted)
    runs = nodes.runs.all()
    for key in "ab":
        assert most_at_once(run for run in runs if accepted[run.id] == key) == 2
    assert most_at_once(runs) > 2


def test_the_places_of_a_node_that_is_killed_are_free_again_when_it_is_dead_and_not_before(
    nodes: Nodes,
) -> None:
    started = nodes.start_many(3)
    clients = [node.connect() for node in started]
    accepted = [submit(clients[number % 3], "record_two", number, 0.1) for number in range(60)]
    lost: list[Run] = []
    while not lost:
        nodes.database.sql("SELECT pg_sleep(0.02)")
        runs = nodes.runs.all()
        assert len(runs) < 60, "no node was halted while it ran one"
        if not runs:
            continue
        victim = next(node for node in started if node.label == runs[-1].node)
        victim.halt()
        lost = [run for run in nodes.runs.all() if run.node == victim.label and run.ended is None]
        if not lost:
            victim.go_on()
    victim.kill()
    killed = time.time()
    nodes.runs.wait_for(accepted)
    runs = nodes.runs.all()
    assert most_at_once(run for run in runs if run not in lost) <= 2
    meanwhile = [run for run in runs if killed < run.at < killed + 4.0]  # until then its node is not dead
    assert most_at_once(meanwhile) <= 2 - len(lost)
    # A lost task waits behind the others, of which some may have had to wait for its place.
    later = (
        [run.at for run in runs if run.at > killed] if len(lost) == 2 else [nodes.runs.of(lost[0].id)[-1].at]
    )
    assert 4.0 < min(later) - killed < FOUND_DEAD


def test_the_reason_for_which_a_task_waits_names_tasks_of_other_nodes(nodes: Nodes) -> None:
    first, second = nodes.start_many(2)
    one, other = first.connect(), second.connect()
    held = [submit(one, "record_two", number, 30.0) for number in range(2)]
    while len(nodes.runs.all()) < 2:
        nodes.database.sql("SELECT pg_sleep(0.05)")
    waiting = submit(one, "record_two", 2)
    for client in (one, other):
        why = client.ask(rpc(1, "taskd.why", task=waiting))["result"]
        assert why["concurrency"]["limit"] == 2
        assert "concurrency=2: " in why["reason"], why
        assert "have the places" in why["reason"], why
    assert {run.node for run in nodes.runs.all()} != {"n2"}
    reason = other.ask(rpc(1, "taskd.why", task=waiting))["result"]["reason"]
    assert "tasks of other nodes" in reason
    for task in (*held, waiting):
        one.ask(rpc(1, "taskd.cancel", task=task))


def test_no_more_tasks_start_on_all_nodes_in_any_second_than_may(nodes: Nodes) -> None:
    clients = clients_of(nodes)
    accepted = [submit(clients[number % 3], "record_at_rate") for number in range(70)]
    ends = "SELECT count(*) FROM taskd.ended WHERE state = 3"
    began = time.monotonic()
    while int(nodes.database.sql(ends)[0][0]) < len(accepted):
        assert time.monotonic() < began + 20.0
        nodes.database.sql("SELECT pg_sleep(0.05)")
    starts = sorted(
        float(outcome)
        for [outcome] in nodes.database.sql("SELECT convert_from(outcome, 'UTF8') FROM taskd.ended")
    )
    assert len(starts) == len(accepted)
    # A function begins some ms after its worker was given the task, more or fewer: hence a little less.
    assert all(later - earlier > 0.9 for earlier, later in zip(starts, starts[20:], strict=False))
    assert starts[-1] - starts[0] < 6.0, [round(b - a, 3) for a, b in pairwise(starts)]
