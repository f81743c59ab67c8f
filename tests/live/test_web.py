"""The pages on the websocket port, and the gateway as a resource of `twistd web`."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import pytest_twisted

from taskd import __version__
from tests.live.peers import bare, rpc
from tests.live.support import BIN, TIMEOUT

CLIENT = Path(__file__).parents[2] / "clients" / "js" / "taskd.js"

KEY = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", **KEY}


@pytest.fixture
def web(clean_start):
    """Start a `twistd web` that serves the gateway; its port number is `web_port`."""

    def start_one(**environ):
        daemon = clean_start(
            "--port", "tcp:0:interface=127.0.0.1", "--class", "taskd.web.Root", web=True, env=environ
        )  # fmt: skip
        daemon.web_port = int(daemon.wait_for_log(r"Site starting on (\d+)")[1])
        return daemon

    return start_one


@pytest.fixture(params=["twistd taskd", "twistd web"])
def port(request):
    """The port of a gateway, in a daemon or under `twistd web`."""
    if request.param == "twistd taskd":
        return request.getfixturevalue("shared").port(2)
    shared = request.getfixturevalue("shared")
    return request.getfixturevalue("web")(TASKD_TASK_SERVER=shared.tcp).web_port


def request(port, method, path, headers=None):
    """Make one HTTP request; return the response and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    body = response.read() if response.status != 101 else b""
    connection.close()
    return response, body.decode()


# --- twistd web --------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_twistd_web_serves_the_gateway(web, shared, websocket):
    port = web(TASKD_TASK_SERVER=shared.tcp).web_port
    ws = await websocket(f"ws://127.0.0.1:{port}/")
    assert await ws.send(bare("hello")).receive() == "task complete"
    assert (await ws.ask(rpc("hello", {"name": "Ann"})))["result"] == "Hello, Ann!"


@pytest_twisted.ensureDeferred
async def test_task_servers_link_and_origins_come_from_the_environment(web, fake, refusing, websocket):
    server = fake(lambda message: message.answer("done"))
    port = web(
        TASKD_TASK_SERVER=f"{refusing} {server.endpoint}",
        TASKD_LINK="pooled",
        TASKD_ALLOW_ORIGIN="https://one.example https://*.two.example",
        TASKD_HOSTNAME="tasks.example",
    ).web_port
    for origin in ("https://one.example", "https://www.two.example"):
        ws = await websocket(f"ws://127.0.0.1:{port}/", origin=origin)
        for number in range(3):
            assert (await ws.ask(rpc("hello", None, number)))["result"] == "done"
    assert server.most_open == 1, "the link is pooled"
    with pytest.raises(ConnectionError, match="403"):
        await websocket(f"ws://127.0.0.1:{port}/", origin="https://three.example")
    for name, status in (("tasks.example", 101), ("rebound.example", 403)):
        own = {**UPGRADE, "Host": f"{name}:8080", "Origin": f"http://{name}:8080"}
        assert request(port, "GET", "/", own)[0].status == status


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"TASKD_LINK": "sometimes"}, "sometimes"),
        ({"TASKD_LINK": "local"}, "TASKD_LINK cannot be local"),
        ({"TASKD_TASK_SERVER": "tcp:nowhere"}, "tcp:nowhere"),
        ({"TASKD_ALLOW_ORIGIN": "two.example"}, "TASKD_ALLOW_ORIGIN: 'two.example' is no pattern"),
        ({"TASKD_HOSTNAME": "two.example:80"}, "TASKD_HOSTNAME: 'two.example:80' is no host name"),
    ],
)
def test_twistd_web_names_an_invalid_setting_and_does_not_start(tmp_path, monkeypatch, environ, words):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    command = [BIN / "twistd", "-n", "--pidfile=", "web", "--port", "tcp:0", "--class", "taskd.web.Root"]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest_twisted.ensureDeferred
async def test_twistd_web_stops_at_sigterm_with_a_websocket_open(web, shared, websocket):
    daemon = web(TASKD_TASK_SERVER=shared.tcp)
    ws = await websocket(f"ws://127.0.0.1:{daemon.web_port}/")
    assert await ws.send(bare("hello")).receive() == "task complete"
    assert daemon.stop() == -signal.SIGTERM


# --- over HTTP, for either kind of gateway -----------------------------------


@pytest.mark.parametrize("path", ["/", "/ops"])
def test_the_websocket_port_serves_the_pages(port, path):
    response, page = request(port, "GET", path)
    assert response.status == 200
    assert page.startswith("<!DOCTYPE html>")
    headers = {name.lower(): value for name, value in response.getheaders()}
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers
    assert __version__ not in page, "a stranger need not know it"
    head, body = request(port, "HEAD", path)
    assert (head.status, body) == (200, "")


def test_the_policy_of_the_pages_allows_nothing_inline_and_nothing_from_elsewhere(port):
    for path in ("/", "/ops", "/no/such/page"):
        policy = request(port, "GET", path)[0].getheader("content-security-policy").split("; ")
        assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(policy)
        assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} <= set(policy)
        assert not any(word in rule for rule in policy for word in ("unsafe", "http", "*"))


def test_no_address_leads_out_of_the_folder_of_the_pages(port):
    for path in ("/pages/../root.py", "/pages/%2e%2e/root.py", "/pages/", "/pages", "/pages//index.html"):
        assert request(port, "GET", path)[0].status == 404


def test_the_javascript_client_is_served_to_pages_of_any_origin(port):
    response, text = request(port, "GET", "/taskd.js", {"Origin": "https://foreign.example"})
    assert response.status == 200
    assert text == CLIENT.read_text()
    headers = {name.lower(): value for name, value in response.getheaders()}
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-cache"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    head, body = request(port, "HEAD", "/taskd.js?version=1")
    assert (head.status, body) == (200, "")
    assert head.getheader("content-length") == str(len(CLIENT.read_bytes()))
    assert head.getheader("etag") == headers["etag"]
    assert request(port, "POST", "/taskd.js")[0].status == 405
    assert request(port, "GET", "/taskd.js/")[0].status == 404


def test_a_browser_that_has_the_javascript_client_is_not_sent_it_again(port):
    etag = request(port, "HEAD", "/taskd.js")[0].getheader("etag")
    for known in (etag, f'"other", {etag}', "*"):
        for method in ("GET", "HEAD"):
            response, body = request(port, method, "/taskd.js", {"If-None-Match": known})
            assert (response.status, body) == (304, "")
            assert response.getheader("etag") == etag
            assert response.getheader("content-length") is None
    assert request(port, "GET", "/taskd.js", {"If-None-Match": '"other"'})[0].status == 200


def test_other_paths_are_not_found(port):
    response, _ = request(port, "GET", "/no/such/page")
    assert response.status == 404


def test_other_methods_than_those_of_the_page_and_of_json_rpc_are_refused(port):
    for method in ("PUT", "DELETE"):
        response, _ = request(port, method, "/")
        assert response.status == 405
        assert response.getheader("allow") == "GET, HEAD, POST, OPTIONS"


def test_json_rpc_and_the_api_are_served(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    for _ in range(2):  # on one connection
        text = json.dumps(rpc("hello", {"name": "x" * 500_000}))
        connection.request("POST", "/rpc", text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert (response.status, len(json.loads(response.read())["result"])) == (200, 500_008)
        connection.request(
            "POST", "/api/v1/tasks?wait=20", '{"function": "hello"}', {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["result"]) == (200, "Hello, World!")
    connection.close()


def test_a_page_and_a_host_that_are_unknown_are_refused_over_http_too(port):
    for headers, status in (
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example", "Host": "evil.example"}, 403),
    ):
        response, body = request(port, "GET", "/api/v1/status", headers)
        assert (response.status, json.loads(body)["status"]) == (status, status)


@pytest_twisted.ensureDeferred
async def test_websockets_are_accepted_on_every_path(port, websocket):
    for path in ("", "/", "/ws", "/a/b/c?d=e"):
        ws = await websocket(f"ws://127.0.0.1:{port}{path}")
        assert await ws.send(bare("hello")).receive() == "task complete"


def test_the_upgrade_header_is_read_as_http_defines_it(port):
    assert request(port, "GET", "/", {**UPGRADE, "Upgrade": "WebSocket"})[0].status == 101
    assert request(port, "GET", "/", {**UPGRADE, "Connection": "keep-alive, Upgrade"})[0].status == 101
    assert request(port, "GET", "/", {"Upgrade": "h2c", "Connection": "Upgrade"})[0].status == 200


def test_a_bad_handshake_is_refused_and_the_server_goes_on(port):
    for headers in (
        {"Upgrade": "websocket", "Connection": "Upgrade"},
        {**UPGRADE, "Sec-WebSocket-Key": "short"},
        {**UPGRADE, "Sec-WebSocket-Version": "99"},
    ):
        response, _ = request(port, "GET", "/", headers)
        assert 400 <= response.status < 500, headers
    assert request(port, "POST", "/", UPGRADE)[0].status in (400, 405)
    assert request(port, "GET", "/")[0].status == 200


def test_a_page_that_reached_the_gateway_by_a_name_that_anybody_may_own_is_refused(port):
    for host, status in (
        ("rebound.example", 403),
        ("127.0.0.1", 101),
        ("192.0.2.7", 101),
        ("localhost", 101),
    ):
        own = {**UPGRADE, "Host": f"{host}:{port}", "Origin": f"http://{host}:{port}"}
        assert request(port, "GET", "/", own)[0].status == status, host


def test_another_version_of_the_websocket_protocol_is_refused_with_the_right_one(port):
    for version in ("8", "7", "14", "13, 8"):
        hidden = {**UPGRADE, "Sec-WebSocket-Version": version, "Sec-WebSocket-Origin": "http://localhost"}
        response, _ = request(port, "GET", "/", hidden)
        assert response.status == 426, version
        assert response.getheader("sec-websocket-version") == "13"
        assert response.getheader("upgrade") == "websocket"


# --- what only `twistd taskd` refuses ------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 629145600\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 629145600\r\n\r\n", 413),
        (b"POST /rpc HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", 411),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 629145600\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ", 431),
        (b"GET /", 414),
    ],
)
def test_a_client_gets_its_answer_though_it_sends_megabytes_more_than_are_wanted(shared, head, status):
    with socket.create_connection(("127.0.0.1", shared.port(2)), TIMEOUT) as client:
        client.sendall(head)
        client.sendall(b"x" * 8_000_000)
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:100]
    assert b"\r\nConnection: close\r\n" in answer


def test_nothing_that_follows_a_refused_request_is_served(shared):
    refused = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shared.port(2)), TIMEOUT) as client:
        client.sendall(refused + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        assert client.makefile("rb").read().count(b"HTTP/1.1 ") == 1
