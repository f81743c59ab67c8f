"""The PHP client against real servers, and scripted ones whose connections end at a certain point.

Runs where PHP is installed.
"""

from __future__ import annotations

import json
import signal
import socket
import threading

import pytest
import trustme

from tests.live import php
from tests.live.support import APPS, TIMEOUT, Connection

WHY_NOT = php.why_not()

NOT_UTF8 = "Malformed UTF-8 characters, possibly incorrectly encoded"
"""How PHP says that a text is not UTF-8."""

pytestmark = pytest.mark.skipif(WHY_NOT != "", reason=WHY_NOT)


@pytest.fixture
def program(tmp_path):
    """Start PHP programs; each is killed at the end."""
    programs = []

    def start(code, server, **environ):
        programs.append(php.Program(code, tmp_path, TASKD_SERVER=str(server), **environ))
        return programs[-1]

    yield start
    for each in programs:
        each.stop()


@pytest.fixture
def run(program, shared):
    """Run a program that uses the shared server, and return what it shows."""
    return lambda code: program(code, shared.port()).end()


@pytest.fixture
def lasting(clean_start):
    """A server with a store."""

    def start(app="watched.py", *options):
        return clean_start("--app", str(APPS / app), "--store", "memory", "--workers", "2", *options)

    return start


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


# --- calls -------------------------------------------------------------------


def test_arguments_are_passed_by_position_and_by_name(run):
    shown = run("""
        $client = new Taskd\\Client();
        show($client->call('hello'));
        show($client->call('hello', ['Ann']));
        show($client->call('add', ['a' => 2, 'b' => 3]));
        show($client->ping());
        show(in_array('add', array_column($client->functions(), 'name')));
        show($client->status()['max_workers']);
    """)
    assert shown == ["Hello, World!", "Hello, Ann!", 5, "pong", True, 4]


def test_empty_arrays_empty_objects_floats_and_big_integers_keep_their_kind(run):
    shown = run("""
        $value = ['list' => [], 'object' => new stdClass(), 'float' => 1.0, 'text' => "é/\\u{1F600}"];
        $objects = new Taskd\\Client(objects: true);
        $back = $objects->call('echo', [$value]);
        show([$back->list === [], $back->object == new stdClass(), $back->float === 1.0, $back->text]);
        $arrays = new Taskd\\Client();
        show($arrays->call('echo', [$value])['object'] === []);
        show($arrays->call('echo', [[]]) === []);
        show(get_object_vars($objects->call('echo', [['a' => ['b' => 1]]])->a));
        show((string) $arrays->call('add', [PHP_INT_MAX, 1]));
    """)
    assert shown == [[True, True, True, "é/\U0001f600"], True, True, {"b": 1}, "9223372036854775808"]


def test_an_error_of_the_protocol_is_an_exception_with_its_code_and_data(run):
    shown = run("""
        $client = new Taskd\\Client();
        function caught(callable $call): void {
            try { $call(); } catch (Taskd\\Error $error) {
                show([$error::class, $error->getCode(), $error->getMessage(), array_keys($error->data)]);
            }
        }
        caught(fn () => $client->call('helo'));
        caught(fn () => $client->call('hello', [1]));
        caught(fn () => $client->call('boom', ['no']));
        caught(fn () => $client->call('nap', [30], timeout: 0.1));
        caught(fn () => $client->call('vanish'));
        caught(fn () => $client->call('hello', [], priority: 10));
        caught(fn () => $client->call('nap', [30], wait: 0.1));
        caught(fn () => $client->call('echo', [str_repeat('x', 11_000_000)]));
        show($client->call('hello'));
    """)
    assert [(each[0], each[1]) for each in shown[:-1]] == [
        ("Taskd\\MethodNotFound", -32601),
        ("Taskd\\InvalidParams", -32602),
        ("Taskd\\TaskFailed", -32000),
        ("Taskd\\TimedOut", -32001),
        ("Taskd\\WorkerLost", -32003),
        ("Taskd\\InvalidRequest", -32600),
        ("Taskd\\WaitTimeout", -32603),
        ("Taskd\\TooLarge", -32006),
    ]
    assert shown[0][2] == "no such function: helo"
    assert shown[1][3] == ["argument", "expected", "got"]
    assert shown[2][3] == ["type", "message"]
    assert shown[-1] == "Hello, World!"


def test_arguments_that_cannot_be_sent_and_addresses_that_are_none_are_refused_with_the_reason(run):
    shown = run("""
        function caught(callable $call): void {
            try { $call(); } catch (InvalidArgumentException $error) { show($error->getMessage()); }
        }
        $client = new Taskd\\Client();
        caught(fn () => $client->call('echo', ["\\xff"]));
        caught(fn () => $client->call('echo', [1 => 'a', 'b' => 2]));
        caught(fn () => iterator_to_array($client->map('echo', [1], concurrency: 0)));
        $addresses = ['ws://a:1', 'a', 'a:99999', 'tls::1', 'tls:a:1:trustRoots=/no', 'tls:a:1:x=y'];
        foreach ($addresses as $address) {
            caught(fn () => new Taskd\\Client($address));
        }
        $forms = ['127.0.0.1:%1$d', 'tcp:localhost:%1$d', 'tcp://localhost:%1$d/', ':%1$d', ' %1$d'];
        foreach ($forms as $form) {
            show((new Taskd\\Client(sprintf($form, getenv('TASKD_SERVER'))))->ping());
        }
    """)
    assert [each.partition(";")[0] for each in shown] == [
        f"the arguments of echo cannot be written as JSON: {NOT_UTF8}",
        "arguments are a list, or have names: there is the number 1 among the names",
        "concurrency is from 1 to 1000, not 0",
        "the address ws://a:1: it is the address of a gateway, and this client needs a task server",
        "the address a: it has no port",
        "the address a:99999: its port must be from 1 to 65535, not 99999",
        "the address tls::1: it has no host, whose name the certificate must have",
        "the address tls:a:1:trustRoots=/no: trustRoots=/no is no file that can be read",
        "the address tls:a:1:x=y: x is none of the options trustRoots, certificate, privateKey",
        *["pong"] * 5,
    ]


def test_progress_is_reported_and_calls_can_be_made_meanwhile(run):
    shown = run("""
        $client = new Taskd\\Client();
        show($client->call('count', [3, 0.1], onProgress: function (Taskd\\Progress $progress) use ($client) {
            show([$progress->done, $progress->total, $progress->message, $client->call('hello')]);
        }));
    """)
    assert shown == [*([n, 3, f"step {n}", "Hello, World!"] for n in (1, 2, 3)), 3]


def test_a_callback_that_throws_has_the_task_cancelled(program, daemon):
    shown = program(
        """
        $client = new Taskd\\Client();
        try {
            $client->call('count', [1000, 0.1], onProgress: fn () => throw new LogicException('enough'));
        } catch (LogicException $error) { show($error->getMessage()); }
        show($client->call('hello'));
        """,
        daemon.port(),
    ).end()
    assert shown == ["enough", "Hello, World!"]
    daemon.wait_for_status(lambda status: status["counts"]["cancelled"] == 1)


def test_a_message_of_nearly_ten_mebibytes_goes_both_ways(run):
    shown = run("""
        $client = new Taskd\\Client();
        $text = str_repeat('0123456789', 1_000_000);
        show($client->call('echo', [$text]) === $text);
    """)
    assert shown == [True]


def test_rows_are_mapped_in_the_order_in_which_they_end(run):
    shown = run("""
        $client = new Taskd\\Client();
        $rows = (function () { yield 0.6; yield [0.05]; yield ['seconds' => 0.0]; })();
        foreach ($client->map('nap', $rows, concurrency: 2) as [$row, $result]) show([$row, $result]);
        foreach ($client->map('add', [[1, 2], ['x']], returnExceptions: true) as [$row, $result]) {
            show([$row, $result instanceof Taskd\\InvalidParams ? 'refused' : $result]);
        }
        try {
            foreach ($client->map('add', [['x']]) as $pair) show($pair);
        } catch (Taskd\\InvalidParams $error) { show('refused'); }
        show(iterator_to_array($client->map('add', [])));
    """)
    assert shown[:3] == [[[0.05], 0.05], [{"seconds": 0}, 0], [0.6, 0.6]]
    assert sorted(shown[3:5], key=str) == [[["x"], "refused"], [[1, 2], 3]]
    assert shown[5:] == ["refused", []]


def test_a_loop_over_rows_that_is_left_cancels_what_is_in_flight(program, daemon):
    shown = program(
        """
        $client = new Taskd\\Client();
        foreach ($client->map('nap', [0.0, 30, 30]) as [$row, $result]) break;
        show($client->call('hello'));
        """,
        daemon.port(),
    ).end()
    assert shown == ["Hello, World!"]
    daemon.wait_for_status(lambda status: status["counts"]["cancelled"] == 2)


# --- stored tasks ------------------------------------------------------------


def test_a_stored_task_is_found_again_by_its_id_and_shows_its_events(program, lasting, tmp_path):
    (tmp_path / "chapters").write_text("one\ntwo\nend\n")
    shown = program(
        """
        $client = new Taskd\\Client();
        $task = $client->submit('report', key: 'only');
        $again = (new Taskd\\Client())->task($task->id);
        $events = iterator_to_array($again->events(), false);
        show(array_map(fn (Taskd\\Event $event) => [$event->event, $event->data['value'] ?? null], $events));
        show([$again->result(), $again->state(), $task->joined, $again->get()['task'] === $task->id]);
        show([iterator_to_array($again->events(end($events)->seq)), iterator_to_array($again->events(-1))]);
        show(array_column(iterator_to_array($again->events($events[0]->seq)), 'event')[0]);
        show([$task->cancel(), $task->why()['state']]);
        try { $client->task('none')->result(); } catch (Taskd\\InvalidParams $error) { show('unknown'); }
        """,
        lasting().wait_until_ready().port(),
    ).end()
    kinds = [each for each in shown[0] if each[0] != "progress"]
    assert kinds == [
        ["queued", None],
        ["started", None],
        ["partial", "Chapter one"],
        ["partial", "Chapter two"],
        ["succeeded", None],
    ]
    assert shown[1:] == [
        [None, "succeeded", False, True],
        [[], []],
        "started",
        ["done", "succeeded"],
        "unknown",
    ]


def test_a_task_that_failed_can_be_put_back_and_one_that_waits_can_be_cancelled(program, lasting, tmp_path):
    marks = tmp_path / "marks"
    marks.write_text("")
    daemon = lasting("lasting.py")
    shown = program(
        """
        $client = new Taskd\\Client();
        $task = $client->submit('poison_once');
        try { $task->result(); } catch (Taskd\\WorkerLost $error) { show($error->data['signal']); }
        show([$task->state(), $task->retry()]);
        try { $task->result(); } catch (Taskd\\WorkerLost $error) {
            show(count(iterator_to_array($task->events(), false)));
        }
        $later = $client->submit('mark', [1], delay: 600, priority: 1, keep: 60, token: 'a');
        $same = $client->submit('mark', [1], token: 'a');
        show([$later->id === $same->id, $same->joined]);
        try { $later->result(timeout: 0.1); } catch (Taskd\\WaitTimeout $error) { show($error->data); }
        show([$later->cancel(), $later->state()]);
        try { $later->result(); } catch (Taskd\\Cancelled $error) { show('cancelled'); }
        $at = $client->submit('mark', ['number' => 2], at: new DateTimeImmutable('+1 hour'));
        show([$at->state(), $at->get()['due'] > time() + 3000]);
        """,
        daemon.wait_until_ready().port(),
    ).end()
    assert shown[0] == "SIGKILL"
    assert shown[1][0] == shown[1][1] in ("failed", "set_aside")
    assert shown[2] >= 6, "the events end with those of the second attempt"
    assert shown[3:] == [
        [True, True],
        {"seconds": 0.1},
        ["scheduled", "cancelled"],
        "cancelled",
        ["scheduled", True],
    ]


def test_a_batch_is_stored_counted_and_followed(program, lasting):
    shown = program(
        """
        $client = new Taskd\\Client();
        $batch = $client->submitBatch('mark', [[1], ['number' => 2], 3], then: 'count');
        $again = $client->batch($batch->id);
        foreach ($again->events() as $event) $last = $event;
        show([count($batch->tasks), $last->event, $last->data['done'], $again->result(), $again->cancel()]);
        try {
            $client->submitBatch('mark', [[1], ['x']]);
        } catch (Taskd\\InvalidParams $error) { show('none'); }
        """,
        lasting("lasting.py").wait_until_ready().port(),
    ).end()
    counts = {"done": 3, "failed": 0, "cancelled": 0, "total": 3, "state": "succeeded"}
    assert shown == [[3, "ended", 3, counts, "done"], "none"]


# --- lost connections --------------------------------------------------------


def test_a_call_made_while_the_server_restarts_waits_for_it(program, start):
    port = free_port()
    options = ("--listen", f"tcp:{port}:interface=127.0.0.1")
    first = start(*options).wait_until_ready()
    running = program(
        """
        $client = new Taskd\\Client(connectTimeout: 20.0);
        show($client->call('hello'));
        fgets(STDIN);
        show('calling');
        show($client->call('hello'));
        foreach ($client->map('hello', ['Ann']) as [, $result]) show($result);
        """,
        port,
    )
    assert running.line() == "Hello, World!"
    first.stop()
    running.go_on()
    assert running.line() == "calling"
    start(*options)
    assert running.end() == ["Hello, World!", "Hello, Ann!"]


def test_a_call_that_was_sent_when_the_server_died_is_not_sent_again(program, start, make_gate):
    port = free_port()
    options = ("--listen", f"tcp:{port}:interface=127.0.0.1")
    first = start(*options).wait_until_ready()
    gate = make_gate()
    running = program(
        """
        $client = new Taskd\\Client(connectTimeout: 20.0);
        try {
            $client->call('wait_for', [getenv('GATE')]);
        } catch (Taskd\\Unreachable $error) {
            show([$error->getCode(), $error->sent(), $error->data['server']]);
        }
        fgets(STDIN);
        show($client->call('hello'));
        """,
        port,
        GATE=gate.path,
    )
    gate.wait_until_entered()
    first.stop(signal.SIGKILL)
    assert running.line() == [-32007, True, str(port)]
    running.go_on()
    start(*options)
    assert running.end() == ["Hello, World!"]


def test_without_a_server_a_call_fails_after_the_time_to_connect(program):
    port = free_port()
    running = program(
        """
        try {
            (new Taskd\\Client(connectTimeout: 0.2))->call('hello');
        } catch (Taskd\\Unreachable $error) { show([$error->sent(), $error->getMessage()]); }
        """,
        port,
    )
    assert running.end() == [[False, f"the task server {port} cannot be reached: Connection refused"]]


def test_rows_that_a_lost_server_had_are_distinguished_from_the_others(program):
    """The first connection takes one row of three and ends; then there is no server."""

    def take_one(connection):
        assert connection.receive()["params"] == ["a"]

    server = Scripted(take_one)
    running = program(
        """
        $client = new Taskd\\Client(connectTimeout: 0.3);
        $rows = ['a', str_repeat('x', 20_000_000), 'c'];
        foreach ($client->map('echo', $rows, concurrency: 2, returnExceptions: true) as [$row, $error]) {
            show([$row[0], $error->sent()]);
        }
        """,
        server.port,
    )
    server.close()
    assert running.end() == [["a", True], ["x", False], ["c", False]]


def test_events_and_waits_go_on_when_the_server_is_started_again(program, start, tmp_path, make_gate):
    port = free_port()
    options = ("--listen", f"tcp:{port}:interface=127.0.0.1", "--store", "sqlite:t.db", "--workers", "1")
    options = ("--app", str(APPS / "lasting.py"), *options)
    first = start(*options).wait_until_ready()
    running = program(
        """
        $client = new Taskd\\Client(connectTimeout: 20.0);
        $task = $client->submit('mark', [1], delay: 0.5);
        $later = $client->submit('mark', [2], delay: 600);
        foreach ($later->events() as $event) show([$event->event, $event->seq]);
        show($task->result());
        """,
        port,
    )
    assert running.line()[0] == "queued"
    waiting = program(
        """
        $client = new Taskd\\Client(connectTimeout: 20.0);
        $later = $client->call('taskd.list', ['function' => 'mark'])[1]['task'];
        show('waiting');
        try { $client->task($later)->result(); } catch (Taskd\\Cancelled) { show('cancelled'); }
        """,
        port,
    )
    assert waiting.line() == "waiting"
    first.stop()
    second = start(*options).wait_until_ready()
    listed = second.connect().ask({"jsonrpc": "2.0", "id": 1, "method": "taskd.list"})["result"]
    later = next(each["task"] for each in listed if each["due"] > each["created"] + 100)
    second.connect().ask({"jsonrpc": "2.0", "id": 1, "method": "taskd.cancel", "params": {"task": later}})
    assert running.line()[0] == "cancelled"
    assert running.end() == [1]
    assert waiting.end() == ["cancelled"]


class Scripted:
    """A server on a thread, each of whose connections is handled by the next function."""

    def __init__(self, *handlers):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._handlers = handlers
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        for handle in self._handlers:
            sock, _ = self._listening.accept()
            sock.settimeout(TIMEOUT)
            connection = Connection(sock)
            handle(connection)
            connection.close()

    def close(self):
        self._thread.join(TIMEOUT)
        self._listening.close()
        assert not self._thread.is_alive()


def answer(connection):
    """Read a request, and reply with the size of its first argument."""
    request = connection.receive()
    connection.send({"jsonrpc": "2.0", "id": request["id"], "result": len(request["params"][0])})


def test_a_call_that_was_not_sent_completely_is_sent_on_another_connection(program):
    server = Scripted(lambda connection: None, answer)
    running = program(
        "show((new Taskd\\Client())->call('echo', [str_repeat('x', 20_000_000)]));",
        server.port,
    )
    assert running.end() == [20_000_000]
    server.close()


def test_a_silent_connection_has_a_ping_every_two_seconds(program):
    seen = []

    def handle(connection):
        request = connection.receive()
        for _ in range(2):
            seen.append(ping := connection.receive())
            connection.send({"jsonrpc": "2.0", "id": ping["id"], "result": "pong"})
        connection.send({"jsonrpc": "2.0", "id": request["id"], "result": "late"})

    server = Scripted(handle)
    assert program("show((new Taskd\\Client())->call('slow'));", server.port).end() == ["late"]
    server.close()
    assert [each["method"] for each in seen] == ["taskd.ping"] * 2


def test_a_server_of_another_kind_is_named_as_such(program):
    server = Scripted(lambda connection: connection.send(b"HTTP/1.1 400 Bad Request"))
    shown = program(
        """
        try {
            (new Taskd\\Client())->call('hello');
        } catch (Taskd\\Unreachable $error) { show($error->getMessage()); }
        """,
        server.port,
    ).end()
    server.close()
    lost = "was lost before it answered; the task may have run"
    assert shown == [f"the task server {server.port} {lost}: it does not speak the protocol of taskd"]


def test_a_child_of_a_fork_makes_its_own_connection(program, daemon):
    shown = program(
        """
        $client = new Taskd\\Client();
        $client->call('hello');
        $child = pcntl_fork();
        if ($child === 0) {
            for ($number = 0; $number < 200; $number++) {
                if ($client->call('echo', [-$number]) !== -$number) exit(1);
            }
            exit(0);
        }
        for ($number = 0; $number < 200; $number++) {
            if ($client->call('echo', [$number]) !== $number) exit(1);
        }
        pcntl_waitpid($child, $status);
        show($status);
        """,
        daemon.port(),
    ).end()
    assert shown == [0]


# --- other ways to the server ------------------------------------------------


def test_unix_sockets_have_several_spellings(program, start, tmp_path):
    start("--listen", "unix:a.sock").wait_until_ready()
    shown = program(
        """
        $path = getcwd() . '/a.sock';
        foreach (['unix:a.sock', "unix://$path", $path, './a.sock'] as $address) {
            show((new Taskd\\Client($address))->call('hello'));
        }
        """,
        "1",
    ).end()
    assert shown == ["Hello, World!"] * 4


def test_tls_verifies_the_name_and_sends_the_certificate(program, start, tmp_path):
    ca, other = trustme.CA(), trustme.CA()
    for name, blob in {
        "ca.pem": ca.cert_pem,
        "other.pem": other.cert_pem,
        **{
            f"{who}{kind}": blob
            for who in ("localhost", "client", "wrong.example")
            for kind, blob in _pems(ca.issue_cert(who)).items()
        },
    }.items():
        blob.write_to_path(tmp_path / name)
    daemon = start(
        "--listen",
        "ssl:0:interface=127.0.0.1:privateKey=localhost.key:certKey=localhost.pem:clientCA=ca.pem",
        "--listen",
        "ssl:0:interface=127.0.0.1:privateKey=wrong.example.key:certKey=wrong.example.pem",
        "--link",
        "local",
    ).wait_until_ready()
    shown = program(
        """
        function attempt(string $address): void {
            try {
                $client = new Taskd\\Client($address, connectTimeout: 10.0);
                $text = str_repeat('x', 5_000_000);
                show($client->call('echo', [$text]) === $text ? $client->call('hello') : 'other');
            } catch (Taskd\\Unreachable $error) { show($error->getMessage()); }
        }
        [$good, $wrong] = [getenv('GOOD'), getenv('WRONG')];
        attempt("tls:localhost:$good:trustRoots=ca.pem:certificate=client.pem:privateKey=client.key");
        attempt("tls:localhost:$good:trustRoots=other.pem:certificate=client.pem:privateKey=client.key");
        attempt("tls:localhost:$wrong:trustRoots=ca.pem");
        attempt("tls:localhost:$good:trustRoots=ca.pem");
        """,
        "1",
        GOOD=str(daemon.port(1)),
        WRONG=str(daemon.port(2)),
    ).end()
    assert shown[0] == "Hello, World!"
    assert "certificate verify failed" in shown[1]
    assert "did not match" in shown[2]
    assert "cannot be reached" in shown[1]
    assert "cannot be reached" in shown[2]
    assert "certificate required" in shown[3] or "lost" in shown[3], json.dumps(shown)


def _pems(leaf):
    return {".pem": leaf.cert_chain_pems[0], ".key": leaf.private_key_pem}


# --- tokens ------------------------------------------------------------------


def refusal(request_id, reason):
    error = {"code": -32008, "message": f"the token is {reason}", "data": {"reason": reason}}
    return {"jsonrpc": "2.0", "id": request_id, "error": error}


class Tokens:
    """Handles the connections of a `Scripted` server that takes the token "good"."""

    def __init__(self, count):
        self.shown = []
        self.handlers = [self._handle] * count

    def _handle(self, connection):
        auth, call = connection.receive(), connection.receive()  # neither is answered before both are there
        token = auth["params"]["token"]
        self.shown.append((auth["method"], token, call["method"]))
        if token != "good":
            connection.send(refusal(auth["id"], {"old": "expired"}.get(token, "unknown")))
            connection.send(refusal(call["id"], "no token"))
            return
        connection.send({"jsonrpc": "2.0", "id": auth["id"], "result": {"owner": "ann", "expires": None}})
        connection.send({"jsonrpc": "2.0", "id": call["id"], "result": "done"})


def test_a_token_is_shown_ahead_of_the_first_call_without_a_round_trip(program):
    tokens = Tokens(2)
    server = Scripted(*tokens.handlers)
    code = "show((new Taskd\\Client(token: 'good'))->call('f'));"
    code += "putenv('TASKD_TOKEN=good'); show((new Taskd\\Client())->call('f'));"
    assert program(code, server.port).end() == ["done", "done"]
    server.close()
    assert tokens.shown == [("taskd.auth", "good", "f")] * 2


def test_a_function_is_asked_again_for_a_token_that_has_expired_and_never_a_third_time(program):
    tokens = Tokens(5)
    server = Scripted(*tokens.handlers)
    code = """
        $given = ['old', 'good', 'old', 'old'];
        $token = function () use (&$given) { return array_shift($given); };
        show((new Taskd\\Client(token: $token))->call('f'));
        try {
            (new Taskd\\Client(token: $token))->call('f');
        } catch (Taskd\\NotAllowed $error) {
            show($error->data['reason']);
        }
        try {
            (new Taskd\\Client(token: 'bad'))->call('f');
        } catch (Taskd\\NotAllowed $error) {
            show($error->getMessage());
        }
        try {
            new Taskd\\Client(token: 'a b');
        } catch (InvalidArgumentException $error) {
            show($error->getMessage());
        }
    """
    assert program(code, server.port).end() == [
        *("done", "expired", "the token is unknown"),
        "a token is a text of letters, digits and . _ ~ + -",
    ]
    server.close()
    assert [token for _, token, _ in tokens.shown] == ["old", "good", "old", "old", "bad"]


def test_rows_and_events_go_on_with_a_new_token(program):
    shown = []

    def handle(connection):
        auth = connection.receive()
        shown.append(auth["params"]["token"])
        if shown[-1] == "old":
            connection.send(refusal(auth["id"], "expired"))
            return
        connection.send({"jsonrpc": "2.0", "id": auth["id"], "result": {"expires": None}})
        request = connection.receive()
        if request["method"] == "taskd.attach":
            answer = {"task": "t1", "seq": 1, "state": "running"}
            connection.send({"jsonrpc": "2.0", "id": request["id"], "result": answer})
            event = {"task": "t1", "seq": 2, "at": 0, "event": "cancelled"}
            connection.send({"jsonrpc": "2.0", "method": "taskd.event", "params": event})
        else:
            connection.send({"jsonrpc": "2.0", "id": request["id"], "result": request["params"]})

    server = Scripted(*[handle] * 4)
    code = """
        $given = ['old', 'new', 'old', 'new'];
        $token = function () use (&$given) { return array_shift($given); };
        foreach ((new Taskd\\Client(token: $token))->map('f', [1]) as [$row, $result]) show([$row, $result]);
        foreach ((new Taskd\\Client(token: $token))->task('t1')->events() as $event) show($event->event);
    """
    assert program(code, server.port).end() == [[1, [1]], "cancelled"]
    server.close()
    assert shown == ["old", "new", "old", "new"]
