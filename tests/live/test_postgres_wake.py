"""Nodes that wake each other: by notifications of PostgreSQL, which may be lost and come back."""

import os
import queue
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from taskd.store.base import Changes
from taskd.store.nodes import Hint, NodeInfo
from taskd.store.postgres import PostgresStore, listening
from taskd.store.records import New, Settle, Start, State
from tests.link import Link
from tests.live.nodes import Node, Nodes, submit
from tests.live.support import APPS, TIMEOUT, Connection, Gate, rpc, run_taskd
from tests.pgbouncer import PgBouncer
from tests.postgres_server import Database, PostgresServer, fresh_database

NOW = 1000.0
FAR = APPS / "far.py"
NO_POLLS = {
    "PYTHONPATH": os.pathsep.join(
        filter(None, [str(Path(__file__).parent / "no_polls"), os.environ.get("PYTHONPATH")])
    )
}
"""The environment of a server that does not look at what others do, and has to be woken."""


class Listener:
    """A store that listens, with what it has heard."""

    def __init__(self, dsn: str) -> None:
        self.store = PostgresStore(dsn)
        self.hints: queue.Queue[tuple[Hint, str | None]] = queue.Queue()
        self.store.nodes.listen(lambda hint: self.hints.put((hint, self.store.nodes.polls)))
        self.wait_for(Hint(everything=True))

    @property
    def node(self) -> int:
        return self.store.nodes.node

    def wait_for(self, hint: Hint, polls: str | None = None) -> None:
        """Return when this hint has come; others may come before."""
        while self.hints.get(timeout=TIMEOUT) != (hint, polls):
            pass

    def wait_until_deaf(self) -> str:
        """Return why no hints come, once that is so."""
        while (polls := self.hints.get(timeout=TIMEOUT)[1]) is None:
            pass
        return polls

    def heard(self) -> list[Hint]:
        """Return the hints so far that nobody has waited for."""
        heard = []
        while not self.hints.empty():
            heard.append(self.hints.get()[0])
        return heard

    def renew(self) -> None:
        self.store.nodes.renew(NodeInfo())

    def write(self, **changes: object) -> list[str]:
        return [each.new.id for each in self.store.write(Changes(**changes), NOW).claims]


@pytest.fixture
def two(database: Database) -> Iterator[tuple[Listener, Listener]]:
    """Two nodes that know of each other, on one database."""
    first, second = Listener(database.dsn), Listener(database.dsn)
    with closing(first.store), closing(second.store):
        first.wait_for(Hint(renews=True))  # the second one has come
        first.renew()
        second.renew()
        yield first, second


def new(task: str, **more: object) -> New:
    return New(task, "f", b"[1]", keep=100.0, **more)


def end(task: str) -> Settle:
    return Settle(task, 1, State.SUCCEEDED, "succeeded")


def watch(node: Listener, *tasks: str) -> None:
    """Have the others hint at these tasks, and return when they do."""
    node.store.nodes.watch(tasks)
    node.wait_for(Hint(tasks=sorted(tasks)))


# --- what is hinted at ---


def test_tasks_that_a_node_leaves_wake_the_others_and_those_that_it_claims_do_not(two):
    first, second = two
    first.write(submits=[new("a")], want={"f": 1})
    first.write(submits=[new("b")])
    second.wait_for(Hint(functions=["f"]))
    assert second.write(want={"f": 9}) == ["b"]
    assert Hint(functions=["f"]) not in second.heard()
    assert Hint(functions=["f"]) not in first.heard()


@pytest.mark.parametrize("how", ["released", "returned", "put back", "left"])
def test_tasks_that_wait_again_wake_the_others(two, how):
    first, second = two
    first.write(submits=[new("a")], want={"f": 1})
    if how == "released":
        first.write(releases=["a"])
    elif how == "returned":
        first.write(starts=[Start("a", 1)], settles=[Settle("a", 1, State.WAITING, "returned")])
    elif how == "put back":
        first.write(starts=[Start("a", 1)], settles=[Settle("a", 1, State.FAILED, "failed")])
        first.write(put_backs=["a"])
    else:
        first.store.close()
    second.wait_for(Hint(functions=None))
    assert second.write(want={"f": 1}) == ["a"]


def test_tasks_that_become_due_wake_the_others(two):
    first, second = two
    first.write(submits=[new("a", due=NOW + 5)])
    first.store.promote(NOW + 6, 10)
    second.wait_for(Hint(functions=["f"]))


def test_a_program_that_writes_tasks_by_itself_can_wake_all(two, database):
    first, second = two
    database.sql("NOTIFY taskd_wake, 'f'; NOTIFY taskd_wake; NOTIFY taskd_nodes, 'unknown'")
    for each in (first, second):
        each.wait_for(Hint(functions=["f"]))
        each.wait_for(Hint(functions=None))
        each.wait_for(Hint(everything=True))


def test_a_cancel_and_a_drain_wake_the_node_that_they_concern_and_a_pause_all(two):
    first, second = two
    first.write(submits=[new("a")], want={"f": 1}, starts=[])
    first.write(starts=[Start("a", 1)])
    second.write(cancels=["a"])
    first.wait_for(Hint(renews=True))
    second.store.nodes.drain(first.node, drain=True)
    first.wait_for(Hint(renews=True))
    first.store.pause("f", paused=True)
    second.wait_for(Hint(renews=True))


def test_events_wake_the_nodes_that_watch_the_task(two):
    first, second = two
    first.write(submits=[new("a"), new("b")], want={"f": 2})
    watch(second, "a")
    first.renew()  # it sees that, unless the notification has come
    first.write(starts=[Start("a", 1), Start("b", 1)])
    second.wait_for(Hint(tasks=["a"]))
    first.write(settles=[end("a"), end("b")])
    second.wait_for(Hint(tasks=["a"]))


def test_a_node_that_watches_nothing_is_left_alone(two, database):
    first, second = two
    first.write(submits=[new("a"), new("b")], want={"f": 2})
    watch(second, "a", "b")
    second.store.nodes.unwatch(["a"])
    watch(second, "c")
    assert database.sql("SELECT task, node FROM taskd.watch ORDER BY task") == [
        ("b", str(second.node)),
        ("c", str(second.node)),
    ]
    first.renew()
    first.write(starts=[Start("a", 1), Start("b", 1)])
    second.wait_for(Hint(tasks=["b"]))
    second.store.close()
    assert database.value("SELECT count(*) FROM taskd.watch") == "0"


def test_more_events_than_a_notification_holds(two):
    first, second = two
    tasks = [f"{number:036}" for number in range(500)]
    first.write(submits=[new(task) for task in tasks], want={"f": 500})
    watch(second, *tasks)
    first.renew()
    first.write(starts=[Start(task, 1) for task in tasks])
    seen: set[str] = set()
    while seen != set(tasks):
        seen.update(second.hints.get(timeout=TIMEOUT)[0].tasks)


def test_a_node_with_a_new_number_is_woken_by_that(two, database):
    first, second = two
    first.store.nodes.rejoin()
    first.wait_for(Hint(everything=True))
    second.store.nodes.drain(first.node, drain=True)
    first.wait_for(Hint(renews=True))


# --- a connection that is lost ---


def test_a_killed_connection_is_made_again_and_everything_is_looked_at(two, database, monkeypatch):
    monkeypatch.setattr(listening, "RECONNECT_SECONDS", 0.05)
    first, second = two
    watch(second, "a")
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'taskd listener'"
    )
    assert "terminat" in second.wait_until_deaf()
    for each in two:
        each.wait_for(Hint(everything=True))
    second.wait_for(Hint(tasks=["a"]))  # it is watched again
    first.renew()
    second.renew()
    first.write(submits=[new("a")])
    second.wait_for(Hint(tasks=["a"]))


def test_a_connection_that_dies_in_silence_is_made_again(database, monkeypatch):
    monkeypatch.setattr(listening, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(listening, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(listening, "RECONNECT_SECONDS", 0.05)
    with Link(database.server.port) as link:
        listener = Listener(database.server.dsn(database.name, port=link.port))
        link.cut("drop")
        assert "has not answered" in listener.wait_until_deaf()
        link.heal()
        listener.wait_for(Hint(everything=True))
        listener.store.close()


def test_a_connection_without_its_channels_is_made_again(database, monkeypatch):
    monkeypatch.setattr(listening, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(listening, "RECONNECT_SECONDS", 0.05)
    ask = listening.Asking.ask
    forgets = [True]

    def forget_first(asking, statement, *values):
        if "pg_notify" in statement and forgets:
            forgets.pop()
            ask(asking, "UNLISTEN *")
        return ask(asking, statement, *values)

    monkeypatch.setattr(listening.Asking, "ask", forget_first)
    listener = Listener(database.dsn)
    with closing(listener.store):
        assert "do not come back" in listener.wait_until_deaf()
        listener.wait_for(Hint(everything=True))


def test_watches_that_a_crash_has_emptied_are_written_again(start_postgres, monkeypatch):
    monkeypatch.setattr(listening, "RECONNECT_SECONDS", 0.05)
    server = start_postgres()
    with fresh_database(server) as database:
        first, second = Listener(database.dsn), Listener(database.dsn)
        with closing(first.store), closing(second.store):
            second.renew()
            watch(second, "a")
            server.stop("immediate")
            second.wait_until_deaf()
            server.start()
            second.wait_for(Hint(everything=True))
            second.wait_for(Hint(tasks=["a"]))
            assert database.value("SELECT count(*) FROM taskd.watch") == "1"


def test_watches_that_are_gone_are_written_again_and_those_of_the_dead_removed(two, database, monkeypatch):
    monkeypatch.setattr(listening, "CHECK_SECONDS", 0.1)
    third = Listener(database.dsn)  # whose checks are so frequent
    with closing(third.store):
        third.renew()
        watch(third, "a")
        database.sql("DELETE FROM taskd.watch; INSERT INTO taskd.watch VALUES ('a', 12345)")
        third.wait_for(Hint(tasks=["a"]))
        assert database.sql("SELECT node FROM taskd.watch") == [(str(third.node),)]


# --- servers ---


def start_two(nodes: Nodes, **more: object) -> tuple[Node, Node]:
    """Start a node, and one with the label that the functions need."""
    near = nodes.start(app=FAR, **more)
    far = nodes.start("--label", "far", app=FAR, **more)
    near.wait_until_ready()
    far.wait_until_ready()
    return near, far


def wait_until_acquainted(nodes: Nodes) -> None:
    """Return when both listen, and each has seen that there is the other one."""
    listeners = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskd listener'"
    seen = "SELECT bool_and(seen > (SELECT max(started) FROM taskd.node) + interval '0.1 s') FROM taskd.node"
    ask = f"SELECT ({listeners} AND query LIKE '%pg_notify%') = 2 AND ({seen}) FROM pg_sleep(0.05)"
    ending = time.monotonic() + TIMEOUT
    while nodes.database.value(ask) != "t":
        assert time.monotonic() < ending, "the nodes do not know of each other"


def event_of(client: Connection) -> tuple[str, object]:
    event = client.receive()["params"]
    return event["event"], event.get("value")


def test_a_node_sees_what_others_do_without_looking(nodes: Nodes, gate: Gate, tmp_path: Path) -> None:
    near, _ = start_two(nodes, env=NO_POLLS)
    wait_until_acquainted(nodes)
    client, watcher = near.connect(), near.connect()
    task = submit(client, "yielding", gate.path)
    watcher.ask(rpc(1, "taskd.attach", task=task))
    client.send(rpc(2, "taskd.wait", task=task))
    gate.wait_until_entered()
    assert event_of(watcher)[0] == "queued"
    assert event_of(watcher)[0] == "started"
    gate.release("text")
    assert [event_of(watcher) for _ in range(3)] == [
        ("partial", "text"),
        ("partial", "over"),
        ("succeeded", None),
    ]
    assert client.receive()["result"]["state"] == "succeeded"
    stuck = Gate(tmp_path / "stuck")
    task = submit(client, "stay", stuck.path)
    watcher.ask(rpc(1, "taskd.attach", task=task))
    assert [event_of(watcher)[0] for _ in range(2)] == ["queued", "started"]
    stuck.wait_until_entered()
    assert client.ask(rpc(3, "taskd.cancel", task=task))["result"]["was"] == "running"


def test_behind_a_pgbouncer_nodes_look_by_themselves_and_that_is_shown(
    postgres: PostgresServer, nodes: Nodes, gate: Gate
) -> None:
    with PgBouncer(postgres) as bouncer:
        near, far = start_two(nodes, store=bouncer.dsn(nodes.database.name))
        near.wait_for_log("other nodes cannot wake this one, which looks .* PgBouncer")
        client = near.connect()
        store = client.ask(rpc(1, "taskd.status"))["result"]["store"]
        assert store["polls"] == listening.POOLED
        assert "other nodes cannot wake this one" in run_taskd(near.tcp, "status").stdout
        task = submit(client, "stay", gate.path)
        gate.wait_until_entered().release("text")
        assert client.ask(rpc(2, "taskd.wait", task=task))["result"]["result"] == "text"
        near.stop()
        far.stop()
