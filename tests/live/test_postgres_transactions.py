"""Servers whose tasks are submitted and settled in transactions of other programs."""

import time
from contextlib import closing, contextmanager

import psycopg
import pytest

from taskd.contrib.postgres import cancel, state, submit, wake
from tests.live.nodes import submit as submit_to_server
from tests.live.support import APPS, TIMEOUT, Gate

APP = APPS / "settling.py"
PAUSE = 0.02
"""Seconds between two looks at the database, which has no events for a test."""


@pytest.fixture
def node(nodes):
    nodes.database.sql("CREATE TABLE paid (number int); ALTER TABLE paid OWNER TO taskd")
    return nodes.start(app=APP).wait_until_ready()


@pytest.fixture
def connection(nodes, node):
    """A connection of another program, once the node's functions are known."""
    with closing(psycopg.connect(nodes.database.dsn)) as made:
        wait_until(lambda: nodes.database.value("SELECT count(*) FROM taskd.function") != "0")
        yield made


@contextmanager
def waiting_at(directory):
    gate = Gate(directory / "gate")
    try:
        yield gate
    finally:
        gate.tear_down()


def wait_until(is_so):
    ending = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < ending, "it does not come about"
        time.sleep(PAUSE)


def wait(node, task):
    client = node.connect()
    try:
        reply = client.ask({"jsonrpc": "2.0", "id": 1, "method": "taskd.wait", "params": [task]})
    finally:
        client.close()
    return reply["result"]


def paid(nodes):
    return sorted(int(number) for (number,) in nodes.database.sql("SELECT number FROM paid"))


def test_a_submit_runs_after_the_commit_and_not_after_a_rollback(nodes, node, connection):
    dropped = submit(connection, "serve", ["bob"])
    connection.rollback()
    kept = submit(connection, "serve", {"user": "ann"}, delay=0.05)
    connection.execute("INSERT INTO paid VALUES (1)")
    connection.commit()
    wake(connection)
    connection.commit()
    view = wait(node, kept)
    assert (view["state"], view["result"]) == ("succeeded", "served ann")
    assert state(connection, kept) == "succeeded"
    assert state(connection, dropped) is None
    keys = nodes.database.sql("SELECT limit_key, keep FROM taskd.task")
    assert keys == [('"ann"', "7")]


def test_a_deadline_ends_a_task_that_nobody_could_start(nodes, node, connection):
    client = node.connect()
    client.ask({"jsonrpc": "2.0", "id": 1, "method": "taskd.pause", "params": ["serve"]})
    task = submit(connection, "serve", ["ann"], deadline=0.1)
    connection.commit()
    assert wait(node, task)["state"] == "expired"
    client.close()


def test_a_cancel_reaches_the_node_that_runs_the_task(nodes, node, connection, tmp_path):
    with waiting_at(tmp_path) as gate:
        task = submit(connection, "pay_late", [gate.path])
        connection.commit()
        wait_until(lambda: state(connection, task) == "running" or connection.rollback())
        assert cancel(connection, task) == "running"
        connection.commit()
        assert wait(node, task)["state"] == "cancelled"
    assert paid(nodes) == []


def test_a_task_succeeds_with_the_transaction_of_its_function(nodes, node, connection):
    tasks = [submit(connection, "pay", [n]) for n in range(20)]
    connection.commit()
    for n, task in enumerate(tasks):
        view = wait(node, task)
        assert (view["state"], view["result"], view["attempts"]) == ("succeeded", {"paid": n}, 1)
    assert paid(nodes) == list(range(20))
    assert "not its own" not in node.log


def test_a_waiting_client_gets_the_result_that_the_transaction_has_settled(nodes, node, connection):
    client = node.connect()
    tasks = [submit_to_server(client, "pay", 1), submit_to_server(client, "pay", 2, 0.2, True)]
    for n, task in enumerate(tasks, 1):
        view = wait(node, task)
        assert (view["state"], view["result"]) == ("succeeded", {"paid": n})
    reply = client.ask({"jsonrpc": "2.0", "id": 1, "method": "pay", "params": [3]})
    assert reply["result"] == {"paid": 3}
    assert paid(nodes) == [1, 2, 3]
    client.close()
    node.stop()
    assert "not its own" not in node.log


def test_an_attempt_that_fails_before_its_commit_leaves_nothing_and_is_repeated(nodes, node, connection):
    task = submit(connection, "pay_at_the_second_attempt", [1])
    connection.commit()
    assert wait(node, task)["attempts"] == 2
    assert paid(nodes) == [1]


def test_a_task_hands_over_to_the_next(nodes, node, connection):
    submit(connection, "hand_over", [1])
    connection.commit()
    wait_until(lambda: paid(nodes) == [1, 2])


def test_an_attempt_of_a_node_that_was_taken_for_dead_commits_nothing(nodes, node, connection, tmp_path):
    """Its task is run by another node, which alone has the effect."""
    with waiting_at(tmp_path) as gate:
        task = submit(connection, "pay_late", [gate.path])
        connection.commit()
        wait_until(lambda: state(connection, task) == "running" or connection.rollback())
        # As if it had been silent for too long, and another one had taken its tasks.
        nodes.database.sql("UPDATE taskd.lease SET node = 1000")
        gate.release()
        wait_until(lambda: "its end is dropped" in node.log)
        assert paid(nodes) == []
        nodes.database.sql(
            "WITH gone AS (DELETE FROM taskd.lease RETURNING *) INSERT INTO taskd.ready SELECT id, function,"
            " limit_key, priority, due, NULL, owner, batch, size, attempt, errors, losses + 1, last_seq,"
            " keep, keyed FROM gone"
        )
        gate.release()
        view = wait(node, task)
    assert (view["state"], view["attempts"], paid(nodes)) == ("succeeded", 2, [0])
