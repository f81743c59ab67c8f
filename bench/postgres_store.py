"""The store in PostgreSQL without a server around it: no-op tasks, claimed and settled in batches.

    python -m bench.postgres_store --nodes 2

Makes a PostgreSQL cluster of its own in a temporary directory, which waits for its disk
with every commit. Each node is a process with one store: it settles the last batch
and claims the next in one transaction, as a busy daemon does.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import multiprocessing
import pstats
import time
from typing import Any

from taskd.durable.ids import Ids
from taskd.store.base import Changes
from taskd.store.postgres import PostgresStore
from taskd.store.records import New, Settle, Start, State, first_seq
from tests.postgres_server import PostgresServer

FUNCTION = "noop"
SUBMITTED = 1000
"""Tasks that are submitted in one transaction."""

SETTINGS = {
    "shared_buffers": "256MB",
    "synchronous_commit": "on",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
}


def fill(dsn: str, count: int) -> float:
    """Submit so many tasks; return how many a second that were."""
    store, ids = PostgresStore(dsn), Ids()
    began = time.perf_counter()
    for _ in range(0, count, SUBMITTED):
        now = time.time()
        news = [New(ids.make(now), FUNCTION, b'["a@example.com"]', keep=3600.0) for _ in range(SUBMITTED)]
        store.write(Changes(submits=news), now)
    took = time.perf_counter() - began
    store.close()
    return count / took


def work(dsn: str, batch: int, barrier: Any, answers: Any, *, profiles: bool) -> None:
    """Claim and settle until nothing waits; answer with the number of tasks, and when they were done."""
    store = PostgresStore(dsn)
    barrier.wait()
    profile = cProfile.Profile()
    if profiles:
        profile.enable()
    began, done = time.time(), 0
    claims = store.write(Changes(want={FUNCTION: batch}), began).claims
    while claims:
        starts = [Start(each.new.id, 1) for each in claims]
        settles = [
            Settle(each.new.id, 1, State.SUCCEEDED, "succeeded", outcome=b"null", seq=first_seq(1) + 1)
            for each in claims
        ]
        written = store.write(
            Changes(starts=starts, settles=settles, want={FUNCTION: batch}), time.time()
        )
        assert all(written.own.settles)
        done += len(claims)
        claims = written.claims
    answers.put((done, began, time.time()))
    if profiles:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    store.close()


def measure(nodes: int, batch: int, count: int, *, profiles: bool) -> None:
    """Print how many tasks a second these nodes have submitted, and claimed and settled."""
    with PostgresServer(fsync=True, settings=SETTINGS) as server:
        dsn = server.dsn(server.create_database())
        submitted = fill(dsn, count)
        context = multiprocessing.get_context("spawn")
        barrier, answers = context.Barrier(nodes), context.Queue()
        processes = [
            context.Process(target=work, args=(dsn, batch, barrier, answers), kwargs={"profiles": profiles})
            for _ in range(nodes)
        ]
        for process in processes:
            process.start()
        found = [answers.get() for _ in processes]
        for process in processes:
            process.join()
        done = sum(each[0] for each in found)
        took = max(each[2] for each in found) - min(each[1] for each in found)
        print(
            f"{nodes} nodes, batches of {batch}: {done / took:,.0f} settled and claimed a second; "
            f"{submitted:,.0f} submitted, {SUBMITTED} at once"
        )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[100])
    parser.add_argument("--count", type=int, default=50_000, help="tasks")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    for nodes, batch in itertools.product(given.nodes, given.batch):
        measure(nodes, batch, given.count, profiles=given.profile)


if __name__ == "__main__":
    main()
