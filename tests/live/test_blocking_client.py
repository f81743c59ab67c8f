"""`Client` against real servers: every way to reach one, threads, forks, restarts, proxies and interrupts."""

from __future__ import annotations

import importlib.util
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme

from taskd.client import Client
from taskd.client.addresses import server_address
from taskd.client.exchanges import Exchanges
from taskd.client.words import NO_WORDS, call_of
from taskd.errors import (
    Cancelled,
    InvalidParams,
    MethodNotFound,
    NotAllowed,
    TaskFailed,
    TimedOut,
    TooLarge,
    Unreachable,
    WaitTimeout,
)
from taskd.model import Progress
from tests.live.proxy import Proxy
from tests.live.support import APPS, TIMEOUT, Daemon, Drop, Gate

APP = APPS / "typed.py"
Start = Callable[..., Daemon]


@pytest.fixture(scope="module")
def app() -> ModuleType:
    """The app as a program imports it that calls its functions."""
    spec = importlib.util.spec_from_file_location("typed_app", APP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server:
    """A server that listens in every way, with the addresses for clients."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)
        certificate = self.ca.issue_cert("localhost")
        own = directory / "server.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(own)
        self.client_file = directory / "client.pem"
        self.ca.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(
            self.client_file
        )
        tls = f"interface=127.0.0.1:privateKey={own}:certKey={own}"
        self.path = directory / "socket"
        self.daemon = Daemon(
            *("--app", str(APP), "--workers", "3", "--store", "sqlite:tasks.db"),
            *("--listen", "tcp:0:interface=127.0.0.1", "--websocket", "tcp:0:interface=127.0.0.1"),
            *(
                "--listen",
                f"ssl:0:interface=127.0.0.1:{tls}",
                "--listen",
                f"ssl:0:interface=127.0.0.1:{tls}:clientCA={self.ca_file}",
            ),
            *("--listen", f"unix:{self.path}", "--websocket", f"ssl:0:interface=127.0.0.1:{tls}"),
            directory=directory,
        ).wait_until_ready()
        ports = self.ports()
        trust = f"trustRoots={self.ca_file}"
        self.addresses = {
            "tcp": f"127.0.0.1:{ports['tcp', 1]}",
            "unix": f"unix:{self.path}",
            "tls": f"tls:localhost:{ports['tls', 1]}:{trust}",
            "client certificate": f"tls:localhost:{ports['tls', 2]}:{trust}:certificate={self.client_file}",
            "ws": f"ws://127.0.0.1:{ports['ws', 1]}",
        }
        self.wss = f"wss://localhost:{ports['wss', 1]}"
        self.tls_port = ports["tls", 1]

    def ports(self) -> dict[tuple[str, int], int]:
        """Return the number of each TCP port, by the kind of endpoint and its place among those."""
        return {
            ("tcp", 1): self.daemon.port(1),
            ("tls", 1): self.daemon.port(2),
            ("tls", 2): self.daemon.port(3),
            ("ws", 1): self.daemon.port(4),
            ("wss", 1): self.daemon.port(5),
        }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests that do not stop it."""
    server = Server(tmp_path_factory.mktemp("blocking"))
    yield server
    server.daemon.stop()
    server.daemon.wait_until_gone()
    assert "a bug in taskd" not in server.daemon.log
    assert "Unhandled" not in server.daemon.log


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client over TCP."""
    with Client(server.addresses["tcp"]) as client:
        yield client


WAYS = ["tcp", "unix", "tls", "client certificate", "ws"]


# --- the ways ----------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_function_is_called_in_every_way(way: str, server: Server, app: ModuleType) -> None:
    with Client(server.addresses[way]) as client:
        assert client.call(app.report, 3) == "3 pages of A4"
        assert client.call(app.report, 3, color=True) == "3 pages of A4 in color"
        assert client.call("report", pages=2, paper="A5") == "2 pages of A5"
        assert client.call(app.length, "abc") == 3
        assert client.call(app.squares, 4) == [0, 1, 4, 9]
        assert client.call(app.halves, 3) == [0.0, 0.5, 1.0]
        assert client.call(app.sent, from_="a@x") == "a@x"
        long = "x" * 3_000_000
        assert client.call(app.sent, long) == long
        reports: list[Progress] = []
        assert client.with_options(on_progress=reports.append).call(app.steps, 3) == 3
        assert reports[-1] == Progress(3, 3)


@pytest.mark.parametrize("way", WAYS)
def test_errors_are_those_of_taskd(way: str, server: Server, app: ModuleType) -> None:
    with Client(server.addresses[way]) as client:
        with pytest.raises(TaskFailed, match="ValueError: no paper") as failed:
            client.call(app.fail)
        assert failed.value.data["type"] == "ValueError"
        with pytest.raises(MethodNotFound):
            client.call("no_such_function")
        with pytest.raises(InvalidParams) as invalid:
            client.call("report", pages="three")
        assert invalid.value.data["argument"] == "pages"
        with pytest.raises(TimedOut):
            client.with_options(timeout=0.05).call(app.slow, 30)
        assert client.call(app.report, 1) == "1 pages of A4"


def test_a_gateway_with_tls_is_reached_with_a_context_of_the_program(server: Server, app: ModuleType) -> None:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    with Client(server.wss, tls=context) as client:
        assert client.call(app.report, 3) == "3 pages of A4"


def test_the_address_comes_from_the_environment(
    server: Server, app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKD_SERVER", server.addresses["unix"])
    with Client() as client:
        assert client.call(app.report, 3) == "3 pages of A4"


def test_a_wrong_name_an_unknown_ca_and_a_missing_certificate_are_refused(server: Server) -> None:
    def why(address: str) -> str:
        with Client(address) as client, pytest.raises(Unreachable) as refused:
            client.ping()
        assert refused.value.data["sent"] is False
        return refused.value.message

    trust = f"trustRoots={server.ca_file}"
    assert "wrong name" in why(f"tls:127.0.0.1:{server.tls_port}:{trust}")
    assert "the certificate of localhost was refused" in why(f"tls:localhost:{server.tls_port}")
    assert "does not speak TLS" in why(f"tls:{server.addresses['tcp']}:{trust}")


def test_a_port_of_another_protocol_is_named(server: Server) -> None:
    with Client(f"127.0.0.1:{server.tls_port}") as client, pytest.raises(Unreachable) as refused:
        client.call("report", 3)
    assert "speaks TLS" in refused.value.message
    assert refused.value.data["sent"] is False
    gateway = server.addresses["ws"].removeprefix("ws://")
    with Client(gateway) as client, pytest.raises(Unreachable, match="speaks HTTP"):
        client.call("report", 3)
    with Client(f"ws://{server.addresses['tcp']}") as client, pytest.raises(Unreachable, match="task server"):
        client.call("report", 3)


@pytest.mark.parametrize("way", WAYS)
def test_a_message_over_the_limit_is_refused_once(way: str, server: Server, app: ModuleType) -> None:
    with Client(server.addresses[way]) as client:
        for size in (11_000_000, 40_000_000):
            with pytest.raises(TooLarge):
                client.call(app.sent, "x" * size)
        assert client.call(app.report, 3) == "3 pages of A4"


# --- waiting -----------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_wait_that_takes_too_long_cancels_the_task(
    way: str, server: Server, app: ModuleType, drop: Drop
) -> None:
    with Client(server.addresses[way]) as client:
        with pytest.raises(WaitTimeout, match="slow has not answered within"):
            client.with_options(wait=2.0).call(app.slow, 60, drop.path)
        assert drop.receive() == "cancelled"
        assert client.call(app.report, 3) == "3 pages of A4"


def test_a_callback_that_raises_ends_the_call_and_the_task(
    client: Client, app: ModuleType, drop: Drop
) -> None:
    def refuse(_: Progress) -> None:
        raise LookupError("not today")

    with pytest.raises(LookupError):
        client.with_options(on_progress=refuse).call(app.steps, 1000, 0.05)
    assert client.call(app.report, 3) == "3 pages of A4"


INTERRUPTED = """
import sys
from taskd.client import Client

client = Client(sys.argv[1]).with_options(on_progress=lambda progress: print("running", flush=True))
try:
    client.call("steps_until_cancelled", mark=sys.argv[2])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("way", ["tcp", "tls", "ws"])
def test_ctrl_c_cancels_the_task_and_closes_the_connection(way: str, server: Server, drop: Drop) -> None:
    before = server.daemon.status()["connections"]
    program = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, server.addresses[way], drop.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "running\n"
    program.send_signal(signal.SIGINT)
    output, errors = program.communicate(timeout=TIMEOUT)
    assert output.splitlines()[-1] == "interrupted", errors
    assert drop.receive() == "cancelled"
    server.daemon.wait_for_status(lambda status: status["connections"] <= before)


# --- threads and forks -------------------------------------------------------


@pytest.mark.parametrize("way", ["tcp", "ws"])
def test_threads_share_a_client(way: str, server: Server) -> None:
    with Client(server.addresses[way], pool=3) as client, ThreadPoolExecutor(8) as threads:

        def ask(number: int) -> bool:
            return bool(client.call("report", number) == f"{number} pages of A4")

        assert all(threads.map(ask, range(200)))


def test_a_forked_process_makes_connections_of_its_own(client: Client, server: Server) -> None:
    assert client.call("report", 1) == "1 pages of A4"
    children = []
    for _ in range(2):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                if all(client.call("report", number) == f"{number} pages of A4" for number in range(50)):
                    status = 0
            finally:
                os._exit(status)
        children.append(pid)
    for number in range(100, 150):
        assert client.call("report", number) == f"{number} pages of A4"
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- lost and stale connections ----------------------------------------------


def test_a_connection_that_was_closed_while_it_was_idle_is_not_used(server: Server) -> None:
    with closing(Proxy(server.daemon.port(1))) as proxy, Client(proxy.address) as client:
        client.ping()
        client.ping()
        assert proxy.connections == 1
        proxy.cut()
        client.ping()
        assert client.call("report", 3) == "3 pages of A4"


def test_a_call_whose_connection_is_lost_is_not_sent_again(
    server: Server, gate: Gate, app: ModuleType
) -> None:
    with closing(Proxy(server.daemon.port(1))) as proxy, Client(proxy.address) as client:
        with ThreadPoolExecutor(1) as thread:
            call = thread.submit(client.call, "enter", gate.path)
            gate.wait_until_entered()
            proxy.cut()
            error = call.exception(TIMEOUT)
        assert isinstance(error, Unreachable)
        assert error.data["sent"] is True
        assert "may have run" in error.message
        gate.release()
        assert proxy.connections == 1
        assert client.call("report", 3) == "3 pages of A4"


def test_a_call_that_cannot_be_sent_waits_for_a_server_that_restarts(start: Start, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    options = ("--app", str(APP), "--workers", "1", "--listen", address)
    first = start(*options).wait_until_ready()
    with Client(address, connect_timeout=TIMEOUT) as client:
        assert client.call("report", 1) == "1 pages of A4"
        first.stop()
        with ThreadPoolExecutor(1) as thread:
            call = thread.submit(client.call, "report", 2)
            start(*options)
            assert call.result(TIMEOUT) == "2 pages of A4"


def test_a_server_that_is_not_there_is_reported_after_the_time_to_connect(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "nothing"), connect_timeout=0.2)
    with pytest.raises(Unreachable, match="cannot be reached: no such file or directory") as error:
        client.call("report", 2)
    assert error.value.data == {"server": str(tmp_path / "nothing"), "sent": False}


@pytest.mark.parametrize("ping_interval", [0.1, 30.0])
def test_only_the_heartbeat_gets_a_call_through_a_proxy_that_cuts_silent_connections(
    ping_interval: float, server: Server
) -> None:
    call = call_of(NO_WORDS, "slow", (1.5,), {})
    with closing(Proxy(server.daemon.port(1), idle=0.5)) as proxy:
        exchanges = Exchanges(server_address(proxy.address), None, 1, 1.0, ping_interval)
        if ping_interval < 0.5:
            assert exchanges.call(call, "slow") == 1.5
        else:
            with pytest.raises(Unreachable, match="may have run"):
                exchanges.call(call, "slow")
        exchanges.close()


# --- many calls --------------------------------------------------------------


@pytest.mark.parametrize("way", ["tcp", "ws"])
def test_map_yields_results_as_they_come(way: str, server: Server, app: ModuleType) -> None:
    with Client(server.addresses[way]) as client:
        rows = [(0.4,), {"seconds": 0.05}, 0.0]
        found = list(client.map(app.slow, rows, concurrency=3))
        assert [row for row, _ in found][-1] == (0.4,)
        assert {str(row): result for row, result in found} == {
            "(0.4,)": 0.4,
            "{'seconds': 0.05}": 0.05,
            "0.0": 0.0,
        }
        assert sorted(client.map("report", range(300), concurrency=200)) == [
            (number, f"{number} pages of A4") for number in range(300)
        ]


def test_the_first_error_ends_map_unless_errors_are_wanted(client: Client, app: ModuleType) -> None:
    with pytest.raises(TaskFailed):
        list(client.map(app.fail, ["a", "b"]))
    found = list(client.map(app.fail, ["a", "b"], return_exceptions=True))
    texts = sorted((row, str(error)) for row, error in found)
    assert texts == [("a", "ValueError: a"), ("b", "ValueError: b")]
    [(_, error)] = client.with_options(wait=0.1).map(app.slow, [60], return_exceptions=True)
    assert isinstance(error, WaitTimeout)


def test_a_map_that_is_left_cancels_what_is_in_flight(client: Client, gate: Gate, drop: Drop) -> None:
    rows = [{"path": ""}, {"path": gate.path, "mark": drop.path}]
    for row, _ in client.map("enter", rows, concurrency=2):
        assert row == rows[0]
        gate.wait_until_entered()
        break
    assert drop.receive() == "cancelled"


def test_a_map_goes_on_over_another_connection_with_what_was_not_sent(server: Server, gate: Gate) -> None:
    with closing(Proxy(server.daemon.port(1))) as proxy, Client(proxy.address) as client:
        found: list[Any] = []

        def collect() -> None:
            rows = [gate.path, *[""] * 20]
            found.extend(client.map("enter", rows, concurrency=1, return_exceptions=True))

        thread = threading.Thread(target=collect)
        thread.start()
        gate.wait_until_entered()
        proxy.cut()
        thread.join(TIMEOUT)
        gate.release()
    assert len(found) == 21
    assert isinstance(found[0][1], Unreachable)
    assert found[0][1].data["sent"] is True
    assert [result for _, result in found[1:]] == [""] * 20


# --- stored tasks ------------------------------------------------------------


@pytest.mark.parametrize("way", ["tcp", "ws"])
def test_a_task_is_submitted_and_found_again(way: str, server: Server, app: ModuleType) -> None:
    with Client(server.addresses[way]) as client:
        task = client.submit(app.report, 7)
        assert task.result(TIMEOUT) == "7 pages of A4"
        assert not task.joined
        again = client.task(task.id)
        assert again.state() == "succeeded"
        events = list(again.events())
        assert [event.event for event in events] == ["queued", "started", "succeeded"]
        assert events[-1].data == {"result": "7 pages of A4"}
        assert list(again.events(after=events[1].seq)) == events[2:]
        assert list(again.events(after=-1)) == []
        assert again.cancel() == "done"


def test_a_failed_task_raises_its_error_and_can_be_put_back(client: Client, app: ModuleType) -> None:
    task = client.submit(app.fail, "no ink")
    with pytest.raises(TaskFailed, match="ValueError: no ink"):
        task.result(TIMEOUT)
    assert task.state() == "failed"
    assert task.retry() == "failed"
    with pytest.raises(TaskFailed, match="ValueError: no ink"):
        task.result(TIMEOUT)
    assert [event.event for event in task.events()] == ["queued", "started", "failed"] * 2
    done = client.submit(app.report, 1)
    done.result(TIMEOUT)
    with pytest.raises(NotAllowed):
        done.retry()


def test_a_task_that_is_scheduled_says_why_it_waits_and_can_be_cancelled(
    client: Client, app: ModuleType
) -> None:
    later = client.with_options(delay=60, key="only one")
    task = later.submit(app.report, 1)
    assert later.submit(app.report, 2).id == task.id
    assert later.submit(app.report, 2).joined
    assert task.state() == "scheduled"
    assert "not due yet" in task.why()["reason"]
    with pytest.raises(WaitTimeout, match="it goes on"):
        task.result(0.05)
    assert task.cancel() == "scheduled"
    with pytest.raises(Cancelled):
        task.result()


def test_a_task_that_nobody_knows_is_an_error_when_it_is_used(client: Client) -> None:
    for use in (client.task("7").state, client.task("7").result, client.batch("7").result):
        with pytest.raises(InvalidParams):
            use()


@pytest.mark.parametrize("way", ["tcp", "ws"])
def test_a_batch_is_counted(way: str, server: Server, app: ModuleType) -> None:
    with Client(server.addresses[way]) as client:
        batch = client.submit_batch(app.report, [(1,), {"pages": 2}, 3])
        done = {"done": 3, "failed": 0, "cancelled": 0, "total": 3, "state": "succeeded"}
        assert batch.result(TIMEOUT) == done
        assert len(batch.tasks) == 3
        assert client.task(batch.tasks[1]).result() == "2 pages of A4"
        again = client.batch(batch.id)
        assert again.state() == "succeeded"
        assert [event.event for event in again.events()][-1] == "ended"
        assert again.cancel() == "done"


def test_events_go_on_after_a_lost_connection_and_none_comes_twice(server: Server, gate: Gate) -> None:
    with closing(Proxy(server.daemon.port(1))) as proxy, Client(proxy.address) as client:
        task = client.submit("enter", gate.path)
        seen = []
        for event in task.events():
            seen.append(event)
            if event.event == "started":
                gate.wait_until_entered()
                proxy.cut()
                gate.release()
        assert [event.event for event in seen] == ["queued", "started", "succeeded"]
        assert proxy.connections == 2


def test_a_result_is_awaited_over_a_restart_of_the_server(start: Start, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    options = ("--app", str(APP), "--workers", "1", "--listen", address, "--store", "sqlite:tasks.db")
    first = start(*options).wait_until_ready()
    with Client(address) as client, ThreadPoolExecutor(2) as threads:
        task = client.with_options(delay=1.0).submit("report", 2)
        result = threads.submit(task.result, TIMEOUT)
        events = threads.submit(lambda: [event.event for event in task.events()])
        first.stop()
        start(*options)
        assert result.result(TIMEOUT) == "2 pages of A4"
        assert events.result(TIMEOUT) == ["queued", "started", "succeeded"]


# --- the server, and the end -------------------------------------------------


def test_the_server_tells_what_it_does(client: Client) -> None:
    client.ping()
    assert {"report", "text.length"} <= {each["name"] for each in client.functions()}
    assert client.status()["min_workers"] == 3


def test_a_closed_client_refuses_calls(server: Server) -> None:
    client = Client(server.addresses["tcp"])
    client.ping()
    client.with_options(timeout=1).close()
    with pytest.raises(RuntimeError, match="closed"):
        client.ping()


def test_the_import_of_a_client_costs_little() -> None:
    """A program that blocks imports neither Twisted nor what only servers, apps or some addresses need."""
    unwanted = ("twisted", "autobahn", "wsproto", "asyncio", "ssl", "cronsim", "zoneinfo", "dataclasses")
    code = f"""
import sys
from taskd.client import Client
print(*[name for name in {unwanted!r} if name in sys.modules])
"""
    unrecorded = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=unrecorded
    )
    assert ran.stdout.split() == []
