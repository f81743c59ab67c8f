"""What later tests of several servers on one database count on: their functions' notes, and their clocks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.nodes import Load, Nodes, submit, with_clock
from tests.live.support import Gate, rpc
from tests.postgres_server import fresh_database

CLOCKS = """
import threading, time
began = time.monotonic()
time.sleep(0.1)
threading.Event().wait(0.1)
passed = time.monotonic() - began
print(time.time(), began, passed)
"""


def note(nodes: Nodes, task: str, attempt: int, at: int, ended: int | None) -> None:
    nodes.database.sql(
        "INSERT INTO run (run, id, attempt, pid, number, at, ended) VALUES (gen_random_uuid(),"
        f" '{task}', {attempt}, 1, 1, to_timestamp({at}), to_timestamp({ended or 'NULL'}))"
    )


def test_each_run_is_noted_with_its_node_attempt_and_times(nodes: Nodes) -> None:
    first, second = nodes.start_many(2, store="memory")
    one, two = first.connect(), second.connect()
    tasks = [submit(one, "record", 1), submit(two, "record", 2), submit(two, "record_once", 3)]
    nodes.runs.wait_for(tasks)
    assert {(run.id, run.attempt, run.node, run.number) for run in nodes.runs.all()} == {
        (tasks[0], 1, "n1", 1),
        (tasks[1], 1, "n2", 2),
        (tasks[2], 1, "n2", 3),
    }
    assert nodes.runs.nodes() == {"n1": 1, "n2": 2}
    again = [submit(one, "record_third_time"), submit(two, "record_second_time")]
    nodes.runs.wait_for(again)
    assert [[run.ended is None for run in nodes.runs.of(task)] for task in again] == [
        [True, True, False],
        [True, False],
    ]
    assert nodes.runs.doubled() == nodes.runs.overlapping() == nodes.runs.lost([*tasks, *again]) == set()


def test_the_oracle_sees_what_was_lost_doubled_or_run_twice_at_once(nodes: Nodes) -> None:
    note(nodes, "good", 1, 1, 2)
    note(nodes, "killed", 1, 1, None)
    note(nodes, "repeated", 1, 1, None)
    note(nodes, "repeated", 2, 3, 4)
    note(nodes, "doubled", 1, 1, 2)
    note(nodes, "doubled", 2, 3, 4)
    note(nodes, "overlapping", 1, 1, 4)
    note(nodes, "overlapping", 2, 3, 5)
    accepted = ["good", "killed", "repeated", "doubled", "overlapping", "never"]
    assert nodes.runs.lost(accepted) == {"killed", "never"}
    assert nodes.runs.doubled() == {"doubled", "overlapping"}
    assert nodes.runs.overlapping() == {"overlapping"}
    with pytest.raises(AssertionError, match="2 of 6 have not ended"):
        nodes.runs.wait_for(accepted, patience=0.1)


def test_a_note_waits_for_a_database_that_is_down_and_is_made_once(
    start_postgres, tmp_path: Path, gate: Gate
) -> None:
    server = start_postgres()
    with fresh_database(server) as database, Nodes(database, tmp_path) as nodes:
        client = nodes.start(store="memory").wait_until_ready().connect()
        task = submit(client, "record_at", gate.path)
        gate.wait_until_entered()
        server.kill()
        gate.release()
        server.start()
        nodes.runs.wait_for([task])
        assert len(nodes.runs.all()) == 1


def test_a_load_knows_what_was_accepted_by_a_node_that_is_killed(nodes: Nodes, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/tasks.db"
    [node] = nodes.start_many(1, store=store)
    load = Load(node, args=lambda number: [number, 0.05])
    load.wait_for(20)
    node.kill()
    accepted = load.stop()
    assert len(set(accepted)) == len(accepted) >= 20
    assert node.family() == []
    nodes.start_many(1, store=store)
    nodes.runs.wait_for(accepted)
    assert nodes.runs.lost(accepted) == set()
    assert nodes.runs.nodes().keys() == {"n1", "n2"}


def test_a_halted_node_does_nothing_until_it_goes_on(nodes: Nodes) -> None:
    node = nodes.start(store="memory").wait_until_ready()
    client = node.connect()
    node.halt()
    states = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in node.family()}
    assert states == {"T"}
    client.send(rpc(1, "taskd.status"))
    node.go_on()
    assert "result" in client.receive()


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_an_hour_off_changes_neither_the_monotonic_clock_nor_a_wait(seconds: int) -> None:
    before = time.time(), time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", CLOCKS],
        env={**os.environ, **with_clock(seconds)}, capture_output=True, text=True,
    )  # fmt: skip
    after = time.time(), time.monotonic()
    assert ran.stderr == ""
    shown, monotonic, passed = map(float, ran.stdout.split())
    assert before[0] + seconds - 1 < shown < after[0] + seconds + 1
    assert before[1] < monotonic < after[1]
    assert 0.2 <= passed < 10


def test_a_node_with_a_wrong_clock_works_by_that(nodes: Nodes) -> None:
    client = nodes.start(store="memory", env=with_clock(3600)).wait_until_ready().connect()
    task = submit(client, "record", 1, 0.05)
    nodes.runs.wait_for([task])
    [run] = nodes.runs.all()
    now = float(nodes.database.value("SELECT extract(epoch FROM clock_timestamp())"))
    assert now - 60 < run.at < now
    described = client.ask(rpc(1, "taskd.get", task))["result"]
    assert now + 3500 < described["created"] < now + 3700
