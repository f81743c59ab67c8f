"""Health checks, metrics and traces of real daemons."""

import http.client
import json
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskd.client import Client
from tests.live.support import APPS, TIMEOUT, bare, kept_daemon, open_websocket

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    options = ("--app", str(APPS / "traced.py"), "--workers", "1", "--store", "memory")
    with kept_daemon(*options, directory=tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def gateway(daemon, tmp_path_factory):
    """A gateway alone, whose first task server does not exist."""
    options = ("--listen", "none", "--task-server", "tcp:127.0.0.1:1", "--task-server", daemon.tcp)
    directory = tmp_path_factory.mktemp("gateway")
    with kept_daemon(*options, directory=directory, ready="listening on") as gateway:
        yield gateway


def get(port, path, **headers):
    """Return the status and the body of the response to a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def samples(port):
    """Return the samples of the metrics by their names and labels."""
    status, text = get(port, "/metrics")
    assert status == 200, text
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_daemon_and_a_gateway_in_front_of_it_are_ready(daemon, gateway):
    for port in (daemon.port(2), gateway.port(1)):
        assert get(port, "/healthz") == (200, "ok\n")
        status, body = get(port, "/readyz")
        assert (status, json.loads(body)) == (200, {"ready": True})


def test_a_gateway_whose_task_server_is_gone_lives_and_is_not_ready(clean_start):
    alone = clean_start("--listen", "none", "--task-server", "tcp:127.0.0.1:1")
    assert get(alone.port(1), "/healthz")[0] == 200
    status, body = get(alone.port(1), "/readyz")
    assert status == 503
    assert json.loads(body)["reason"] == "no_task_server"
    assert "tcp:127.0.0.1:1 cannot be reached" in json.loads(body)["detail"]
    assert samples(alone.port(1))["taskd_ready",] == 0


def test_the_metrics_of_a_daemon_show_what_it_has_done(daemon):
    before = samples(daemon.port(2))
    connection = daemon.connect()
    assert connection.ask(bare("trace")) is None
    connection.close()
    counted = ("taskd_tasks_total", "succeeded", "trace")
    ending = time.monotonic() + TIMEOUT
    while (after := samples(daemon.port(2)))[counted] == before[counted]:
        assert time.monotonic() < ending  # figures that were asked for just now are sent again
    for key in (
        counted,
        ("taskd_task_run_seconds_count", "trace"),
        ("taskd_task_wait_seconds_count", "trace"),
    ):
        assert after[key] == before[key] + 1, key
    received = ("taskd_received_bytes_total", "task_server")
    assert after[received] - before[received] == len('{"function": "trace"}\n')
    assert after["taskd_workers", "idle"] == 1
    assert after["taskd_store_up",] == 1
    assert after["process_resident_memory_bytes",] > 0


def test_websockets_are_counted_while_they_are_open(daemon):
    def wait_for(count):
        ending = time.monotonic() + TIMEOUT
        while samples(daemon.port(2))["taskd_connections", "websocket"] != count:
            assert time.monotonic() < ending

    wait_for(0)
    websocket = open_websocket(daemon)
    wait_for(1)
    assert samples(daemon.port(2))["taskd_connections", "http"] == 1, "that of the scrape itself"
    websocket.close()
    wait_for(0)


def test_a_gateway_alone_has_metrics_of_its_own(gateway):
    found = samples(gateway.port(1))
    assert found["taskd_ready",] == 1
    assert ("taskd_tasks_running",) not in found


def test_neither_health_checks_nor_scrapes_are_logged(daemon):
    for path in ("/healthz", "/readyz", "/metrics"):
        assert get(daemon.port(2), path)[0] == 200
    with Client(daemon.tcp) as client:
        client.call("trace_again")
    daemon.wait_for_log(r"trace_again #\d+ failed")  # so that what came before is in the log, too
    assert not [line for line in daemon.log.splitlines() if "HTTP/1.1" in line or "/readyz" in line]


def test_a_trace_reaches_the_function_over_every_way_and_in_every_attempt(daemon, gateway):
    for address in (daemon.tcp, daemon.ws, f"ws://127.0.0.1:{gateway.port(1)}"):
        with Client(address) as client:
            traced = client.with_options(traceparent=TRACE)
            assert traced.call("trace") == TRACE, address
            assert traced.call("trace_again") == TRACE, address
            assert traced.submit("trace_again").result() == TRACE, address
            assert client.call("trace") is None


def test_the_header_of_an_http_request_names_the_trace_if_it_is_valid(daemon):
    body = json.dumps({"function": "trace"})
    for header, expected in ((TRACE, TRACE), ("nonsense", None)):
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port(2), timeout=TIMEOUT)
        headers = {"Content-Type": "application/json", "traceparent": header}
        connection.request("POST", "/api/v1/tasks?wait=20", body, headers)
        task = json.loads(connection.getresponse().read())
        connection.close()
        assert task["result"] == expected
