"""Fixtures with a real PostgreSQL, and its log behind the failure of a test that had one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.live.nodes import Node, Nodes
from tests.postgres_server import Database, PostgresServer, fresh_database

LOG_LINES = 100
"""The lines of a server's log that are shown with a failed test."""

_seen: dict[PostgresServer, int] = {}
"""The length of each server's log when the current test began."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for all tests of a run, none of which may stop it or change its settings."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    """An empty database of its own for the test, on the shared server."""
    with fresh_database(postgres) as made:
        yield made


@pytest.fixture
def start_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """Start servers with the arguments of `PostgresServer`, for a test that stops or changes them."""
    with ExitStack() as stack:
        yield lambda **knobs: stack.enter_context(PostgresServer(**knobs))


@pytest.fixture
def nodes(database: Database, tmp_path: Path) -> Iterator[Nodes]:
    """Starts servers that share the test's database."""
    with Nodes(database, tmp_path) as starting:
        yield starting


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Note where each log ends, so that only what the test adds is shown."""
    _seen.clear()
    _seen.update((server, len(server.log)) for server in PostgresServer.running)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Add to the report of a failed test what its servers and nodes have logged meanwhile."""
    report = yield
    if report.failed:
        for server in PostgresServer.running:
            lines = server.log[_seen.get(server, 0) :].splitlines()[-LOG_LINES:]
            report.sections.append((f"log of PostgreSQL at port {server.port}", "\n".join(lines)))
        for node in Node.running:
            lines = node.log.splitlines()[-LOG_LINES:]
            report.sections.append((f"log of the node {node.label}", "\n".join(lines)))
    return report
