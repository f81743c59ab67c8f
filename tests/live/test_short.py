"""Short tasks are sent to a worker in batches, which nothing but the speed may show."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import (
    APPS,
    Connection,
    Daemon,
    Gate,
    data_of,
    lines_of,
    rpc,
)

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "misbehaving.py"))

WITHIN = 0.02
"""Seconds within which tasks behind one that is suddenly long are run elsewhere."""


def results(client: Connection, count: int) -> dict[Any, Any]:
    """Receive so many replies, each to another request and none an error."""
    replies = [client.receive() for _ in range(count)]
    found = {reply["id"]: reply["result"] for reply in replies}
    assert len(found) == count
    return found


def warm_up(daemon: Daemon, notes: Path, client: Connection | None = None) -> Connection:
    """Run `note` until it counts as short; return the connection."""
    client = client or daemon.connect()

    def is_short(status: dict[str, Any]) -> bool:
        client.send(*(rpc(number, "note", str(notes), "warm") for number in range(200)))
        results(client, 200)
        return any(each["short"] for each in status["functions"] if each["name"] == "note")

    daemon.wait_for_status(is_short)
    notes.unlink()
    return client


@pytest.fixture
def short(start: Start, tmp_path: Path) -> Iterator[tuple[Daemon, Connection, Path]]:
    """A server with two workers for which `note` counts as short, a connection, and the file of notes."""
    daemon = start(*Apps, "--workers", "2", "--max-outstanding", "10000").wait_until_ready()
    daemon.wait_for_workers(2)
    client = warm_up(daemon, tmp_path / "notes")
    yield daemon, client, tmp_path / "notes"
    assert daemon.status()["counts"]["lost"] == 0


def test_a_function_counts_as_short_after_many_short_runs(
    short: tuple[Daemon, Connection, Path],
) -> None:
    daemon, client, _ = short
    for _ in range(3):
        assert client.ask(rpc(1, "nap", 0.02))["result"] == 0.02
    known = {each["name"]: each["short"] for each in daemon.status()["functions"]}
    assert known == {"note": True, "nap": False}


def test_short_tasks_behind_one_that_is_suddenly_long_are_run_elsewhere_at_once(
    short: tuple[Daemon, Connection, Path], tmp_path: Path, make_gate: MakeGate
) -> None:
    daemon, client, _ = short
    each = 40
    took = []
    took_without = []
    for number in range(12):
        # A function that was long may no longer count as short.
        warm_up(daemon, tmp_path / "warm", client)
        began = time.monotonic()
        client.send(*(rpc(place, "note", str(tmp_path / "warm"), "plain") for place in range(each)))
        results(client, each)
        took_without.append(time.monotonic() - began)
        before = daemon.status()["counts"]["reclaimed"]
        gate, notes = make_gate(), tmp_path / f"notes {number}"
        # In one write: the long task is the first of its worker's batch.
        began = time.monotonic()
        client.send(
            rpc("long", "note", str(notes), "long", gate.path),
            *(rpc(place, "note", str(notes), str(place)) for place in range(each)),
        )
        assert results(client, each).keys() == set(range(each))
        seconds = time.monotonic() - began
        if daemon.status()["counts"]["reclaimed"] > before:
            took.append(seconds)
        gate.release()
        assert client.receive()["id"] == "long"
        assert sorted(lines_of(notes)) == sorted(["long", *map(str, range(each))])
    # The quickest run shows the cost; runs without a long task show how busy the machine is.
    assert took, "none was ever reclaimed"
    assert min(took) < WITHIN + 3 * sorted(took_without)[6], (took, took_without)


def test_tasks_behind_a_long_one_wait_and_are_run_once_without_another_worker(
    start: Start, tmp_path: Path, gate: Gate
) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    notes = tmp_path / "notes"
    client = warm_up(daemon, notes)
    client.send(rpc("long", "note", str(notes), "long", gate.path))
    client.send(*(rpc(number, "note", str(notes), str(number)) for number in range(40)))
    gate.wait_until_entered()
    daemon.wait_for_status(lambda status: status["workers"][0]["seconds"] > 0.1)
    gate.release()
    assert list(results(client, 41)) == ["long", *range(40)]
    assert lines_of(notes) == ["long", *map(str, range(40))]


def test_a_reclaimed_task_is_run_by_a_worker_that_is_free_later(
    short: tuple[Daemon, Connection, Path], make_gate: MakeGate
) -> None:
    _, client, notes = short
    busy, sudden = make_gate(), make_gate()
    client.send(busy.rpc("busy"))
    busy.wait_until_entered()
    client.send(rpc("sudden", "note", str(notes), "sudden", sudden.path))
    client.send(*(rpc(number, "note", str(notes), str(number)) for number in range(60)))
    sudden.wait_until_entered()
    busy.release()
    found = results(client, 61)
    assert found.keys() == {"busy", *range(60)}
    sudden.release()
    assert client.receive()["id"] == "sudden"
    assert sorted(lines_of(notes)) == sorted(["sudden", *map(str, range(60))])


def test_many_suddenly_long_tasks_among_short_ones_are_each_run_once(start: Start, tmp_path: Path) -> None:
    daemon = start(*Apps, "--workers", "4", "--max-outstanding", "10000").wait_until_ready()
    notes = tmp_path / "notes"
    client = warm_up(daemon, notes)
    count = 3000
    for number in range(count):
        seconds = 0.03 if number % 100 == 0 else 0.0
        client.send(rpc(number, "note", str(notes), str(number), "", seconds))
    assert results(client, count).keys() == set(range(count))
    assert sorted(lines_of(notes)) == sorted(map(str, range(count)))


def test_no_short_task_waits_for_a_long_one_while_a_worker_is_idle(
    start: Start, make_gate: MakeGate, tmp_path: Path
) -> None:
    daemon = start(*Apps, "--workers", "3", "--max-outstanding", "10000").wait_until_ready()
    notes = tmp_path / "notes"
    client = warm_up(daemon, notes)
    gates = [make_gate(), make_gate()]
    messages = [rpc(number, "note", str(notes), str(number)) for number in range(300)]
    messages.insert(200, gates[1].rpc("long too"))
    messages.insert(100, gates[0].rpc("long"))
    client.send(*messages)
    # Two tasks wait; the third worker runs all the others.
    assert results(client, 300).keys() == set(range(300))
    for gate in gates:
        gate.release()
    assert results(client, 2).keys() == {"long", "long too"}
    assert sorted(lines_of(notes)) == sorted(map(str, range(300)))


def test_a_time_limit_counts_from_the_start_of_each_task_in_a_batch(
    short: tuple[Daemon, Connection, Path],
) -> None:
    """The last task of a batch begins much later than the first."""
    _, client, notes = short
    count = 2000
    client.send(
        *(rpc(number, "note", str(notes), str(number), options={"timeout": 0.25}) for number in range(count))
    )
    assert results(client, count).keys() == set(range(count))


def test_only_the_task_over_its_limit_is_stopped_among_many_in_a_batch(
    short: tuple[Daemon, Connection, Path], gate: Gate
) -> None:
    daemon, client, notes = short
    client.send(rpc("long", "note", str(notes), "long", gate.path, options={"timeout": 0.3}))
    client.send(*(rpc(number, "note", str(notes), str(number)) for number in range(100)))
    replies = {reply["id"]: reply for reply in (client.receive() for _ in range(101))}
    assert data_of(replies.pop("long"), -32001)["limit"] == "timeout"
    assert {number: reply["result"] for number, reply in replies.items()} == {
        number: str(number) for number in range(100)
    }
    assert sorted(lines_of(notes)) == sorted(["long", *map(str, range(100))])
    assert daemon.status()["counts"]["workers_started"] == 2


def test_tasks_of_a_stopped_worker_cannot_be_reclaimed_and_nothing_is_run_twice(
    short: tuple[Daemon, Connection, Path],
) -> None:
    """A stopped worker keeps the tasks that it may have started; when it continues, it runs them once."""
    daemon, client, notes = short
    first, _ = daemon.workers
    os.kill(first, signal.SIGSTOP)
    client.send(*(rpc(number, "note", str(notes), str(number)) for number in range(200)))
    # The other worker runs the rest.
    daemon.wait_for_status(
        lambda status: (
            status["waiting"] == 0 and [worker["state"] for worker in status["workers"]].count("busy") <= 1
        )
    )
    os.kill(first, signal.SIGCONT)
    assert results(client, 200).keys() == set(range(200))
    assert sorted(lines_of(notes)) == sorted(map(str, range(200)))


def test_progress_of_short_tasks_goes_to_the_right_request(start: Start) -> None:
    daemon = start("--workers", "2", "--max-outstanding", "10000").wait_until_ready()
    client = daemon.connect()
    count = 600
    for number in range(count):
        client.send(rpc(number, "count", 1, options={"progress": number % 3 == 0}))
    reported, found = [], []
    while len(found) < count:
        reply = client.receive()
        if "method" in reply:
            assert reply["params"]["done"] == 1
            assert reply["params"]["id"] not in found
            reported.append(reply["params"]["id"])
        else:
            assert reply["result"] == 1
            found.append(reply["id"])
    assert sorted(reported) == list(range(0, count, 3))
    assert sorted(found) == list(range(count))


def test_a_reply_does_not_wait_until_the_client_has_acknowledged_the_one_before(start: Start) -> None:
    """Of two small replies a moment apart, the kernel would delay the second by 40 ms."""
    daemon = start("--workers", "1").wait_until_ready()
    client = daemon.connect()
    took = []
    for _ in range(50):
        began = time.monotonic()
        client.send(rpc("ping", "taskd.ping"), rpc("nap", "nap", 0.001))
        assert [client.receive()["id"], client.receive()["id"]] == ["ping", "nap"]
        took.append(time.monotonic() - began)
    # The kernel delays none of the first ones; on a busy machine some are late, but not all.
    assert min(took[len(took) // 2 :]) < WITHIN
