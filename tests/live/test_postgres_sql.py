"""Tasks that are submitted, settled and cancelled by SQL, in transactions of other programs."""

import json
import threading
from contextlib import closing

import msgspec
import psycopg
import pytest

from taskd.durable.ids import Ids
from taskd.durable.moments import RunOptions
from taskd.store.base import Changes
from taskd.store.batches import NewBatch, Rows
from taskd.store.nodes import Described, NodeInfo
from taskd.store.postgres import PostgresStore
from taskd.store.records import Accepted, New, Settle, Start, State, first_seq, last_seq
from tests.postgres_server import PASSWORD

NOW = 1000.0
OUTSIDER = "shop"
"""A role that may do nothing but call `taskd.submit`."""


@pytest.fixture
def open_node(database):
    stores = []

    def open_one(*described, **info):
        store = PostgresStore(database.dsn)
        stores.append(store)
        store.nodes.renew(NodeInfo(described=described, **info))
        return store

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(open_node):
    """One node, which has said of no function anything."""
    return open_node()


@pytest.fixture
def connect(database):
    """Open connections of other programs, in transactions; as the owner of the schema."""
    with_all = []

    def open_one(dsn=database.dsn):
        with_all.append(psycopg.connect(dsn))
        return with_all[-1]

    yield open_one
    for each in with_all:
        each.close()


def call(connection, text, *values):
    return connection.execute(f"SELECT {text}", values).fetchone()[0]


def claim(store, function="f", count=10, **changes):
    return store.write(Changes(want={function: count}, **changes), store.nodes.now()).claims


def started(store, connect, function="f"):
    """Return a task that the node runs."""
    submitting = connect()
    task = call(submitting, "taskd.submit(%s, '[1]')", function)
    submitting.commit()
    [record] = claim(store, function)
    store.write(Changes(starts=[Start(task, record.attempt + 1)]), store.nodes.now())
    return task


def names(store, task):
    return [event.event for event in store.events(task, 0, 100)]


# --- submits -----------------------------------------------------------------


def test_a_task_is_there_after_the_commit_and_not_before_or_after_a_rollback(store, connect):
    connection = connect()
    dropped = call(connection, "taskd.submit('f')")
    connection.rollback()
    kept = call(connection, "taskd.submit('f', '[1, 2]')")
    assert store.get(kept) is None
    assert claim(store) == []
    connection.commit()
    [record] = claim(store)
    assert (record.new.id, record.new.args, record.new.function) == (kept, b"[1, 2]", "f")
    assert store.get(dropped) is None


def test_a_bare_submit_has_the_defaults_of_one_at_a_server(store, connect):
    connection = connect()
    task = call(connection, "taskd.submit('f')")
    connection.commit()
    record = store.get(task)
    ours = New(task, "f", b"[]", record.new.options, keep=3600.0)
    assert record.new == ours
    assert msgspec.json.decode(record.new.options, type=RunOptions) == RunOptions()
    assert (record.state, record.attempt, record.last_seq) == (State.WAITING, 0, 1)
    assert abs(record.created - store.nodes.now()) < 60
    assert record.due == record.created
    assert names(store, task) == ["queued"]


def test_the_options_of_a_submit(store, connect):
    connection = connect()
    task = call(
        connection,
        "taskd.submit('f', '{\"a\": 1}', delay => interval '1 hour', key => 'k', priority => 2, token => 't',"
        " owner => 'ann', timeout => interval '1.5 seconds', retries => 3, keep => interval '1 day',"
        " deadline => interval '10 seconds')",
    )
    connection.commit()
    record = store.get(task)
    new = record.new
    assert (record.state, new.priority, new.key, new.token, new.owner) == (
        State.SCHEDULED,
        2,
        "k",
        "t",
        "ann",
    )
    assert new.keep == 86400.0
    assert record.due == new.due == pytest.approx(record.created + 3600)
    assert new.deadline == pytest.approx(new.due + 10)
    assert not new.is_fixed
    kept = msgspec.json.decode(new.options, type=RunOptions)
    assert kept == RunOptions(1.5, 2, 3)
    assert new.limit_key == "ann\x1f"


def test_a_time_of_the_calendar_is_fixed(store, connect):
    connection = connect()
    task = call(connection, "taskd.submit('f', at => '2100-01-01 00:00+00')")
    connection.commit()
    record = store.get(task)
    assert (record.state, record.new.is_fixed, record.due) == (State.SCHEDULED, True, 4102444800.0)


def test_ids_are_uuids_of_version_7_in_the_order_of_their_making(store, connect):
    connection = connect()
    before = Ids().make(store.nodes.now() - 0.001)
    made = [call(connection, "taskd.submit('f')") for _ in range(50)]
    after = Ids().make(store.nodes.now() + 0.001)
    assert [before, *made, after] == sorted({before, *made, after})
    assert all(len(each) == 36 and each[14] == "7" and each[19] in "89ab" for each in made)
    assert len({each[19:] for each in made}) == 50


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("'f', '3'", "args is an object or an array, not a number"),
        ("'f', 'null'", "args is an object or an array, not null"),
        ("''", "function is the name of one"),
        ("NULL", "function is the name of one"),
        ("'f', priority => 10", "priority is 0 .first. to 9 .last., not 10"),
        ("'f', priority => NULL", "not null"),
        ("'f', retries => -1", "retries is a number, 0 or more, not -1"),
        ("'f', delay => interval '-1 second'", "delay is an interval"),
        ("'f', delay => interval '101 years'", "delay is an interval"),
        ("'f', timeout => interval '0'", "timeout is an interval longer than 0"),
        ("'f', keep => interval '-1 day'", "keep is an interval"),
        ("'f', deadline => interval '0'", "deadline is an interval longer than 0"),
        ("'f', key => ''", "key has 1 to 200 characters, not 0"),
        ("'f', token => repeat('t', 201)", "token has 1 to 200 characters, not 201"),
        ("'f', owner => E'a\\nb'", "owner has 200 characters"),
        ("'f', delay => interval '1 s', at => now()", "not both"),
        ("'f', at => 'infinity'", "a time in the years 1 to 9999"),
        ("'f', ('[\"' || repeat('x', 11000000) || '\"]')::json", "bytes, and may have 10485760"),
        ("'f', (repeat('[', 255) || repeat(']', 255))::json", "more than 254 levels"),
    ],
)
def test_a_wrong_argument_is_explained(store, connect, arguments, reason):
    with pytest.raises(psycopg.Error, match=reason):
        call(connect(), f"taskd.submit({arguments})")


def test_arguments_at_the_limits_are_accepted(store, connect):
    connection = connect()
    deep = "[" * 254 + "]" * 254
    wide = json.dumps([["[", ']\\"['], [[]], []] * 1000)
    call(connection, "taskd.submit('f', %s::json)", deep)
    call(connection, "taskd.submit('f', %s::json, key => repeat('k', 200))", wide)
    connection.commit()
    assert [record.new.args.decode() for record in claim(store)] == [deep, wide]


# --- functions ---------------------------------------------------------------


def test_a_function_that_no_node_has_is_refused_once_any_is_known(open_node, connect):
    open_node(Described("f"))
    connection = connect()
    with pytest.raises(psycopg.Error, match="no such function: g"):
        call(connection, "taskd.submit('g')")


def test_a_task_is_kept_as_long_as_its_function_says_now(open_node, connect):
    store = open_node(Described("f", 5.0))
    connection = connect()
    first = call(connection, "taskd.submit('f')")
    store.nodes.renew(NodeInfo(described=[Described("f", 7.0)]))
    then = call(connection, "taskd.submit('f')")
    own = call(connection, "taskd.submit('f', keep => interval '9 s')")
    connection.commit()
    assert [store.get(task).new.keep for task in (first, then, own)] == [5.0, 7.0, 9.0]


def test_a_function_that_runs_once_has_no_retries(open_node, connect):
    open_node(Described("f", once=True))
    with pytest.raises(psycopg.Error, match="is run once"):
        call(connect(), "taskd.submit('f', retries => 1)")


def test_secret_arguments_are_marked_and_refused_if_they_would_have_to_be_sealed(open_node, connect):
    store = open_node(Described("f", secrets='{"names":["password"]}'), Described("g", is_sealed=True))
    connection = connect()
    task = call(connection, "taskd.submit('f', '{\"password\": 1}')")
    connection.commit()
    kept = msgspec.json.decode(store.get(task).new.options, type=RunOptions)
    assert kept.secrets.names == ("password",)
    with pytest.raises(psycopg.Error, match="only a server can seal"):
        call(connection, "taskd.submit('g')")


@pytest.mark.parametrize(
    ("args", "owner", "key"),
    [
        ('{"user": "ann"}', "", '"ann"'),
        ('[0, "ann"]', "", '"ann"'),
        ('{"user": "\\u00e9"}', "", '"é"'),
        ('{"user": "a\\/b"}', "", '"a/b"'),
        ('{"user": 7}', "", "7"),
        ('{"user": 7}', "bob", "bob\x1f7"),
        ("{}", "", ""),
        ("[0]", "", ""),
        ('{"user": "\\u0000"}', "", '{"user": "\\u0000"}'),
        ('{"user": "\\ud800"}', "", '{"user": "\\ud800"}'),
        (json.dumps({"user": "x" * 300}), "", "sha256:"),
    ],
)
def test_the_concurrency_key_of_a_task(open_node, connect, args, owner, key):
    store = open_node(Described("f", key="user", place=1))
    connection = connect()
    task = call(connection, "taskd.submit('f', %s::json, owner => %s)", args, owner)
    connection.commit()
    found = store.get(task).new.limit_key
    assert found[: len(key)] == key if key == "sha256:" else found == key


def test_a_key_that_only_has_a_name_is_not_looked_for_by_position(open_node, connect):
    store = open_node(Described("f", key="user"))
    connection = connect()
    task = call(connection, "taskd.submit('f', '[1]')")
    connection.commit()
    assert store.get(task).new.limit_key == ""


# --- keys and tokens ---------------------------------------------------------


@pytest.mark.parametrize("option", ["key", "token"])
def test_a_second_submit_joins_the_first_in_the_same_transaction_and_in_others(store, connect, option):
    connection = connect()
    first = call(connection, f"taskd.submit('f', {option} => 'x')")
    assert call(connection, f"taskd.submit('f', {option} => 'x')") == first
    connection.commit()
    assert call(connection, f"taskd.submit('f', {option} => 'x')") == first
    assert call(connection, f"taskd.submit('f', {option} => 'y')") != first
    assert call(connection, f"taskd.submit('f', {option} => 'x', owner => 'ann')") != first
    connection.commit()
    new = New("n", "f", **{option: "x"})
    assert store.write(Changes(submits=[new]), NOW).accepted == [Accepted(first, joined=True)]
    assert len(claim(store)) == 3


def test_a_submit_joins_a_task_of_a_server_and_a_key_is_free_after_its_end(store, connect):
    store.write(Changes(submits=[New("n", "f", key="x", token="t")]), NOW)
    connection = connect()
    assert call(connection, "taskd.submit('f', key => 'x')") == "n"
    assert call(connection, "taskd.submit('g', token => 't')") == "n"
    connection.commit()
    claim(store)
    ends = [Settle("n", 1, State.SUCCEEDED, "succeeded", seq=first_seq(1) + 1)]
    store.write(Changes(starts=[Start("n", 1)], settles=ends), NOW)
    assert call(connection, "taskd.submit('f', key => 'x')") != "n"
    assert call(connection, "taskd.submit('g', token => 't')") == "n"


def test_no_server_waits_for_a_transaction_that_holds_a_key(store, connect):
    """Neither of them knows of the other: the one that commits last has to do it again."""
    connection = connect()
    call(connection, "taskd.submit('f', key => 'x')")
    assert store.write(Changes(submits=[New("n", "f", key="x")]), NOW).accepted == [Accepted("n")]
    with pytest.raises(psycopg.errors.SerializationFailure, match="this key"):
        connection.commit()
    assert call(connection, "taskd.submit('f', key => 'x')") == "n"
    connection.commit()
    assert len(claim(store)) == 1


def test_two_transactions_with_one_key_have_one_task(store, connect):
    one, other = connect(), connect()
    first = call(one, "taskd.submit('f', key => 'x')")
    joined = []
    thread = threading.Thread(target=lambda: joined.append(call(other, "taskd.submit('f', key => 'x')")))
    thread.start()
    one.commit()
    thread.join(20)
    other.commit()
    assert joined == [first]
    assert len(claim(store)) == 1


def test_a_key_of_a_transaction_that_was_rolled_back_is_free(store, connect):
    connection = connect()
    connection.execute("SAVEPOINT here")
    first = call(connection, "taskd.submit('f', key => 'x')")
    connection.execute("ROLLBACK TO here")
    then = call(connection, "taskd.submit('f', key => 'x')")
    connection.commit()
    assert first != then
    assert [record.new.id for record in claim(store)] == [then]


# --- rights ------------------------------------------------------------------


@pytest.fixture
def outsider(database, store):
    """Return the URL for a role that has been given the right to submit alone."""
    database.sql(f"DROP ROLE IF EXISTS {OUTSIDER}; CREATE ROLE {OUTSIDER} LOGIN PASSWORD '{PASSWORD}'")
    database.sql(
        f"GRANT USAGE ON SCHEMA taskd TO {OUTSIDER}; GRANT EXECUTE ON FUNCTION taskd.submit TO {OUTSIDER}"
    )
    yield database.server.dsn(database.name, user=OUTSIDER)
    database.sql(f"DROP OWNED BY {OUTSIDER}; DROP ROLE {OUTSIDER}")


def test_a_role_with_the_right_to_submit_can_do_nothing_else(store, connect, outsider):
    connection = connect(outsider)
    task = call(connection, "taskd.submit('f', key => 'k', token => 't')")
    connection.commit()
    assert store.get(task) is not None
    for forbidden in (
        "SELECT * FROM taskd.task",
        "SELECT * FROM taskd.at_commit",
        "SELECT taskd.cancel('x')",
        "SELECT taskd.state('x')",
        "SELECT taskd.settle('x', 1, 1)",
        "SELECT taskd.taken('k', '', 'f', 'k')",
        "SELECT taskd.note_end(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        "SELECT taskd.levels('[]', 1)",
        "INSERT INTO taskd.at_commit (what, id) VALUES ('c', 'x')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(forbidden)
        connection.rollback()


def test_no_function_can_be_misled_by_names_of_the_callers(database, store, connect, outsider):
    database.sql(f"GRANT CREATE, TEMP ON DATABASE {database.name} TO {OUTSIDER}")
    connection = connect(outsider)
    connection.execute("CREATE SCHEMA evil; SET search_path = evil, pg_temp, pg_catalog")
    connection.execute(
        "CREATE FUNCTION evil.replace(text, text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'hit' $$"
    )
    connection.execute("CREATE TEMP TABLE task AS SELECT 1 AS id")
    task = call(connection, "taskd.submit('f', key => 'k')")
    connection.commit()
    assert store.get(task).new.key == "k"


def test_every_function_that_acts_for_its_owner_has_a_search_path_of_its_own(database, store):
    rows = database.sql(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'taskd'::regnamespace"
        " AND (proconfig IS NULL OR proconfig[1] <> 'search_path=pg_catalog, pg_temp')"
    )
    assert rows == []
    public = database.sql(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'taskd'::regnamespace"
        " AND has_function_privilege('public', oid, 'EXECUTE')"
    )
    assert public == []


# --- states and cancels ------------------------------------------------------


def test_the_state_of_a_task(store, connect):
    connection = connect()
    connection.autocommit = True
    later = call(connection, "taskd.submit('later', delay => interval '1 h')")
    waits = call(connection, "taskd.submit('waits')")
    runs = started(store, connect)
    assert [call(connection, "taskd.state(%s)", task) for task in (later, waits, runs, "x")] == [
        "scheduled", "waiting", "running", None,
    ]  # fmt: skip
    for number, state in enumerate(("succeeded", "failed", "cancelled", "expired", "set_aside"), 3):
        task = started(store, connect)
        store.write(Changes(settles=[Settle(task, 1, State(number), state, seq=first_seq(1) + 1)]), NOW)
        assert call(connection, "taskd.state(%s)", task) == state


def test_a_cancel_takes_place_with_the_commit(store, connect):
    connection = connect()
    tasks = [
        call(connection, "taskd.submit('f', delay => interval '1 h', key => 'a')"),
        call(connection, "taskd.submit('f', key => 'b')"),
    ]
    connection.commit()
    assert [call(connection, "taskd.cancel(%s)", task) for task in tasks] == ["scheduled", "waiting"]
    assert {store.get(task).state for task in tasks} == {State.SCHEDULED, State.WAITING}
    connection.commit()
    assert {store.get(task).state for task in tasks} == {State.CANCELLED}
    assert names(store, tasks[0]) == ["queued", "cancelled"]
    assert call(connection, "taskd.cancel(%s)", tasks[0]) == "cancelled"
    assert call(connection, "taskd.cancel('x')") is None
    assert call(connection, "taskd.submit('f', key => 'a')") not in tasks


def test_a_task_can_be_cancelled_by_the_transaction_that_submits_it(store, connect):
    connection = connect()
    task = call(connection, "taskd.submit('f', key => 'a')")
    call(connection, "taskd.cancel(%s)", task)
    connection.commit()
    assert store.get(task).state is State.CANCELLED
    assert call(connection, "taskd.submit('f', key => 'a')") != task


def test_the_cancel_of_a_running_task_is_passed_on_to_its_node(store, connect):
    task = started(store, connect)
    connection = connect()
    assert call(connection, "taskd.cancel(%s)", task) == "running"
    assert store.nodes.renew(NodeInfo()).cancelled == []
    connection.commit()
    assert store.nodes.renew(NodeInfo()).cancelled == [task]


# --- settles -----------------------------------------------------------------


def test_a_task_succeeds_with_a_transaction_and_not_without_it(store, connect):
    task, connection = started(store, connect), connect()
    settle = "taskd.settle(%s, 1, %s, '{\"paid\": true}')"
    call(connection, settle, task, store.nodes.node)
    connection.rollback()
    assert store.get(task).state is State.RUNNING
    call(connection, settle, task, store.nodes.node)
    assert store.get(task).state is State.RUNNING
    connection.commit()
    record = store.get(task)
    assert (record.state, record.attempt, record.outcome) == (State.SUCCEEDED, 1, b'{"paid": true}')
    assert names(store, task) == ["queued", "started", "succeeded"]
    assert record.last_seq == last_seq(1)
    late = Settle(task, 1, State.FAILED, "failed", seq=first_seq(1) + 7)
    assert store.write(Changes(settles=[late]), NOW).own.settles == [False]
    assert store.get(task).state is State.SUCCEEDED


def test_a_task_whose_start_is_not_stored_yet_can_be_settled(store, connect):
    connection = connect()
    task = call(connection, "taskd.submit('f')")
    connection.commit()
    claim(store)
    call(connection, "taskd.settle(%s, 1, %s)", task, store.nodes.node)
    connection.commit()
    record = store.get(task)
    assert (record.state, record.attempt, record.outcome) == (State.SUCCEEDED, 1, b"null")
    assert names(store, task) == ["queued", "started", "succeeded"]
    assert store.write(Changes(starts=[Start(task, 1)]), NOW).own.starts == [False]


@pytest.mark.parametrize("attempt", [0, 2])
def test_another_attempt_is_refused(store, connect, attempt):
    task, connection = started(store, connect), connect()
    with pytest.raises(psycopg.Error, match="not its own any more"):
        call(connection, "taskd.settle(%s, %s, %s)", task, attempt, store.nodes.node)


def test_a_node_that_was_taken_for_dead_settles_nothing(database, open_node, connect):
    store, other = open_node(), open_node()
    task, connection = started(store, connect), connect()
    connection.execute("CREATE TABLE paid (n int)")
    connection.commit()
    connection.execute("INSERT INTO paid VALUES (1)")
    call(connection, "taskd.settle(%s, 1, %s)", task, store.nodes.node)
    database.sql(f"UPDATE taskd.node SET seen = seen - interval '11 s' WHERE id = {store.nodes.node}")
    other.rescue(other.nodes.now())
    [record] = claim(other)
    with pytest.raises(psycopg.Error, match="not its own any more"):
        connection.commit()
    with pytest.raises(psycopg.Error, match="not its own any more"):
        call(connection, "taskd.settle(%s, 1, %s)", task, store.nodes.node)
    connection.rollback()
    assert connection.execute("SELECT * FROM paid").fetchall() == []
    assert record.attempt == 1


def test_a_settle_counts_in_a_batch_and_frees_the_key(store, connect):
    rows = Rows(["r1", "r2"], [b"[1]", b"[2]"])
    store.batches.add(NewBatch("b", New("", "f", batch="b", key="k"), [rows], keep=10.0), NOW)
    store.batches.unpack("b", NOW)
    claim(store, count=1)
    store.write(Changes(starts=[Start("r1", 1)]), NOW)
    connection = connect()
    call(connection, "taskd.settle('r1', 1, %s)", store.nodes.node)
    connection.commit()
    [batch] = store.write(Changes(), NOW).batches
    assert (batch.done, batch.cancelled, batch.total) == (1, 0, 2)


def test_a_long_transaction_with_a_settle_and_a_cancel_locks_no_task(store, connect):
    task, connection = started(store, connect), connect()
    waiting = call(connection, "taskd.submit('f')")
    connection.commit()
    call(connection, "taskd.settle(%s, 1, %s)", task, store.nodes.node)
    call(connection, "taskd.cancel(%s)", waiting)
    with closing(psycopg.connect(store._database.dsn)) as other:
        other.execute("SELECT * FROM taskd.lease FOR UPDATE NOWAIT")
        other.execute("SELECT * FROM taskd.ready FOR UPDATE NOWAIT")
        other.rollback()
    connection.commit()
    assert (store.get(task).state, store.get(waiting).state) == (State.SUCCEEDED, State.CANCELLED)
