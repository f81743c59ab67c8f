"""A database that is killed, fails over, or is slow: nothing acknowledged is lost, and nodes go on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.live.bad_days import must_have_succeeded, repeated, unsettled, until
from tests.live.nodes import Load, Node, Nodes, submit
from tests.live.runs import Runs
from tests.postgres_server import Database, PostgresServer, fresh_database

DEAD_SECONDS = 10.0
"""Seconds after which a node that has not renewed its lease may be found dead."""

MIGRATES = """
SELECT 1 FROM pg_stat_activity WHERE application_name = 'taskd migration' AND wait_event_type = 'Lock'
"""
"""Finds a node that waits for somebody else to make the schema."""


@pytest.fixture
def own_nodes(start_postgres: Callable[..., PostgresServer], tmp_path: Path) -> Iterator[Nodes]:
    """Starts nodes on a server of the test's own."""
    with fresh_database(start_postgres()) as database, Nodes(database, tmp_path) as nodes:
        yield nodes


def numbers(nodes: list[Node]) -> list[int]:
    return [node.status()["store"]["node"] for node in nodes]


def must_live_for(node: Node, seconds: float) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        node.process.wait(seconds)


def refused(node: Node) -> str:
    """Submit a task, which must be refused; return the reason."""
    call = {"function": "record", "args": [0]}
    reply = node.connect().ask({"jsonrpc": "2.0", "id": 1, "method": "taskd.submit", "params": call})
    return reply["error"]["message"]


def begun_and_unsettled(nodes: Nodes) -> set[str]:
    """Return the tasks that have begun, and of whose end the database does not know."""
    return unsettled(nodes, {run.id for run in nodes.runs.all()})


@pytest.mark.parametrize("seconds", [2.0, DEAD_SECONDS + 1])
def test_nodes_outlast_a_database_that_is_killed(own_nodes: Nodes, seconds: float) -> None:
    nodes = own_nodes
    server = nodes.database.server
    started = nodes.start_many(2)
    before = numbers(started)
    loads = [Load(node, args=lambda number: [number, 0.02]) for node in started]
    for load in loads:
        load.wait_for(50)
    server.kill()
    accepted = [*loads[0].stop(), *loads[1].stop()]
    assert "the store has failed" in refused(started[0])
    for node in started:
        must_live_for(node, seconds / 2)
    server.start()
    left = begun_and_unsettled(nodes)
    must_have_succeeded(nodes, accepted)
    assert set(repeated(nodes)) <= left
    assert nodes.runs.overlapping() == set()
    assert numbers(started) == before
    again = [submit(node.connect(), "record", 1) for node in started]
    must_have_succeeded(nodes, again)


def test_nothing_that_was_acknowledged_is_lost_with_the_primary_of_a_synchronous_standby(
    start_postgres: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    primary = start_postgres()
    standby = primary.standby(synchronous=True)
    database = Database(primary, primary.create_database())
    dsn = primary.dsn(database.name, other_ports=[standby.port])
    with Nodes(database, tmp_path) as nodes:
        started = [nodes.start(store=dsn, record=dsn) for _ in range(2)]
        for node in started:
            node.wait_until_ready()
        before = numbers(started)
        loads = [Load(node, args=lambda number: [number, 0.02]) for node in started]
        for load in loads:
            load.wait_for(50)
        primary.kill()
        accepted = [*loads[0].stop(), *loads[1].stop()]
        standby.configure(synchronous_standby_names="")
        standby.promote()
        nodes.database = Database(standby, database.name)
        nodes.runs = Runs(nodes.database)
        must_have_succeeded(nodes, accepted)
        assert nodes.runs.overlapping() == set()
        again = [submit(node.connect(), "record", 1) for node in started]
        must_have_succeeded(nodes, again)
        assert numbers(started) == before


def test_a_transaction_that_is_held_open_changes_nothing_but_the_pace(nodes: Nodes) -> None:
    [node] = nodes.start_many(1)
    with psycopg.connect(nodes.database.dsn) as other:
        other.execute("SELECT txid_current()")
        load = Load(node)
        load.wait_for(500)
        accepted = load.stop()
        must_have_succeeded(nodes, accepted)
    assert repeated(nodes) == {}


def test_a_migration_whose_node_is_killed_is_made_by_the_next(nodes: Nodes) -> None:
    with psycopg.connect(nodes.database.dsn) as other:
        other.execute("CREATE SCHEMA taskd")  # which the node has to wait for
        node = nodes.start()
        until(nodes, lambda: nodes.database.sql(MIGRATES), "it does not migrate")
        node.kill()
        other.rollback()
    [node] = nodes.start_many(1)
    must_have_succeeded(nodes, [submit(node.connect(), "record")])
