"""What the store in PostgreSQL claims of functions with limits, for several nodes on one database."""

import threading
from contextlib import closing

import psycopg

from taskd.store.base import Changes, KeyedWant, Limit
from taskd.store.postgres import limited
from taskd.store.records import New, Start, State
from tests.live.test_postgres_store import NOW, die, end, ids, open_node, start, tasks

__all__ = ["open_node"]


def wait_for(store, function="f", count=10, keys=None, **limit):
    want = count if keys is None else KeyedWant(count, keys, with_unkeyed=True)
    return store.write(Changes(want={function: want}, limits={function: Limit(**limit)}), NOW)


def keyed(count, key, first=0, **more):
    return [New(f"{key}{n:04}", "f", b"[1]", limit_key=key, keep=100.0, **more) for n in range(first, count)]


def test_all_nodes_together_claim_no_more_than_the_limit(open_node):
    first, second = open_node(), open_node()
    limit = {"concurrency": 3}
    changes = Changes(submits=tasks(6), want={"f": 10}, limits={"f": Limit(3)})
    assert ids(first.write(changes, NOW).claims) == ["f0000", "f0001", "f0002"]
    assert wait_for(second, **limit).claims == []
    ends = Changes(settles=[end("f0001", 0, State.CANCELLED)])
    first.write(ends, NOW)
    assert ids(wait_for(second, **limit).claims) == ["f0003"]
    first.write(Changes(releases=["f0000"]), NOW)
    assert ids(wait_for(second, **limit).claims) == ["f0000"]
    start(second, [second.get("f0000")])
    assert wait_for(first, **limit).claims == []


def test_each_key_has_its_own_places_whoever_owns_the_tasks(open_node):
    first, second = open_node(), open_node()
    owned = [
        New(f"o{n}", "f", limit_key=f"{owner}\x1fa", owner=owner, keep=9.0)
        for n, owner in enumerate(("ann", "bob", "ann"))
    ]
    first.write(Changes(submits=[*owned, *keyed(4, "b"), *keyed(3, "a")]), NOW)
    limit = {"concurrency": 2, "by_key": True}
    assert ids(wait_for(first, keys={"a": 1, "b": 1}, **limit).claims) == ["a0000", "b0000"]
    scan = Changes(want={"f": KeyedWant(10, None, 2)}, limits={"f": Limit(**limit)})
    assert ids(second.write(scan, NOW).claims) == ["a0001", "b0001"]
    assert wait_for(second, keys={"a": 5, "b": 5, "ann\x1fa": 5}, **limit).claims == []
    assert first.write(scan, NOW).claims == []
    ends = [end("a0000", 0, State.CANCELLED), end("a0002", 0, State.CANCELLED)]
    first.write(Changes(settles=ends), NOW)
    assert ids(second.write(scan, NOW).claims) == ["o0"]
    second.write(Changes(settles=[end("a0001", 0, State.CANCELLED), end("o0", 0, State.CANCELLED)]), NOW)
    assert ids(first.write(scan, NOW).claims) == ["o2", "o1"]


def test_tasks_without_a_key_are_claimed_to_be_given_one_and_take_no_place(open_node):
    first, second = open_node(), open_node()
    first.write(Changes(submits=[*tasks(2), *keyed(1, "a")]), NOW)
    scan = Changes(want={"f": KeyedWant(10, None, 1, with_unkeyed=True)}, limits={"f": Limit(1, by_key=True)})
    assert ids(first.write(scan, NOW).claims) == ["a0000", "f0000", "f0001"]
    first.write(Changes(releases=["f0000", "f0001"], limit_keys={"f0000": "a", "f0001": "b"}), NOW)
    assert second.get("f0000").new.limit_key == "a"
    assert [(each.new.id, each.new.limit_key) for each in second.write(scan, NOW).claims] == [("f0001", "b")]


def test_nodes_that_claim_at_once_take_turns_and_never_too_much(open_node):
    stores = [open_node() for _ in range(3)]
    stores[0].write(Changes(submits=tasks(300)), NOW)
    most, done, lock = [], [], threading.Lock()
    running = set()

    def work(store):
        while len(done) < 300:
            claims = wait_for(store, concurrency=4).claims
            with lock:
                running.update(ids(claims))
                most.append(len(running))
            with lock:
                running.difference_update(ids(claims))
            starts = [Start(each.new.id, 1) for each in claims]
            store.write(Changes(starts=starts, settles=[end(each.new.id) for each in claims]), NOW)
            done.extend(claims)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 4
    assert stores[0].counts() == {("f", State.SUCCEEDED): 300}


def test_a_function_that_another_node_claims_just_now_should_be_wanted_again(open_node, database):
    store = open_node()
    store.write(Changes(submits=tasks(1)), NOW)
    with closing(psycopg.connect(database.dsn)) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [limited.lock_key("f")])
        written = wait_for(store, concurrency=1)
        assert (written.claims, written.again) == ([], {"f": limited.LOCKED_SECONDS})
        other.rollback()
    assert ids(wait_for(store, concurrency=1).claims) == ["f0000"]


def test_a_rate_counts_what_has_started_and_what_may_start_now(open_node, database):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(9)), NOW)
    limit = {"rate": 3, "seconds": 60.0}
    claims = wait_for(first, count=2, **limit).claims
    start(first, claims[:1])
    written = wait_for(second, **limit)
    assert ids(written.claims) == ["f0002"]
    second.write(Changes(starts=[Start("f0002", 1)], settles=[end("f0002")]), NOW)
    again = wait_for(second, **limit)
    assert again.claims == []
    assert 50.0 < again.again["f"] <= 60.1
    assert database.sql("SELECT sum(count) FROM taskd.started") == [("2",)]
    first.write(Changes(settles=[end("f0000")], releases=["f0001"]), NOW)
    assert ids(wait_for(second, **limit).claims) == ["f0001"]
    second.write(Changes(starts=[Start("f0001", 1)]), NOW)
    database.sql("UPDATE taskd.started SET until = until - 61")
    second.prune(NOW, 10)
    assert database.sql("SELECT count(*) FROM taskd.started") == [("0",)]
    assert len(wait_for(first, **limit).claims) == 3


def test_a_rate_holds_for_each_key(open_node):
    store = open_node()
    store.write(Changes(submits=[*keyed(3, "a"), *keyed(3, "b")]), NOW)
    limit = {"rate": 2, "seconds": 60.0, "by_key": True}
    assert ids(wait_for(store, keys={"a": 9}, **limit).claims) == ["a0000", "a0001"]
    scan = Changes(want={"f": KeyedWant(10, None, 9)}, limits={"f": Limit(**limit)})
    assert ids(store.write(scan, NOW).claims) == ["b0000", "b0001"]


def test_claimed_tasks_of_a_dead_node_count_as_started(open_node, database):
    first, second = open_node(), open_node()
    first.write(Changes(submits=tasks(4)), NOW)
    limit = {"concurrency": 2, "rate": 3, "seconds": 60.0}
    assert len(wait_for(first, **limit).claims) == 2
    die(database, first)
    assert wait_for(second, **limit).claims == []
    second.rescue(NOW + 1)
    assert ids(wait_for(second, **limit).claims) == ["f0000"]
