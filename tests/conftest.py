"""Fixtures of tests/live and tests/contracts that start and stop real servers."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.live.support import APPS, Daemon, Drop, Gate, processes_marked
from tests.postgres_fixtures import (  # noqa: F401 (fixtures and hooks are found by their names)
    database,
    nodes,
    postgres,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    start_postgres,
)
from tests.run import UNRECORDED

RECORDING = {name: value for name, value in os.environ.items() if name == "COVERAGE_PROCESS_CONFIG"}
"""The environment variable that has coverage record a process; set if this process is recorded."""


def pytest_configure() -> None:
    """Have servers accept SIGINT: a shell starts background jobs with it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def recording(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have coverage record a module's servers if they run code that others do not: it doubles the cost."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.name in UNRECORDED:
            for name in RECORDING:
                patch.delenv(name)
        yield


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start servers with the given options; each is stopped at the end and must leave no process behind."""
    started: list[Daemon] = []

    def start_one(*options: str, **more: object) -> Daemon:
        if "--app" not in options and not more.get("web") and "none" not in options:
            options = ("--app", str(APPS / "plain.py"), *options)
        daemon = Daemon(*options, **{"directory": tmp_path, **more})
        started.append(daemon)
        return daemon

    yield start_one
    for daemon in started:
        daemon.stop()
        daemon.wait_until_gone()


@pytest.fixture
def daemon(start: Callable[..., Daemon]) -> Daemon:
    """A server with four workers and the functions of `apps/plain.py`, ready."""
    return start("--workers", "4").wait_until_ready()


@pytest.fixture
def pool_name(tmp_path: Path) -> Iterator[str]:
    """A name for a server that the test starts itself; processes that it leaves behind are killed."""
    name = f"test-{os.getpid()}-{tmp_path.name}"
    yield name
    for pid in processes_marked(name):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def make_gate(tmp_path: Path, start: Callable[..., Daemon]) -> Iterator[Callable[[], Gate]]:
    """Make gates at which tasks wait; all are opened before the servers are stopped."""
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(tmp_path / f"gate-{len(gates)}"))
        return gates[-1]

    yield make
    for gate in gates:
        gate.tear_down()


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    """One gate."""
    return make_gate()


@pytest.fixture
def make_drop(tmp_path: Path) -> Iterator[Callable[[], Drop]]:
    """Make FIFOs that tasks write into, each once."""
    drops: list[Drop] = []

    def make() -> Drop:
        drops.append(Drop(tmp_path / f"drop-{len(drops)}"))
        return drops[-1]

    yield make
    for drop in drops:
        drop.tear_down()


@pytest.fixture
def drop(make_drop: Callable[[], Drop]) -> Drop:
    """A FIFO that a task writes into."""
    return make_drop()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server like `daemon`, shared by all tests that only read it."""
    directory = tmp_path_factory.mktemp("shared")
    daemon = Daemon("--app", str(APPS / "plain.py"), "--workers", "4", directory=directory, env=RECORDING)
    try:
        yield daemon.wait_until_ready()
        assert "Unhandled" not in daemon.log
        assert "a bug in taskd" not in daemon.log
    finally:
        daemon.stop()
        daemon.wait_until_gone()


# What imports the reactor is imported late: pytest-twisted installs its own
# after this file is loaded.


@pytest.fixture
def clean_start(start: Callable[..., Daemon]) -> Iterator[Callable[..., Daemon]]:
    """Like `start`; at the end the servers must not have logged an internal error."""
    from twisted.internet.threads import deferToThread

    started: list[Daemon] = []

    def start_one(*options: str, **more: object) -> Daemon:
        started.append(start(*options, **more))
        return started[-1]

    yield start_one
    for daemon in started:
        # In a thread, so that clients in this process close their connections meanwhile.
        pytest_twisted.blockon(deferToThread(daemon.stop))
        assert "Unhandled" not in daemon.log, daemon.log
        assert "a bug in taskd" not in daemon.log, daemon.log


@pytest.fixture
def websocket() -> Iterator[Callable[..., Any]]:
    """Open websockets (`open_websocket`); each is dropped at the end."""
    from tests.live.peers import open_websocket, within

    opened: list[Any] = []

    async def open_one(url: str, **more: Any) -> Any:
        opened.append(await open_websocket(url, **more))
        return opened[-1]

    yield open_one
    for one in opened:
        one.go()
        pytest_twisted.blockon(within(one.closed))


@pytest.fixture
def fake() -> Iterator[Callable[..., Any]]:
    """Start fake task servers, each with a function that handles its messages."""
    from tests.live.peers import FakeTaskServer

    servers: list[FakeTaskServer] = []

    def start_one(*behaviour: Callable[..., None]) -> FakeTaskServer:
        servers.append(FakeTaskServer(*behaviour))
        return servers[-1]

    yield start_one
    for server in servers:
        pytest_twisted.blockon(server.close())


@pytest.fixture
def make_client() -> Iterator[Callable[..., Any]]:
    """Make clients of the server with an address; each is closed at the end."""
    from twisted.internet import reactor

    from taskd.client import TaskClient

    clients: list[TaskClient] = []

    def make(server: str, **more: Any) -> TaskClient:
        clients.append(TaskClient(reactor, server, **more))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def refusing() -> Iterator[str]:
    """The client endpoint string of a local port without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"tcp:127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """The client endpoint string of a local port where connections are neither accepted nor refused."""
    with socket.socket() as listening, socket.socket() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)  # one may wait to be accepted; the kernel ignores the rest
        waiting.connect(listening.getsockname())
        yield f"tcp:127.0.0.1:{listening.getsockname()[1]}"
