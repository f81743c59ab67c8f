"""The store in PostgreSQL, on a real server: several nodes on one database, and a server that fails."""

import threading
from contextlib import closing

import psycopg
import pytest

from taskd.durable.opening import open_store
from taskd.store.base import Changes, Filter, KeyedWant, StoreError
from taskd.store.batches import NewBatch, Rows
from taskd.store.nodes import NodeInfo
from taskd.store.postgres import PostgresStore, connection, schema
from taskd.store.postgres.schema import migrate
from taskd.store.records import Accepted, Event, New, Settle, Start, State, first_seq
from tests.link import Link
from tests.pgbouncer import PgBouncer

NOW = 1000.0


@pytest.fixture
def open_node(database):
    stores = []

    def open_one(**info):
        stores.append(PostgresStore(database.dsn, NodeInfo(**info)))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def tasks(count, function="f", **more):
    return [New(f"{function}{n:04}", function, b"[1]", keep=100.0, **more) for n in range(count)]


def ids(records):
    return [record.new.id for record in records]


def claim(store, count=10, function="f", **more):
    return store.write(Changes(want={function: count}, **more), NOW).claims


def start(store, records, now=NOW):
    starts = [Start(each.new.id, each.attempt + 1) for each in records]
    return store.write(Changes(starts=starts), now).own.starts


def end(task, attempt=1, state=State.SUCCEEDED, **more):
    return Settle(task, attempt, state, state.name.lower(), seq=first_seq(attempt) + 1, **more)


def die(database, node):
    """Let a node have been silent for long enough, by the database's clock."""
    database.sql(f"UPDATE taskd.node SET seen = seen - interval '11 seconds' WHERE id = {node.nodes.node}")


def names(store, task):
    return [event.event for event in store.events(task, 0, 100)]


# --- several nodes ---


def test_two_nodes_claim_disjoint_tasks_while_both_write(open_node):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(400)), NOW)
    claimed = {first: [], second: []}

    def work(store):
        while records := claim(store, 7):
            claimed[store] += ids(records)
            starts = [Start(each.new.id, 1) for each in records]
            store.write(Changes(starts=starts, settles=[end(each.new.id) for each in records]), NOW)

    threads = [threading.Thread(target=work, args=(store,)) for store in claimed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = claimed[first] + claimed[second]
    assert sorted(both) == ids(first.find(Filter(), "", 1000))
    assert first.counts() == {("f", State.SUCCEEDED): 400}


def test_nodes_that_submit_the_same_key_or_token_at_once_get_one_task(open_node):
    first, second = open_node(), open_node()
    barrier = threading.Barrier(2)
    accepted = {first: [], second: []}

    def submit(store, name):
        for n in range(50):
            barrier.wait()
            news = [
                New(f"{name}k{n}", "f", key=f"{n}", keep=9.0),
                New(f"{name}t{n}", "f", token=f"{n}", keep=9.0),
            ]
            accepted[store] += store.write(Changes(submits=news), NOW).accepted

    threads = [threading.Thread(target=submit, args=each) for each in ((first, "a"), (second, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.id for each in accepted[first]] == [each.id for each in accepted[second]]
    assert len(first.find(Filter(), "", 1000)) == 100


def test_no_other_node_starts_settles_or_releases_a_claimed_task(open_node):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(1)), NOW)
    records = claim(first)
    assert start(second, records) == [False]
    assert second.write(Changes(settles=[end("f0000", 0, State.CANCELLED)]), NOW).own.settles == [False]
    second.write(Changes(releases=["f0000"]), NOW)
    assert claim(second) == []
    assert start(first, records) == [True]
    event = Event("f0000", first_seq(1) + 1, "progress", NOW)
    assert second.write(Changes(events=[event], settles=[end("f0000")]), NOW).own.settles == [False]
    assert names(first, "f0000") == ["queued", "started"]


def test_a_dead_node_is_rescued_by_the_clock_of_the_database(open_node, database):
    first, second = open_node(once=["g"]), open_node()
    first.write(Changes(submits=[*tasks(3), *tasks(1, "g")]), NOW)
    running = claim(first, 1) + claim(first, 1, "g")
    start(first, running)
    claimed = claim(first, 1)
    assert second.rescue(NOW) == 0
    die(database, first)
    assert second.rescue(NOW + 1, error=b'"lost"') == 2
    assert second.rescue(NOW + 1) == 0
    assert names(second, "f0000") == ["queued", "started", "lost"]
    assert (second.get("g0000").state, second.get("g0000").outcome) == (State.FAILED, b'"lost"')
    assert ids(claim(second)) == ["f0001", "f0002", "f0000"]
    assert names(second, claimed[0].new.id) == ["queued"]


def test_the_settle_of_a_rescued_attempt_is_not_own(open_node, database):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(1)), NOW)
    start(first, claim(first))
    die(database, first)
    second.rescue(NOW)
    assert first.write(Changes(settles=[end("f0000")]), NOW).own.settles == [False]
    start(second, claim(second))
    assert first.write(Changes(settles=[end("f0000", 2)]), NOW).own.settles == [False]
    assert second.write(Changes(settles=[end("f0000", 2)]), NOW).own.settles == [True]


def test_a_dead_node_claims_nothing_until_it_is_another_one(open_node, database):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(1)), NOW)
    claim(first)
    die(database, first)
    second.rescue(NOW)
    assert claim(first) == []
    assert not first.nodes.renew(NodeInfo()).is_mine
    old = first.nodes.node
    first.nodes.rejoin()
    assert first.nodes.node > old
    assert first.nodes.renew(NodeInfo()).is_mine
    assert ids(claim(first)) == ["f0000"]


def test_a_node_that_was_silent_is_itself_until_others_have_found_it_dead(open_node, database):
    first, second = open_node(), open_node()
    die(database, first)
    assert first.nodes.renew(NodeInfo()).is_mine
    first.write(Changes(submits=tasks(1)), NOW)
    claim(first)
    die(database, first)
    assert second.nodes.renew(NodeInfo(), rescues=False).is_mine
    assert second.nodes.renew(NodeInfo()).is_mine
    assert not first.nodes.renew(NodeInfo()).is_mine


def test_new_tasks_go_straight_to_the_node_only_if_it_lives(open_node, database):
    first, second = open_node(), open_node()
    start(first, first.write(Changes(submits=tasks(1, "g"), want={"g": 1}), NOW).claims)
    die(database, first)
    second.rescue(NOW)
    written = first.write(Changes(submits=tasks(1), want={"f": 1}), NOW)
    assert written.accepted == [Accepted("f0000")]
    assert written.claims == []
    assert ids(claim(second)) == ["f0000"]


def test_nodes_of_one_name_are_two(open_node, database):
    first, second, third = open_node(name="a:1"), open_node(name="a:1"), open_node()
    first.write(Changes(submits=tasks(2)), NOW)
    start(first, claim(first, 1))
    start(second, claim(second, 1))
    die(database, first)
    assert third.rescue(NOW) == 1
    assert second.nodes.renew(NodeInfo(name="a:1")).is_mine
    assert second.write(Changes(settles=[end("f0001")]), NOW).own.settles == [True]
    assert not first.nodes.renew(NodeInfo(name="a:1")).is_mine


def test_a_rescue_waits_for_no_lock(open_node, database):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(2)), NOW)
    start(first, claim(first, 1))
    claim(first, 1)
    die(database, first)
    with psycopg.connect(database.dsn) as other:
        other.execute("SELECT FROM taskd.lease FOR UPDATE")
        assert second.nodes.renew(NodeInfo()).rescued == 0
    assert second.nodes.renew(NodeInfo()).rescued == 1
    assert ids(claim(second)) == ["f0001", "f0000"]


def test_a_node_that_leaves_lets_others_have_what_it_has_not_started(open_node):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(2)), NOW)
    start(first, claim(first, 1))
    claim(first, 1)
    first.nodes.leave()
    assert ids(claim(second)) == ["f0001"]
    assert claim(first) == []
    assert second.rescue(NOW) == 1


def test_a_cancel_reaches_the_node_that_has_the_task(open_node):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(2)), NOW)
    start(first, claim(first, 1))
    claim(first, 1)
    states = second.write(Changes(cancels=["f0000", "f0001"]), NOW).cancelled
    assert states == [State.RUNNING, State.RUNNING]  # as far as anybody but the node can know
    assert first.nodes.renew(NodeInfo()).cancelled == ["f0000", "f0001"]
    assert second.nodes.renew(NodeInfo()).cancelled == []
    settles = [end("f0000", 1, State.CANCELLED), end("f0001", 0, State.CANCELLED)]
    assert first.write(Changes(settles=settles), NOW).own.settles == [True, True]
    assert second.counts() == {("f", State.CANCELLED): 2}


@pytest.mark.parametrize("how", ["released", "retried", "left", "dead, started", "dead, not started"])
def test_a_cancel_is_not_forgotten_with_the_lease(open_node, database, how):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(1)), NOW)
    records = claim(first)
    if how in ("retried", "dead, started"):
        start(first, records)
    second.write(Changes(cancels=["f0000"]), NOW)
    if how == "released":
        first.write(Changes(releases=["f0000"]), NOW)
    elif how == "retried":
        retry = end("f0000", 1, State.SCHEDULED, due=NOW + 5)
        written = first.write(Changes(settles=[retry]), NOW)
        assert [event.event for event in written.events] == ["scheduled", "cancelled"]
    elif how == "left":
        first.nodes.leave()
    else:
        die(database, first)
        second.rescue(NOW)
    assert second.get("f0000").state is State.CANCELLED
    events = names(second, "f0000")
    assert (events[0], events[-1]) == ("queued", "cancelled")


def test_a_renewal_tells_a_node_the_time_what_is_paused_and_what_was_rescued(open_node, database):
    first, second = open_node(), open_node()
    first.pause("g", paused=True)
    beat = first.nodes.renew(NodeInfo(name="a:1"))
    assert (beat.paused, beat.rescued, beat.drain) == (["g"], 0, False)
    assert abs(beat.now - float(database.value("SELECT extract(epoch FROM clock_timestamp())"))) < 60
    assert abs(first.nodes.now() - beat.now) < 60
    second.write(Changes(submits=tasks(1)), NOW)
    start(second, claim(second))
    die(database, second)
    assert first.nodes.renew(NodeInfo()).rescued == 1


def test_the_cancel_of_a_batch_reaches_what_other_nodes_have_claimed(open_node):
    first, second = open_node(), open_node()
    rows = Rows(["b1", "b2", "b3"], [b"[1]"] * 3)
    first.batches.add(NewBatch("b", New("", "f", batch="b", keep=9.0), [rows], keep=9.0), NOW)
    first.batches.unpack("b", NOW)
    start(first, claim(first, 1))
    claim(second, 1)
    second.batches.cancel("b")
    assert [each.task for each in second.batches.cancel_rows("b", "", 100, NOW).events] == ["b3"]
    assert first.nodes.renew(NodeInfo()).cancelled == ["b1"]
    assert second.nodes.renew(NodeInfo()).cancelled == []  # it cancels those itself


def test_nodes_are_shown_and_drained(open_node):
    first, second = open_node(), open_node()
    first.nodes.renew(NodeInfo(name="a:1"))
    info = NodeInfo("b:1", "2", ["f", "g"], ["g"], ["gpu"], 4, 3, True)
    second.nodes.renew(info)
    second.write(Changes(submits=tasks(2)), NOW)
    claim(second)
    rows = first.nodes.rows()
    assert [(row.node, row.info.name, row.claimed) for row in rows] == [
        (first.nodes.node, "a:1", 0),
        (second.nodes.node, "b:1", 2),
    ]
    assert rows[1].info == info
    assert first.nodes.drain(second.nodes.node, drain=True)
    assert second.nodes.renew(info).drain
    assert not first.nodes.drain(12345, drain=True)
    assert first.nodes.drain(second.nodes.node, drain=False)
    assert not second.nodes.renew(info).drain


def test_a_node_sees_what_has_become_of_tasks_elsewhere(open_node):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(3)), NOW)
    assert second.nodes.last_seqs(["f0000", "f0002", "unknown"]) == {"f0000": 1, "f0002": 1}
    start(first, claim(first, 1))
    first.write(Changes(settles=[end("f0000")]), NOW)
    assert second.nodes.last_seqs(["f0000"]) == {"f0000": first_seq(1) + 1}
    assert ids(second.nodes.ends(["f0000", "f0001", "unknown"])) == ["f0000"]


# --- texts ---


def test_texts_that_postgresql_cannot_hold_come_back_as_they_were(open_node):
    store = open_node()
    odd = ["\0", "\1", "\0\1\2", "a\\b\"c'{},NULL", "NULL", "", "ä\U0001f600", "\1\1", "%s $1"]
    news = [
        New(f"{n}", "f", key=text, token=text, limit_key=text, owner=text, keep=1.0)
        for n, text in enumerate(odd)
    ]
    store.write(Changes(submits=news), NOW)
    assert [each.new for each in store.find(Filter(), "", 100)] == news
    again = [New(f"x{n}", "f", key=text, token=None, owner=text) for n, text in enumerate(odd)]
    assert store.write(Changes(submits=again), NOW).accepted == [Accepted(new.id, True) for new in news]
    want = KeyedWant(100, each=10)
    assert [each.new.limit_key for each in store.write(Changes(want={"f": want}), NOW).claims] == [
        *sorted(set(odd) - {""}), ""
    ]  # fmt: skip
    assert store.get("\0") is None
    assert ids(store.find(Filter(key="\0"), "", 10)) == ["0"]
    assert store.events("a\0b", 0, 10) == []
    assert store.write(Changes(cancels=["\0"]), NOW).cancelled == [None]


# --- the schema ---


def test_nodes_that_migrate_at_once_all_succeed(database):
    errors = []
    barrier = threading.Barrier(4)

    def open_one():
        try:
            barrier.wait()
            PostgresStore(database.dsn).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert database.value("SELECT count(*) FROM taskd.node") == "4"
    assert database.value("SELECT version FROM taskd.schema_version") == str(schema.VERSION)


def test_a_migration_that_was_interrupted_goes_on_where_it_was(database, monkeypatch):
    scripts = {1: "CREATE TABLE taskd.one (n int)", 2: "CREATE TABLE taskd.two (n int); SELECT 1/0"}
    monkeypatch.setattr(schema, "VERSION", 2)
    monkeypatch.setattr(schema, "MIN_READER", {1: 1, 2: 2})
    monkeypatch.setattr(schema, "script", lambda number: scripts[number])
    with psycopg.connect(database.dsn, autocommit=True) as opened:
        with pytest.raises(psycopg.errors.DivisionByZero):
            migrate(opened, "db")
        assert database.sql("SELECT version, min_reader FROM taskd.schema_version") == [("1", "1")]
        scripts[2] = "CREATE TABLE taskd.two (n int)"
        migrate(opened, "db")
        migrate(opened, "db")
    assert database.sql("SELECT version, min_reader FROM taskd.schema_version") == [("2", "2")]


def test_a_schema_that_is_too_new_is_refused(database):
    PostgresStore(database.dsn).close()
    database.sql("UPDATE taskd.schema_version SET version = 99, min_reader = 1")
    PostgresStore(database.dsn).close()
    database.sql("UPDATE taskd.schema_version SET min_reader = 98")
    with pytest.raises(StoreError, match=r"newer version of taskd \(schema 99, for programs that know 98"):
        PostgresStore(database.dsn)


# --- failures ---


def test_a_connection_that_was_lost_while_idle_is_made_again(open_node, database):
    store = open_node()
    store.write(Changes(submits=tasks(1)), NOW)
    kill = (
        "SELECT pg_terminate_backend(pid, 9000) FROM pg_stat_activity WHERE application_name = 'taskd writer'"
    )
    database.sql(kill)
    assert ids(claim(store)) == ["f0000"]
    database.sql(kill.replace("writer", "reader"))
    assert store.get("f0000").new.id == "f0000"


def test_a_connection_that_was_reset_while_idle_is_made_again(database):
    with Link(database.server.port) as link:
        with closing(PostgresStore(database.server.dsn(database.name, port=link.port))) as store:
            link.cut("rst")
            link.heal()
            assert store.write(Changes(submits=tasks(1)), NOW).accepted == [Accepted("f0000")]
            assert store.nodes.renew(NodeInfo()).is_mine


def test_a_transaction_is_done_again_if_its_connection_was_lost_before_the_commit(database):
    with Link(database.server.port) as link:
        with closing(PostgresStore(database.server.dsn(database.name, port=link.port))) as store:
            link.cut_reply_to(b"asked_for_first")
            new = New("t1", "asked_for_first", b"[]", keep=9.0)
            written = store.write(Changes(submits=[new], want={"asked_for_first": 1}), NOW)
            link.wait_until_caught()
            assert ids(written.claims) == ["t1"]


def test_a_server_that_is_gone_is_a_store_error_until_it_is_back(start_postgres):
    server = start_postgres()
    with closing(PostgresStore(server.dsn(server.create_database()))) as store:
        store.write(Changes(submits=tasks(2)), NOW)
        start(store, claim(store, 1))
        server.stop("immediate")
        for _ in range(2):
            with pytest.raises(StoreError):
                store.write(Changes(settles=[end("f0000")]), NOW)
        with pytest.raises(StoreError, match="is the server running there"):
            store.get("f0000")
        server.start()
        assert store.write(Changes(settles=[end("f0000")]), NOW).own.settles == [True]
        assert store.counts() == {("f", State.SUCCEEDED): 1, ("f", State.WAITING): 1}


def test_claims_whose_commit_was_not_answered_wait_again(open_node, monkeypatch):
    store = open_node()
    store.write(Changes(submits=tasks(2)), NOW)
    sync = psycopg.Pipeline.sync

    def sync_and_lose(self):
        sync(self)
        self._conn.cursor().execute("SELECT 1").fetchall()  # so that the commit has been done
        self._conn.pgconn.finish()

    with monkeypatch.context() as patched:
        patched.setattr(psycopg.Pipeline, "sync", sync_and_lose)
        with pytest.raises(StoreError):
            claim(store)
    assert ids(claim(store)) == ["f0000", "f0001"]


def test_a_write_that_fails_outside_of_the_server_is_rolled_back_whole(open_node, monkeypatch):
    store = open_node()

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("taskd.store.postgres.store.close_batches", fail)
        with pytest.raises(MemoryError):
            store.write(Changes(submits=tasks(3)), NOW)
    assert store.counts() == {}
    assert store.write(Changes(submits=tasks(1)), NOW).accepted == [Accepted("f0000")]


def test_a_deadlock_is_tried_again(open_node, monkeypatch):
    store = open_node()
    failures = [psycopg.errors.DeadlockDetected(), psycopg.errors.SerializationFailure()]
    pipeline = psycopg.Connection.pipeline

    def fail_first(self):
        if failures:
            raise failures.pop()
        return pipeline(self)

    monkeypatch.setattr(psycopg.Connection, "pipeline", fail_first)
    assert store.write(Changes(submits=tasks(1)), NOW).accepted == [Accepted("f0000")]
    monkeypatch.setattr(connection, "ATTEMPTS", 2)
    failures += [psycopg.errors.DeadlockDetected()] * 2
    with pytest.raises(StoreError):
        store.write(Changes(), NOW)


def test_each_failure_to_open_has_its_reason_and_no_password(database, postgres):
    good = database.dsn
    for description, reason in {
        good.replace("not-a-secret", "s3cret"): "the password is wrong",
        good.replace(f"/{database.name}", "/nothing-there"): "createdb",
        "postgres:host=127.0.0.1 port=1 password=s3cret": "is the server running there",
        "postgres:host=127.0.0.1 s3cret": "missing",
    }.items():
        with pytest.raises(StoreError) as raised:
            open_store(description)
        assert reason in str(raised.value)
        assert "s3cret" not in str(raised.value).replace('"s3cret" ', "")


def test_missing_rights_and_a_read_only_server_have_different_reasons(database, postgres):
    postgres.sql(
        f"REVOKE CREATE ON DATABASE {database.name} FROM PUBLIC;"
        f"ALTER DATABASE {database.name} OWNER TO postgres"
    )
    with pytest.raises(StoreError, match="lacks rights"):
        PostgresStore(database.dsn)
    postgres.sql(f"GRANT CREATE ON DATABASE {database.name} TO taskd")
    PostgresStore(database.dsn).close()
    postgres.sql(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    with pytest.raises(StoreError, match="read-only"):
        PostgresStore(database.dsn)


def test_a_database_with_another_encoding_is_refused(postgres):
    postgres.sql(
        "CREATE DATABASE latin OWNER taskd ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    with pytest.raises(StoreError, match="has the encoding LATIN1, and needs UTF8"):
        PostgresStore(postgres.dsn("latin"))


def test_a_closed_store_is_closed(open_node):
    store = open_node()
    store.close()
    store.close()
    with pytest.raises(StoreError, match="the daemon stops"):
        store.get("x")
    with pytest.raises(StoreError, match="the daemon stops"):
        store.write(Changes(), NOW)


def test_two_nodes_behind_pgbouncer_prepare_nothing_and_share_its_connections(database, postgres):
    with PgBouncer(postgres) as bouncer:
        dsn = bouncer.dsn(database.name)
        with closing(PostgresStore(dsn)) as first, closing(PostgresStore(dsn)) as second:
            for n in range(10):
                first.write(Changes(submits=[New(f"{n}", "f", b"[1]", keep=9.0)]), NOW)
                start(second, claim(second))
                assert second.write(Changes(settles=[end(f"{n}")]), NOW).own.settles == [True]
                assert first.get(f"{n}").state is State.SUCCEEDED
            assert first.nodes.renew(NodeInfo()).is_mine
