"""`taskd drill`: on a store that lasts nothing is lost, on another that is found; and no process is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import SOON, TASKD, TIMEOUT, title_of
from tests.postgres_server import PASSWORD, PostgresServer

SEED = 1
"""Always the same, so that a failure can be repeated."""

DRILL_SECONDS = 120.0
"""Seconds after which a drill of a few seconds has failed: it limits itself to less."""


class Drilling:
    """A drill in a directory of its own; its lines on stderr are in `lines` as far as they were read."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [*TASKD, "drill", "--seed", str(SEED), *arguments],
            cwd=directory,
            env={**os.environ, "TMPDIR": str(directory), "TASKD_WORKERS": "not for the nodes"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_line(self, pattern: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if re.search(pattern, line):
                return
        raise AssertionError(f"it ended without a line with {pattern}")

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and what it printed."""
        output, errors = self.process.communicate(timeout=DRILL_SECONDS)
        self.errors = errors
        return self.process.returncode, output

    def report(self) -> tuple[int, dict[str, Any]]:
        status, output = self.end()
        return status, json.loads(output)

    def left(self) -> list[str]:
        """Return the titles of the processes of its nodes that are left."""
        mark = f"taskd[drill-{self.process.pid}-"
        pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
        return [title for pid in pids if mark in (title := title_or_nothing(pid))]


def title_or_nothing(pid: int) -> str:
    try:
        return title_of(pid)
    except OSError:
        return ""


def test_a_drill_on_sqlite_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    drilling = Drilling(tmp_path, "--seconds", "12", "--json")
    status, report = drilling.report()
    assert (status, report["verdict"], report["faults"]) == (0, "nothing was lost", {}), report
    assert report["kills"]["worker killed"] > 0
    assert report["kills"]["node killed"] > 0
    assert report["accepted"] == report["asked"] == report["settled"] > 100
    assert report["runs"] >= report["states"]["succeeded"]
    assert (report["once_twice"], report["ended_twice"], report["stale"]) == (0, 0, 0)
    assert drilling.left() == []
    assert list(tmp_path.iterdir()) == []


def test_a_drill_on_a_store_that_does_not_last_finds_what_is_lost(tmp_path: Path) -> None:
    drilling = Drilling(tmp_path, "--seconds", "5", "--store", "memory", "--kill", "nodes")
    status, output = drilling.end()
    assert status == 1
    assert re.match(r"taskd drill: FAILED: [\d,]+ lost", output), output
    assert re.search(r"- task \S+ \(\w+ \d+\) was accepted, and is not in the store", output)
    kept = re.search(r"^files +(.*)$", output, re.MULTILINE)
    assert kept is not None
    assert {"runs", "node-1.log"} <= {path.name for path in Path(kept[1]).iterdir()}


def test_an_interrupted_drill_reports_what_it_has_and_leaves_nothing(tmp_path: Path) -> None:
    drilling = Drilling(tmp_path, "--seconds", "600", "--json", "--keep", "kept")
    drilling.wait_for_line("node killed")
    drilling.process.send_signal(signal.SIGINT)
    status, report = drilling.report()
    assert (status, report["interrupted"], report["verdict"]) == (130, True, "nothing was lost"), report
    assert report["accepted"] > 0
    assert drilling.left() == []
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "tasks.db").exists()


def test_a_killed_drill_takes_its_nodes_with_it(tmp_path: Path) -> None:
    drilling = Drilling(tmp_path, "--seconds", "600", "--kill", "")
    drilling.wait_for_line("has started")
    assert drilling.left()
    drilling.process.kill()
    drilling.process.communicate(timeout=TIMEOUT)
    wait_until_gone(drilling)


def wait_until_gone(drilling: Drilling) -> None:
    ending = time.monotonic() + SOON
    while left := drilling.left():
        assert time.monotonic() < ending, left


@pytest.fixture
def drill_user(postgres: PostgresServer) -> Iterator[str]:
    """Make a user who may make databases."""
    name = "drill"
    postgres.sql(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD '{PASSWORD}'")
    yield name
    postgres.sql(f"DROP ROLE {name}")


def databases(server: PostgresServer) -> list[str]:
    return [
        name for (name,) in server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'taskd_drill%'")
    ]


def test_a_drill_of_two_nodes_on_postgresql_loses_nothing_and_leaves_nothing(
    tmp_path: Path, postgres: PostgresServer, drill_user: str
) -> None:
    store = postgres.dsn(user=drill_user)
    drilling = Drilling(tmp_path, "--store", store, "--nodes", "2", "--seconds", "10", "--json")
    status, report = drilling.report()
    assert (status, report["verdict"], report["faults"]) == (0, "nothing was lost", {}), report
    assert {"worker killed", "node killed", "link cut"} <= report["kills"].keys()
    assert report["accepted"] == report["asked"] == report["settled"] > 100
    assert PASSWORD not in json.dumps(report) + drilling.errors
    assert drilling.left() == []
    assert (databases(postgres), list(tmp_path.iterdir())) == ([], [])


def test_a_link_to_postgresql_by_its_socket_is_cut_too(
    tmp_path: Path, postgres: PostgresServer, drill_user: str
) -> None:
    store = f"postgres:host={postgres.directory} port={postgres.port} user={drill_user} dbname=postgres"
    drilling = Drilling(tmp_path, "--store", store, "--kill", "store-link", "--seconds", "4", "--json")
    status, report = drilling.report()
    assert (status, report["faults"]) == (0, {}), report
    assert report["kills"].keys() <= {"link cut", "link silent"}
    assert report["kills"]["link cut"] > 0
    assert report["accepted"] == report["settled"] > 50
    assert databases(postgres) == []


def test_a_user_who_may_make_no_database_learns_what_to_do(tmp_path: Path, postgres: PostgresServer) -> None:
    drilling = Drilling(tmp_path, "--store", postgres.dsn())
    status, _ = drilling.end()
    assert status == 2
    assert "ALTER ROLE taskd CREATEDB" in drilling.errors
    assert PASSWORD not in drilling.errors


def test_a_drill_that_cannot_be_made_ends_with_the_reason(tmp_path: Path) -> None:
    for arguments, reason in (
        (["--store", "postgres:host=127.0.0.1 port=1"], "is the server running there"),
        (["--kill", "workers,databases"], "'databases' is none of workers, nodes, store-link"),
        (["--keep", "."], "exists already"),
    ):
        drilling = Drilling(tmp_path, *arguments)
        status, _ = drilling.end()
        assert status == 2
        assert reason in drilling.errors
    assert list(tmp_path.iterdir()) == []
