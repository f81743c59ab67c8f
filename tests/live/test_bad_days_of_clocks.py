"""Nodes whose clocks are an hour apart: delays, schedules, deadlines and rescues go by the database's."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from tests.live.bad_days import FOUND_DEAD, must_have_succeeded, now, until
from tests.live.nodes import Load, Nodes, submit, with_clock
from tests.live.support import Connection, rpc

DELAY = 2.0
"""Seconds until what is not due at once is due."""

LATE = 3.0
"""Seconds after which something that is due must have begun, on a machine with much else to do."""

OFF = (0, 3600, -3600)
"""Seconds by which the clocks of the three nodes are off."""


def wait(client: Connection, task: str) -> str:
    return client.ask(rpc(1, "taskd.wait", task, 30))["result"]["state"]


def begun(nodes: Nodes, task: str) -> float:
    """Return when a task began, which has done so once."""
    [run] = nodes.runs.of(task)
    return run.at


def living(nodes: Nodes) -> list[int]:
    return [
        int(node) for (node,) in nodes.database.sql("SELECT id FROM taskd.node WHERE gone IS NULL ORDER BY 1")
    ]


def test_delays_schedules_and_deadlines_go_by_the_clock_of_the_database(nodes: Nodes) -> None:
    started = now(nodes)
    each = [nodes.start(env={**with_clock(seconds), "EACH_SECOND": "1"}) for seconds in OFF]
    clients = [node.wait_until_ready().connect() for node in each]
    asked = now(nodes)
    at = datetime.fromtimestamp(asked + DELAY, UTC).isoformat()
    delayed = [submit(client, "record", delay=DELAY) for client in clients]
    timed = [submit(client, "record", at=at) for client in clients]
    past = [submit(client, "record", at="2020-01-01T00:00:00Z") for client in clients]
    in_time = [submit(client, "record", deadline=60) for client in clients]
    submitted = now(nodes)
    clients[0].ask(rpc(1, "taskd.pause", "record_once"))
    for node in each:
        node.wait_for_status(lambda status: status["store"]["paused"] == ["record_once"])
    late = [submit(client, "record_once", deadline=1) for client in clients]
    must_have_succeeded(nodes, [*delayed, *timed, *past, *in_time])
    assert all(asked + DELAY <= begun(nodes, task) < submitted + DELAY + LATE for task in delayed)
    assert all(asked + DELAY - 0.1 <= begun(nodes, task) < submitted + DELAY + LATE for task in timed)
    assert all(begun(nodes, task) < submitted + LATE for task in (*past, *in_time))
    # Asked for elsewhere, so that what one node has done is known at another one.
    assert {wait(client, task) for client, task in zip(reversed(clients), late, strict=True)} == {"expired"}
    ticks = [run.at for run in nodes.runs.all() if run.number == -1]
    assert len(ticks) <= now(nodes) - started + 2
    assert all(later - earlier < 1 + LATE for earlier, later in pairwise(ticks))
    assert nodes.runs.doubled() == nodes.runs.overlapping() == set()


def test_a_node_is_found_dead_by_the_clock_of_the_database_and_no_other_one_is(nodes: Nodes) -> None:
    each = [nodes.start(env=with_clock(seconds)) for seconds in OFF]
    for node in each:
        node.wait_until_ready()
    numbers = sorted(each[place].status()["store"]["node"] for place in (0, 2))
    load = Load(each[1], args=lambda number: [number, 0.02])
    load.wait_for(100)
    client = each[1].connect()
    running = [submit(client, "record_alive", 60.0) for _ in range(2)]

    def begun_there() -> set[str]:
        return {run.id for run in nodes.runs.all() if run.id in running and run.node == "n2"}

    until(nodes, begun_there, "none has begun")
    killed = now(nodes)
    each[1].kill()
    accepted, mine = load.stop(), begun_there()
    until(nodes, lambda: all(len(nodes.runs.of(task)) == 2 for task in mine), "they do not run elsewhere")
    assert all(nodes.runs.of(task)[1].at - killed < FOUND_DEAD for task in mine)
    must_have_succeeded(nodes, accepted)
    assert living(nodes) == numbers
