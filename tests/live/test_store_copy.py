"""What a store keeps is moved to another one: nothing is lost, and nothing is run twice."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.live.nodes import Node, Nodes, submit
from tests.live.support import TASKD, TIMEOUT, Connection, rpc
from tests.postgres_server import Database

BACKLOG = 2000
HOUR = 3600


def store(*arguments: Any, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `taskd store` with these arguments, and with this standard input."""
    command = [*TASKD, "store", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, timeout=TIMEOUT, check=False)


def done(ended: subprocess.CompletedProcess[bytes]) -> bytes:
    """Return what a command printed; it must have succeeded with nothing on stderr."""
    assert (ended.returncode, ended.stderr) == (0, b""), ended
    return ended.stdout


def answer(*arguments: Any) -> Any:
    return json.loads(done(store(*arguments, "--json")))


def ask(client: Connection, method: str, **params: Any) -> Any:
    return client.ask({"jsonrpc": "2.0", "id": 1, "method": f"taskd.{method}", "params": params})["result"]


def submit_many(client: Connection, count: int, prefix: str = "", **options: Any) -> list[str]:
    """Submit so many tasks of `record` in one go; return their ids."""
    calls = (
        rpc(n, "taskd.submit", "record", [n], {**options, "key": f"{prefix}{n}" if n % 2 else None})
        for n in range(count)
    )
    client.send(*calls)
    replies = [client.receive() for _ in range(count)]
    return [reply["result"]["task"] for reply in replies]


def submit_with_token(client: Connection, token: str) -> str:
    return ask(client, "submit", function="record", token=token, options={"delay": HOUR})["task"]


def submit_batch(client: Connection, count: int) -> dict[str, Any]:
    return ask(client, "submit_batch", function="record", args=[[n] for n in range(count)])


def start(nodes: Nodes, *options: str, **more: Any) -> tuple[Node, Connection]:
    node = nodes.start(*options, **more)
    node.wait_until_ready()
    return node, node.connect()


def tasks_of(lines: bytes) -> dict[str, Any]:
    found = map(json.loads, lines.splitlines())
    return {each["id"]: each for each in found if each["kind"] == "task"}


def test_the_backlog_of_a_killed_server_moves_from_a_file_to_a_database(nodes: Nodes, tmp_path: Path) -> None:
    file, fifo = tmp_path / "tasks.db", tmp_path / "fifo"
    os.mkfifo(fifo)
    old, client = start(nodes, store=f"sqlite:{file}")
    ask(client, "pause", function="record")
    tasks = submit_many(client, BACKLOG - 500)
    batch = submit_batch(client, 500)
    ran = submit(client, "record_at", str(fifo))
    ran_once = submit(client, "record_once", 1, HOUR)
    while len(nodes.runs.all()) < 2:
        pass
    old.kill()

    to = nodes.database.dsn
    moved = answer("copy", file, to, "--once", "record_once")
    assert moved == {"copied": {"task": BACKLOG + 1, "batch": 1, "paused": 1}, "known": {}, "failed": []}
    again = answer("copy", file, to, "--once", "record_once")
    assert (again["copied"], again["known"]) == ({}, moved["copied"])
    assert b"all is well" in done(store("check", to))

    new, client = start(nodes)
    ask(client, "resume", function="record")
    with open(fifo, "w") as end:
        end.write("done")
    expected = [*tasks, *batch["tasks"], ran]
    nodes.runs.wait_for(expected)
    assert ask(client, "wait", batch=batch["batch"], timeout=TIMEOUT)["done"] == 500
    found = ask(client, "wait", task=ran, timeout=TIMEOUT)
    assert (found["state"], found["attempts"], found["losses"]) == ("succeeded", 2, 1)
    assert nodes.runs.doubled() == set()
    assert [run.node for run in nodes.runs.of(ran_once)] == [old.label]

    refused = store("copy", file, to)
    assert refused.returncode == 1
    assert b"stop what uses it" in refused.stderr
    assert "task" not in answer("copy", file, to, "--live")["copied"]
    health = answer("check", to)
    assert (health["problems"], health["nodes"], health["left"]) == ([], 1, 0)
    new.stop()


def test_a_database_is_copied_to_a_file_while_nothing_is_lost_or_changed(
    nodes: Nodes, tmp_path: Path
) -> None:
    old, client = start(nodes)
    nodes.runs.wait_for(submit_many(client, 20))
    ask(client, "pause", function="record")
    tasks = submit_many(client, 30)
    tasks += submit_many(client, 30, "later", delay=HOUR)
    batch = submit_batch(client, 40)
    running = store("export", nodes.database.dsn)
    assert len(tasks_of(done(running))) == 120
    old.stop()

    lines = done(store("export", nodes.database.dsn))
    copy, imported = tmp_path / "copy.db", tmp_path / "imported.db"
    assert answer("copy", nodes.database.dsn, f"sqlite:{copy}", "--all")["copied"]["task"] == 120
    assert json.loads(done(store("import", "-", imported, "--all", "--json", given=lines)))["failed"] == []
    assert done(store("export", copy)) == lines
    assert done(store("export", imported)) == lines
    done(store("import", "-", imported, "--all", given=lines))
    assert done(store("export", imported)) == lines

    few = tmp_path / "few.db"
    assert (
        done(store("import", "-", few, given=lines)) == b"copied: 100 tasks, 1 batches, 1 paused functions\n"
    )
    _, client = start(nodes, store=f"sqlite:{few}")
    ask(client, "resume", function="record")
    expected = [*tasks[:30], *batch["tasks"]]
    nodes.runs.wait_for(expected)
    assert nodes.runs.doubled() == set()
    assert ask(client, "get", task=tasks[-1])["state"] == "scheduled"


def test_a_task_whose_key_or_token_is_taken_is_named_and_left(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "tasks.db"
    node, client = start(nodes, store=f"sqlite:{file}")
    key = submit(client, "record", delay=HOUR, key="a")
    token = submit_with_token(client, "b")
    free = submit(client, "record", delay=HOUR)
    node.stop()
    node, client = start(nodes)
    submit(client, "record", delay=HOUR, key="a")
    submit_with_token(client, "b")
    ended = store("copy", file, nodes.database.dsn, "--live")
    assert (ended.returncode, ended.stdout) == (1, b"copied: 1 tasks\n")
    lines = sorted(line.partition(b": not copied: ")[2] for line in ended.stderr.splitlines())
    assert lines == sorted(
        [
            f"task {key}: another unfinished task of its function has its key".encode(),
            f"task {token}: another one has its token".encode(),
        ]
    )
    assert ask(client, "get", task=free)["state"] == "scheduled"


def test_tables_of_a_database_that_do_not_fit_together_are_named(database: Database) -> None:
    assert b"no server has used it yet" in store("check", database.dsn).stderr
    done(store("migrate", database.dsn))
    lines = {
        "task": "id,function,options,priority,wanted,keep,fixed,owner,created,key",
        "uniq": "kind,owner,function,value,id",
    }
    database.sql(f"INSERT INTO taskd.task ({lines['task']}) VALUES ('lost','f','{{}}',5,0,0,false,'',0,'x')")
    database.sql(
        f"INSERT INTO taskd.uniq ({lines['uniq']}) VALUES ('k','','f','x','lost'), ('t','','','y','gone')"
    )
    database.sql("INSERT INTO taskd.event VALUES ('gone', 1, 'queued', 0, '{}')")
    database.sql(
        "INSERT INTO taskd.batch (id,task,total,created,parts,keep,owner,unstored,unstored_bytes)"
        " VALUES ('some','',3,0,1,0,'',0,0)"
    )
    ended = store("check", database.dsn)
    assert ended.returncode == 1
    assert sorted(line for line in ended.stdout.decode().splitlines() if "damaged: " in line) == [
        "damaged: batch some counts other tasks than it has",
        "damaged: batch some has lost some of its rows",
        "damaged: task gone has events, and is lost",
        "damaged: task gone is lost, and its token is still taken",
        "damaged: task lost is lost or has ended, and its key is still taken",
        "damaged: task lost is neither unfinished nor ended",
    ]


def test_a_database_is_migrated_by_several_at_once_and_again(database: Database) -> None:
    ended: list[subprocess.CompletedProcess[bytes]] = []
    threads = [
        threading.Thread(target=lambda: ended.append(store("migrate", database.dsn))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(done(each).endswith(b"schema 1\n") for each in ended)
    assert done(store("migrate", database.dsn)).endswith(b" has schema 1\n")
    assert b"no tasks\nall is well\n" in done(store("check", database.dsn))


def test_a_store_that_is_not_there_or_none_is_named(tmp_path: Path, database: Database) -> None:
    for command in "check", "export", "migrate":
        assert b"there is no file" in store(command, tmp_path / "none.db").stderr
    ended = store("copy", tmp_path / "none.db", database.dsn)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert b"there is no file" in ended.stderr
    assert b"no server has used it yet" in store("copy", database.dsn, tmp_path / "new.db").stderr
    assert not (tmp_path / "new.db").exists()
    assert b"a store is sqlite:PATH or postgres:DATABASE here" in store("copy", "memory", "x").stderr
    bad = store("import", "-", tmp_path / "new.db", given=b'{"kind":"paused","function":"f"}\n{"id":"x"}\n')
    assert bad.returncode == 1
    assert b"line 2: " in bad.stderr
