"""TLS on every kind of port: which peers are accepted, which are refused, and the reasons reported."""

from __future__ import annotations

import datetime
import itertools
import os
import subprocess

import pytest
import pytest_twisted
import trustme
from twisted.internet import ssl

from taskd.errors import Unreachable
from tests.live.peers import SOON, bare, in_thread, rpc, within
from tests.live.support import APPS, BIN, TIMEOUT, Daemon

NAME = "localhost"
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)


class Files:
    """PEM files in a directory."""

    def __init__(self, directory):
        self._directory = directory
        self.ca = trustme.CA()
        self.other_ca = trustme.CA(organization_name="Somebody else")
        self._numbers = itertools.count(1)

    def trust(self, ca=None):
        """Return a file with the certificate of a CA."""
        path = self._directory / f"ca-{next(self._numbers)}.pem"
        (ca or self.ca).cert_pem.write_to_path(path)
        return path

    def issue(self, *names, ca=None, **more):
        """Make a certificate; return its file and that of its key."""
        leaf = (ca or self.ca).issue_cert(*(names or (NAME,)), **more)
        number = next(self._numbers)
        path = self._directory / f"cert-{number}.pem"
        for certificate in leaf.cert_chain_pems:
            certificate.write_to_path(path, append=True)
        key = self._directory / f"key-{number}.pem"
        leaf.private_key_pem.write_to_path(key)
        return path, key

    def listening(self, certificate=None, *, ca=None):
        """Return a server's endpoint string; with `ca`, clients need a certificate of that CA."""
        path, key = certificate or self.issue()
        mutual = f":clientCA={self.trust(ca)}" if ca is not None else ""
        return f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={path}{mutual}"

    def client(self, port, host=NAME, *, trusted=None, certificate=None):
        """Return a client's endpoint string."""
        own = ":certificate={}:privateKey={}".format(*certificate) if certificate else ""
        return f"tls:{host}:{port}:trustRoots={trusted or self.trust()}{own}"


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="session")
def ports(files, tmp_path_factory):
    """The ports of one task server, each with a different certificate."""
    directory = tmp_path_factory.mktemp("tls")
    alone = trustme.CA()
    alone.cert_pem.write_to_path(directory / "cert.pem")
    alone.private_key_pem.write_to_path(directory / "key.pem")
    listening = {
        "good": files.listening(),
        "address": files.listening(files.issue("127.0.0.1")),
        "intermediate": files.listening(files.issue(ca=files.ca.create_child_ca())),
        "other name": files.listening(files.issue("other.example.org")),
        "foreign": files.listening(files.issue(ca=files.other_ca)),
        "expired": files.listening(files.issue(not_before=NOW - 3 * DAY, not_after=NOW - DAY)),
        "early": files.listening(files.issue(not_before=NOW + DAY, not_after=NOW + 3 * DAY)),
        "self-signed": files.listening((directory / "cert.pem", directory / "key.pem")),
        "mutual": files.listening(ca=files.ca),
    }
    options = [part for one in listening.values() for part in ("--listen", one)]
    app = str(APPS / "plain.py")
    daemon = Daemon("--app", app, *options, "--websocket", "none", "--workers", "2", directory=directory)
    daemon.wait_until_ready()
    yield {name: daemon.port(number) for number, name in enumerate(listening, start=1)}
    pytest_twisted.blockon(in_thread(daemon.stop))
    daemon.wait_until_gone()
    assert "Unhandled" not in daemon.log, daemon.log


@pytest.fixture
def start(clean_start):
    return clean_start


@pytest.fixture(params=["per-call", "pooled"])
def link(request):
    return request.param


async def refusal(client):
    """Return the error message of a call that finds no trusted server."""
    with pytest.raises(Unreachable) as caught:
        await within(client.call("hello"))
    assert caught.value.data["sent"] is False, caught.value
    return caught.value.message


# --- a client's trust --------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_server_that_proves_its_name_is_called(ports, files, make_client, link):
    client = make_client(files.client(ports["good"]), link=link)
    assert await within(client.call("hello", name="Ann")) == "Hello, Ann!"
    assert len(await within(client.call("big", size=3_000_000))) == 3_000_000


@pytest_twisted.ensureDeferred
async def test_a_server_may_prove_an_ip_address_instead_of_a_name(ports, files, make_client):
    client = make_client(files.client(ports["address"], "127.0.0.1"))
    assert await within(client.call("hello")) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_the_certificates_of_a_directory_can_be_trusted(ports, files, make_client, tmp_path):
    files.other_ca.cert_pem.write_to_path(tmp_path / "a.pem")
    files.ca.cert_pem.write_to_path(tmp_path / "b.crt")
    (tmp_path / "README").write_text("no certificate")
    client = make_client(files.client(ports["good"], trusted=tmp_path))
    assert await within(client.call("hello")) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_a_chain_through_an_intermediate_ca_is_followed(ports, files, make_client):
    client = make_client(files.client(ports["intermediate"]))
    assert await within(client.call("hello")) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_a_certificate_for_another_name_is_refused(ports, files, make_client, link):
    said = await refusal(make_client(files.client(ports["other name"]), link=link))
    assert "wrong name" in said
    assert "other.example.org" in said, "whose it is"
    assert NAME in said, "whose it should be"


@pytest_twisted.ensureDeferred
async def test_a_certificate_for_a_name_does_not_prove_an_address_nor_one_for_an_address_a_name(
    ports, files, make_client
):
    assert "wrong name" in await refusal(make_client(files.client(ports["good"], "127.0.0.1")))
    assert "wrong name" in await refusal(make_client(files.client(ports["address"], NAME)))


@pytest_twisted.ensureDeferred
async def test_a_certificate_of_an_unknown_ca_is_refused(ports, files, make_client, link):
    assert "unknown CA" in await refusal(make_client(files.client(ports["foreign"]), link=link))
    port = ports["good"]
    assert "unknown CA" in await refusal(make_client(f"tls:{NAME}:{port}", link=link)), "the system's CAs"


@pytest_twisted.ensureDeferred
async def test_an_expired_certificate_is_refused(ports, files, make_client, link):
    assert "expired" in await refusal(make_client(files.client(ports["expired"]), link=link))


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_is_not_valid_yet_is_refused(ports, files, make_client):
    assert "not valid yet" in await refusal(make_client(files.client(ports["early"])))


@pytest_twisted.ensureDeferred
async def test_a_self_signed_certificate_is_refused(ports, files, make_client):
    assert "unknown CA" in await refusal(make_client(files.client(ports["self-signed"])))


@pytest_twisted.ensureDeferred
async def test_a_client_with_tls_names_a_plain_port_as_the_reason(shared, files, make_client, link):
    for number in (1, 2):  # the task server's port and the gateway's
        assert "does not speak TLS" in await refusal(
            make_client(files.client(shared.port(number)), link=link)
        )


@pytest_twisted.ensureDeferred
async def test_a_client_without_tls_names_a_tls_port_as_the_reason(ports, make_client, link):
    client = make_client("127.0.0.1:{}".format(ports["good"]), link=link)
    for _ in range(2):
        assert "speaks TLS" in await refusal(client), "which also means that no task has run"


@pytest_twisted.ensureDeferred
async def test_a_gateway_taken_for_a_task_server_is_named_as_the_reason(shared, make_client, link):
    assert "speaks HTTP" in await refusal(make_client(f"127.0.0.1:{shared.port(2)}", link=link))


@pytest_twisted.ensureDeferred
async def test_a_websocket_to_a_port_of_another_protocol_names_it(shared, ports, make_client):
    for url, words in (
        (f"ws://127.0.0.1:{shared.port(1)}", "task server"),
        (f"wss://127.0.0.1:{shared.port(1)}", "does not speak TLS"),
        (f"wss://127.0.0.1:{shared.port(2)}", "does not speak TLS"),
        ("http://127.0.0.1:{}".format(ports["good"]), "speaks TLS"),
    ):
        assert words in await refusal(make_client(url)), url


@pytest_twisted.ensureDeferred
async def test_a_gateway_reports_that_its_task_server_speaks_tls(ports, start, websocket):
    daemon = start("--listen", "none", "--task-server", "localhost:{}".format(ports["good"]))
    ws = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
    assert "speaks TLS" in await ws.send(bare("hello")).receive()


# --- a server's trust --------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_client_with_a_certificate_of_the_right_ca_is_accepted(ports, files, make_client, link):
    own = files.issue("ann@example.org")
    client = make_client(files.client(ports["mutual"], certificate=own), link=link)
    assert await within(client.call("hello")) == "Hello, World!"


@pytest_twisted.ensureDeferred
async def test_a_client_without_a_certificate_is_refused(ports, files, make_client, link):
    await assert_kept_out(make_client, files, ports, link, None)


@pytest_twisted.ensureDeferred
async def test_a_client_with_a_certificate_of_a_foreign_ca_is_refused(ports, files, make_client, link):
    foreign = files.issue("ann@example.org", ca=files.other_ca)
    await assert_kept_out(make_client, files, ports, link, foreign)


@pytest_twisted.ensureDeferred
async def test_a_client_with_an_expired_certificate_is_refused(ports, files, make_client, link):
    expired = files.issue("ann@example.org", not_before=NOW - 3 * DAY, not_after=NOW - DAY)
    await assert_kept_out(make_client, files, ports, link, expired)


async def assert_kept_out(make_client, files, ports, link, certificate):
    """Check that a client with this certificate is not answered, and that no task is run for it."""
    client = make_client(files.client(ports["mutual"], certificate=certificate), link=link)
    for _ in range(2):
        with pytest.raises(Unreachable) as caught:
            await within(client.call("echo", value="kept out"))
        assert "certificate" in caught.value.message or "TLS" in caught.value.message, caught.value.message
    friend = make_client(files.client(ports["mutual"], certificate=files.issue("bob@example.org")))
    status = await within(friend.call("taskd.status"))
    assert [one for one in status["functions"] if one["name"] == "echo"] == [], "it was run"


@pytest_twisted.ensureDeferred
async def test_a_websocket_port_can_ask_for_certificates_too(start, shared, files, websocket):
    daemon = start(
        "--listen", "none", "--task-server", shared.tcp, "--websocket", files.listening(ca=files.ca)
    )  # fmt: skip
    url = f"wss://{NAME}:{daemon.port(1)}"
    path, key = files.issue("ann@example.org")
    own = ssl.PrivateCertificate.loadPEM(path.read_bytes() + key.read_bytes())
    ws = await websocket(url, context=client_context(files, own))
    assert await ws.send(bare("hello")).receive() == "task complete"
    with pytest.raises(ConnectionError):
        await websocket(url, context=client_context(files))


# --- websockets and gateways -------------------------------------------------


def client_context(files, own=None):
    trusted = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(files.trust().read_bytes())])
    return ssl.optionsForClientTLS(NAME, trusted, own)


@pytest_twisted.ensureDeferred
async def test_websockets_work_over_tls(start, files, websocket):
    daemon = start("--websocket", files.listening(), "--workers", "1").wait_until_ready()
    ws = await websocket(f"wss://{NAME}:{daemon.port(2)}/path", context=client_context(files))
    assert await ws.send(bare("hello")).receive() == "task complete"
    reply = await ws.ask(rpc("big", {"size": 3_000_000}))
    assert len(reply["result"]) == 3_000_000


@pytest_twisted.ensureDeferred
async def test_a_gateway_calls_a_task_server_over_tls(ports, start, files, websocket, link):
    kind = {"per-call": "per-message", "pooled": "pooled"}[link]
    daemon = start("--listen", "none", "--task-server", files.client(ports["good"]), "--link", kind)
    ws = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
    for number in range(3):
        assert (await ws.ask(rpc("add", [number], number)))["result"] == number + 1
    assert await ws.send(bare("hello")).receive() == "task complete"


@pytest_twisted.ensureDeferred
async def test_a_gateway_says_why_it_refused_a_task_server(ports, start, files, websocket):
    daemon = start("--listen", "none", "--task-server", files.client(ports["other name"]))
    ws = await websocket(f"ws://127.0.0.1:{daemon.port(1)}")
    assert "wrong name" in await ws.send(bare("hello")).receive()
    assert (await ws.ask(rpc("hello")))["error"]["data"]["sent"] is False
    daemon.wait_for_log("wrong name")


# --- the command -------------------------------------------------------------


def run_taskd(*arguments, **environ):
    return subprocess.run(
        [BIN / "taskd", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_the_command_calls_over_tls(ports, files):
    ended = run_taskd("call", "--server", files.client(ports["good"]), "hello", "name=Ann")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, '"Hello, Ann!"\n', "")


@pytest.mark.parametrize(
    ("port", "reason"), [("other name", "wrong name"), ("foreign", "unknown CA"), ("expired", "expired")]
)
def test_the_command_says_in_one_sentence_why_it_refused_a_server(ports, files, port, reason):
    ended = run_taskd("call", "--server", files.client(ports[port]), "hello")
    assert ended.returncode == os.EX_UNAVAILABLE == 69
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("taskd: ")
    assert reason in ended.stderr


def test_the_command_names_the_certificate_file_that_cannot_be_read(files):
    ended = run_taskd("call", "--server", f"tls:{NAME}:1:trustRoots=/no/such/file", "hello")
    assert ended.returncode == 2
    assert "/no/such/file" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_command_trusts_a_gateway_that_the_system_trusts_and_no_other(start, shared, files):
    daemon = start("--listen", "none", "--task-server", shared.tcp, "--websocket", files.listening())
    url = f"wss://{NAME}:{daemon.port(1)}"
    ended = run_taskd("call", "--via", url, "hello", SSL_CERT_FILE=str(files.trust()))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, '"Hello, World!"\n', "")
    ended = run_taskd("call", "--via", url, "hello", SSL_CERT_FILE=str(files.trust(files.other_ca)))
    assert ended.returncode == os.EX_UNAVAILABLE
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "certificate" in ended.stderr


# --- the server's own mistakes -----------------------------------------------


@pytest.mark.parametrize(
    "listening",
    [
        "ssl:0",
        "ssl:0:privateKey=/no/such/file",
        "ssl:0:privateKey={key}:certKey={key}",
        "ssl:0:privateKey={key}:certKey={certificate}:clientCA={key}",
        "ssl:0:privateKey={other_key}:certKey={certificate}",
        "ssl:port:privateKey={key}:certKey={certificate}",
    ],
)
def test_an_invalid_tls_endpoint_fails_the_start_with_one_sentence(tmp_path, files, listening):
    certificate, key = files.issue()
    _, other_key = files.issue()
    listening = listening.format(certificate=certificate, key=key, other_key=other_key)
    command = [BIN / "twistd", "-n", "--pidfile=", "taskd", "--websocket", "none"]
    ended = subprocess.run(
        [*command, "--listen", listening],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, said
    assert "taskd: " in said
    assert "Traceback" not in said
