"""The wire protocol at the task server's port: messages sent, and the replies that must come back."""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import APPS, TIMEOUT, Connection, Daemon, Drop, Gate, connect_unix

Start = Callable[..., Daemon]
Apps = ("--app", str(APPS / "plain.py"), "--app", str(APPS / "probes.py"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server with four workers, for the tests that only read it."""
    daemon = Daemon(*Apps, "--workers", "4", directory=tmp_path_factory.mktemp("server"))
    daemon.wait_until_ready()
    yield daemon
    status = daemon.stop()
    daemon.wait_until_gone()
    assert status == -15  # twistd ends normally, and then kills itself with the signal that it received
    assert "a bug in taskd" not in daemon.log
    assert "Unhandled" not in daemon.log


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A server with a limit of 1000 bytes per message."""
    directory = tmp_path_factory.mktemp("small")
    daemon = Daemon(*Apps, "--workers", "2", "--max-message", "1000", directory=directory)
    yield daemon.wait_until_ready()
    daemon.stop()
    daemon.wait_until_gone()
    assert "a bug in taskd" not in daemon.log
    assert "Unhandled" not in daemon.log


@pytest.fixture
def client(server: Daemon) -> Iterator[Connection]:
    connection = server.connect()
    yield connection
    connection.close()


def bare(function: str, *args: Any, **named: Any) -> dict[str, Any]:
    return {"function": function, **({"args": args or named} if args or named else {})}


def rpc(request_id: Any, method: str, params: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": request_id,
        "method": method,
        **({} if params is None else {"params": params}),
        **more,
    }


def result(request_id: Any, value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": value}


def error_of(reply: Any) -> tuple[int, Any]:
    """Return the code and data of an error reply in either dialect, which must have a message."""
    assert set(reply) in ({"error"}, {"jsonrpc", "id", "error"}), reply
    error = reply["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    return error["code"], error.get("data")


# --- the two dialects --------------------------------------------------------


def test_bare_arguments_are_taken_by_name_by_position_or_left_out(client: Connection) -> None:
    assert client.ask({"function": "add", "args": {"a": 2, "b": 3}}) == 5
    assert client.ask({"function": "add", "args": [2, 3]}) == 5
    assert client.ask({"function": "hello"}) == "Hello, World!"
    assert client.ask({"function": "hello", "args": {}}) == "Hello, World!"
    assert client.ask({"function": "hello", "args": []}) == "Hello, World!"


def test_json_rpc_params_are_taken_by_name_by_position_or_left_out(client: Connection) -> None:
    assert client.ask(rpc(1, "add", {"a": 2, "b": 3})) == result(1, 5)
    assert client.ask(rpc(2, "add", [2, 3])) == result(2, 5)
    assert client.ask(rpc(3, "hello")) == result(3, "Hello, World!")


@pytest.mark.parametrize("request_id", [0, -7, 1.5, "", "a\nb", "é", "0", 2**70, None])
def test_a_json_rpc_reply_has_the_id_of_its_request(client: Connection, request_id: Any) -> None:
    assert client.ask(rpc(request_id, "echo", ["x"])) == result(request_id, "x")


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 2**80, 1.5, 1e300, "", "line\nbreak\r", "é€😀", "\u2028\u0000\x7f", [], {}, [[]],
        {"": {"a": [1, None]}}, {"error": {"code": 1, "message": "a result all the same"}},
    ],
    ids=repr,
)  # fmt: skip
def test_any_json_value_survives_the_round_trip(client: Connection, value: Any) -> None:
    assert client.ask(rpc(1, "echo", [value])) == result(1, value)
    assert client.ask(bare("echo", value)) == value


def test_a_reply_is_one_line_that_ends_in_a_bare_lf(server: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", server.port(1)), TIMEOUT) as sock:
        sock.sendall(b'{"function": "echo", "args": ["a\\nb\\r"]}\n')
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
    assert received == b'"a\\nb\\r"\n'


def test_parameters_named_like_keywords_are_written_without_the_underscore(client: Connection) -> None:
    assert client.ask(bare("from.keyword", **{"from": "a@x", "class": 3})) == ["a@x", 3]
    assert client.ask(bare("from.keyword", **{"from": "a@x"})) == ["a@x", 0]
    code, data = error_of(client.ask(bare("from.keyword")))
    assert (code, data["argument"]) == (-32602, "from")


def test_blank_lines_and_crs_before_the_lf_are_ignored(client: Connection) -> None:
    client.socket.sendall(b'\n\r\n\r\r\n{"function": "hello"}\r\n\n{"function": "hello"}\r\r\r\n\n')
    client.end_sending()
    assert client.receive_all() == ["Hello, World!"] * 2


def test_a_message_may_arrive_byte_by_byte(client: Connection) -> None:
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in '{"function": "echo", "args": ["é€😀"]}\n'.encode():
        client.socket.sendall(bytes([byte]))
    assert client.receive() == "é€😀"


def test_both_dialects_share_one_connection(client: Connection) -> None:
    client.send(bare("echo", 1), rpc(1, "echo", [2]), bare("echo", 3)).end_sending()
    replies = client.receive_all()
    assert [reply for reply in replies if not isinstance(reply, dict)] == [1, 3]
    assert [reply for reply in replies if isinstance(reply, dict)] == [result(1, 2)]


# --- order -------------------------------------------------------------------


def test_bare_replies_come_in_request_order_whatever_order_they_finish_in(start: Start, gate: Gate) -> None:
    client = start("--workers", "2").wait_until_ready().connect()
    # One worker waits; the other runs the rest in turn, so that the reply to
    # the last shows that all the others have finished.
    client.send(gate.call(), bare("hello"), bare("nonsense"), bare("boom"), rpc("last", "hello"))
    assert client.receive() == result("last", "Hello, World!")
    gate.release("first")
    replies = [client.receive() for _ in range(4)]
    assert replies[:2] == ["first", "Hello, World!"]
    assert error_of(replies[2])[0] == -32601
    assert error_of(replies[3])[0] == -32000


def test_json_rpc_replies_are_sent_as_soon_as_they_are_ready(client: Connection, gate: Gate) -> None:
    client.send(gate.rpc("slow"), rpc("quick", "hello"))
    assert client.receive() == result("quick", "Hello, World!")
    gate.release("done")
    assert client.receive() == result("slow", "done")


def test_a_json_rpc_reply_does_not_wait_for_bare_ones(client: Connection, gate: Gate) -> None:
    client.send(gate.call(), rpc(1, "hello"))
    assert client.receive() == result(1, "Hello, World!")
    gate.release("done")
    assert client.receive() == "done"


def test_ten_thousand_pipelined_requests_are_all_answered_in_order(client: Connection) -> None:
    client.send(*(bare("echo", number) for number in range(10_000))).end_sending()
    assert client.receive_all() == list(range(10_000))


def test_two_clients_do_not_wait_for_each_other(server: Daemon, client: Connection, gate: Gate) -> None:
    client.send(gate.call(), bare("hello"))
    gate.wait_until_entered()
    assert server.connect().ask(bare("hello")) == "Hello, World!"
    gate.release("done")
    assert [client.receive(), client.receive()] == ["done", "Hello, World!"]


# --- notifications and batches -----------------------------------------------


def test_a_notification_runs_and_gets_no_reply(client: Connection, drop: Drop) -> None:
    client.send({"jsonrpc": "2.0", "method": "drop_into", "params": [drop.path, "it ran"]})
    assert drop.receive() == "it ran"
    client.send(rpc(1, "hello")).end_sending()
    assert client.receive_all() == [result(1, "Hello, World!")]


def test_a_notification_that_fails_gets_no_reply_either(client: Connection) -> None:
    client.send(
        {"jsonrpc": "2.0", "method": "boom"},
        {"jsonrpc": "2.0", "method": "there is none"},
        {"jsonrpc": "2.0", "method": "add", "params": ["x"]},
        {"jsonrpc": "2.0", "method": "vanish"},
        {"jsonrpc": "2.0", "method": "taskd.ping"},
    ).end_sending()
    assert client.receive_all() == []


def test_a_batch_gets_one_array_of_replies(client: Connection) -> None:
    reply = client.ask(
        [
            rpc(1, "add", [1, 2]),
            rpc("2", "there is none"),
            {"jsonrpc": "2.0", "method": "hello"},
            rpc(3, "boom"),
            {"foo": "boo"},
            7,
            rpc(4, "taskd.ping"),
        ]
    )
    assert isinstance(reply, list)
    assert len(reply) == 6
    by_id = {each["id"]: each for each in reply if each["id"] is not None}
    assert by_id[1] == result(1, 3)
    assert by_id[4] == result(4, "pong")
    assert error_of(by_id["2"])[0] == -32601
    assert error_of(by_id[3])[0] == -32000
    assert [error_of(each)[0] for each in reply if each["id"] is None] == [-32600, -32600]


def test_a_batch_of_notifications_alone_gets_no_reply(client: Connection) -> None:
    client.send([{"jsonrpc": "2.0", "method": "hello"}] * 3, rpc(1, "hello")).end_sending()
    assert client.receive_all() == [result(1, "Hello, World!")]


def test_an_empty_batch_gets_one_error(client: Connection) -> None:
    reply = client.ask(b"[]")
    assert error_of(reply)[0] == -32600
    assert reply["id"] is None


def test_a_batch_of_nonsense_gets_an_error_for_each_element(client: Connection) -> None:
    reply = client.ask(b"[1, 2, []]")
    assert [(each["id"], error_of(each)[0]) for each in reply] == [(None, -32600)] * 3


def test_a_batch_that_is_not_json_gets_one_parse_error(client: Connection) -> None:
    assert error_of(client.ask(b'[{"jsonrpc": "2.0", "method": "hello", "id": 1}, {"jsonrpc": '))[0] == -32700
    assert client.ask(bare("hello")) == "Hello, World!"


def test_a_batch_waits_for_its_last_request_and_delays_no_other(client: Connection, gate: Gate) -> None:
    client.send([gate.rpc(1), rpc(2, "hello")], rpc(3, "hello"))
    assert client.receive()["id"] == 3
    gate.release("done")
    assert sorted(client.receive(), key=lambda each: each["id"]) == [
        result(1, "done"),
        result(2, "Hello, World!"),
    ]


def test_a_batch_may_exceed_max_outstanding(start: Start) -> None:
    client = start("--workers", "2", "--max-outstanding", "5").wait_until_ready().connect()
    client.send([rpc(number, "echo", [number]) for number in range(500)], bare("hello"))
    replies = {type(reply): reply for reply in (client.receive(), client.receive())}
    assert sorted((each["id"], each["result"]) for each in replies[list]) == [(n, n) for n in range(500)]
    assert replies[str] == "Hello, World!"


# --- half-close --------------------------------------------------------------


def test_a_half_closed_client_gets_every_reply_and_then_the_end(client: Connection, gate: Gate) -> None:
    client.send(gate.call(), rpc(1, "boom"), bare("echo", 2), [rpc(3, "echo", [3])]).end_sending()
    gate.release("first")
    replies = client.receive_all()
    assert len(replies) == 4
    assert [reply for reply in replies if not isinstance(reply, dict | list)] == ["first", 2]
    assert [result(3, 3)] in replies


def test_a_half_closed_client_gets_the_replies_to_requests_that_had_to_wait(start: Start, gate: Gate) -> None:
    client = start("--workers", "1", "--max-outstanding", "3").wait_until_ready().connect()
    client.send(gate.call(), *(bare("echo", number) for number in range(1000))).end_sending()
    gate.release("first")
    assert client.receive_all() == ["first", *range(1000)]


def test_a_client_that_sends_nothing_and_half_closes_is_closed(client: Connection) -> None:
    assert client.end_sending().receive_all() == []


def test_an_unterminated_last_line_is_answered_with_an_error_after_the_other_replies(
    client: Connection, gate: Gate
) -> None:
    client.send(gate.call())
    client.socket.sendall(b'{"function": "hello"')
    client.end_sending()
    gate.release("first")
    replies = client.receive_all()
    assert replies[0] == "first"
    assert [error_of(reply)[0] for reply in replies[1:]] == [-32700]


# --- errors ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "at"),
    [
        (b'{"function": }', 13),
        (b'{"function": "hello"} x', 22),
        (b"nonsense", None),
        (b"{'function': 'hello'}", 1),
        (b'{"function": "hello"', None),
        (b'{"function": "echo", "args": [1, ]}', None),
        (b'{"function": "echo", "args": [NaN]}', None),
        (b'{"function": "echo", "args": ["\\ud800"', None),
        (b"[" * 100_000, None),
        (b'{"a":' * 100_000, None),
    ],
    ids=lambda value: str(value[:32]) if isinstance(value, bytes) else str(value),
)
def test_a_message_that_is_not_json_is_a_parse_error_that_names_the_place(
    client: Connection, line: bytes, at: int | None
) -> None:
    assert client.ask(bare("hello")) == "Hello, World!"
    code, data = error_of(client.ask(line))
    assert code == -32700
    if at is not None:
        assert data == {"at": at}
    assert client.ask(bare("hello")) == "Hello, World!"


@pytest.mark.parametrize(
    ("line", "at"),
    [
        (b'{"function": "\xff"}', 14),
        (b"\xfe\xff\x00{", 0),
        (b'{"function": "echo", "args": ["caf\xe9"]}', 34),
        (b'{"function": "echo", "args": ["\xed\xa0\x80"]}', 31),
        (b'{"function": "echo", "args": ["\xc3', 31),
    ],
)
def test_a_message_that_is_not_utf_8_is_a_parse_error_that_names_the_place(
    client: Connection, line: bytes, at: int
) -> None:
    assert client.ask(bare("hello")) == "Hello, World!"
    assert error_of(client.ask(line)) == (-32700, {"at": at})
    assert client.ask(bare("hello")) == "Hello, World!"


@pytest.mark.parametrize(
    ("message", "member"),
    [
        ({"function": "hello", "colour": 1}, "colour"),
        ({"function": "hello", "id": 1}, "id"),
        ({"function": "hello", "params": []}, "params"),
        ({"function": 7}, "function"),
        ({"function": "hello", "args": "x"}, "args"),
        ({"function": "hello", "args": 1}, "args"),
        ({"function": "hello", "options": 1}, "options"),
        ({"function": "hello", "options": {"colour": 1}}, "options.colour"),
        ({"function": "hello", "options": {"timeout": 0}}, "options.timeout"),
        ({"function": "hello", "options": {"deadline": "soon"}}, "options.deadline"),
        ({"function": "hello", "options": {"priority": 10}}, "options.priority"),
        ({"function": "hello", "options": {"on_disconnect": "shrug"}}, "options.on_disconnect"),
        (rpc(1, "hello", colour=1), "colour"),
        (rpc(1, "hello", args={}), "args"),
        (rpc(1, "hello", options={"colour": 1}), "options.colour"),
        (rpc(1, "hello", 7), "params"),
        (rpc(1, "hello", "x"), "params"),
        (rpc(1, 7), "method"),  # type: ignore[arg-type]
        ({"jsonrpc": "2.0", "id": 1}, "method"),
        ({"jsonrpc": "1.0", "id": 1, "method": "hello"}, "jsonrpc"),
        ({"jsonrpc": 2.0, "id": 1, "method": "hello"}, "jsonrpc"),
        ({"id": 1, "method": "hello"}, "jsonrpc"),
        (rpc([1], "hello"), "id"),
        (rpc({}, "hello"), "id"),
        (rpc(True, "hello"), "id"),
    ],
    ids=lambda value: json.dumps(value),
)
def test_a_request_with_a_wrong_member_is_refused_and_the_member_named(
    client: Connection, message: dict[str, Any], member: str
) -> None:
    reply = client.ask(message)
    assert error_of(reply) == (-32600, {"member": member})
    if "jsonrpc" in message and not isinstance(message.get("id"), list | dict | bool):
        assert reply["id"] == 1
    assert client.ask(bare("hello")) == "Hello, World!"


@pytest.mark.parametrize("message", [{}, {"foo": 1}, 7, "hello", None, True, {"args": {}}], ids=json.dumps)
def test_a_message_in_neither_dialect_is_refused(client: Connection, message: Any) -> None:
    assert client.ask(bare("hello")) == "Hello, World!"
    assert error_of(client.ask(message))[0] == -32600
    assert client.ask(bare("hello")) == "Hello, World!"


def test_a_message_in_both_dialects_at_once_is_refused(client: Connection) -> None:
    assert error_of(client.ask({**rpc(1, "hello"), **bare("hello")}))[0] == -32600


def test_an_option_of_the_wrong_type_is_refused(client: Connection) -> None:
    code, data = error_of(client.ask(rpc(1, "hello", options={"progress": "yes"})))
    assert code == -32600
    assert data["member"].startswith("options")


def test_a_request_with_an_unknown_option_is_not_run(client: Connection, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    request = {**bare("drop_into", str(tmp_path / "fifo")), "options": {"colour": 1}}
    client.send(request, bare("taskd.status"))
    assert error_of(client.receive())[0] == -32600
    assert client.receive()["running"] == 0


@pytest.mark.parametrize(
    "name", ["there is none", "", "__import__", "os.system", "taskd.nothing", "taskd.", "é"]
)
def test_a_function_that_is_not_registered_is_not_found(client: Connection, name: str) -> None:
    assert error_of(client.ask(bare(name))) == (-32601, None)
    reply = client.ask(rpc(1, name))
    assert error_of(reply) == (-32601, None)
    assert reply["id"] == 1


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (bare("add", a="x"), {"argument": "a", "expected": "int", "got": "str"}),
        (bare("add", 1, None), {"argument": "b", "expected": "int", "got": "null"}),
        (bare("add", a=1.5), {"argument": "a", "expected": "int", "got": "float"}),
        (bare("total", numbers=[1, "x"]), {"argument": "numbers[1]", "expected": "int", "got": "str"}),
        (bare("total", [1, True]), {"argument": "numbers[1]", "expected": "int", "got": "bool"}),
        (bare("add", 1, 2, 3), {"expected": 2, "got": 3}),
    ],
    ids=lambda value: json.dumps(value),
)
def test_an_argument_that_does_not_fit_is_named_with_what_was_expected_and_got(
    client: Connection, message: dict[str, Any], data: dict[str, Any]
) -> None:
    assert error_of(client.ask(message)) == (-32602, data)


@pytest.mark.parametrize(
    ("message", "argument"),
    [
        (bare("add"), "a"),
        (bare("add", b=1), "a"),
        (bare("add", a=1, c=2), "c"),
        (bare("total", [1], times="x"), "numbers"),
        (bare("hello", name_="x"), "name_"),
        (rpc(1, "taskd.ping", {"x": 1}), "x"),
    ],
    ids=lambda value: json.dumps(value),
)
def test_an_argument_that_is_missing_or_unknown_is_named(
    client: Connection, message: dict[str, Any], argument: str
) -> None:
    if message.get("function") == "total":
        message = bare("total", times=2)
    code, data = error_of(client.ask(message))
    assert (code, data["argument"]) == (-32602, argument)


def test_a_function_that_raises_is_a_failed_task_with_type_and_message_and_no_traceback(
    client: Connection,
) -> None:
    code, data = error_of(client.ask(bare("boom", message="so it is")))
    assert (code, data) == (-32000, {"type": "ValueError", "message": "so it is"})
    code, data = error_of(client.ask(bare("async_boom")))
    assert (code, data["type"]) == (-32000, "KeyError")


def test_the_traceback_is_sent_only_with_tracebacks_and_shows_the_tasks_own_frames(start: Start) -> None:
    client = start("--tracebacks", "--workers", "1").wait_until_ready().connect()
    code, data = error_of(client.ask(bare("boom")))
    assert (code, data["type"], data["message"]) == (-32000, "ValueError", "boom")
    assert data["traceback"].startswith("Traceback (most recent call last):")
    assert "plain.py" in data["traceback"]
    assert "taskd/pool" not in data["traceback"]


def test_the_traceback_of_a_failed_task_is_in_the_log_with_its_name_and_number(
    server: Daemon, client: Connection
) -> None:
    client.ask(bare("boom", message="look for this"))
    server.wait_for_log(r"boom #\d+ failed")
    server.wait_for_log(r"ValueError: look for this")


def test_sys_exit_fails_the_task_and_not_the_worker(start: Start) -> None:
    client = start("--workers", "1").wait_until_ready().connect()
    before = client.ask(bare("pid"))
    code, data = error_of(client.ask(bare("leave")))
    assert (code, data["type"]) == (-32000, "SystemExit")
    assert client.ask(bare("pid")) == before


def test_a_keyboard_interrupt_in_a_task_fails_the_task_and_not_the_worker(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "interrupt.py").write_text(
        "import os\nfrom taskd import task\n"
        "@task\ndef interrupt():\n    raise KeyboardInterrupt\n"
        "@task\ndef pid():\n    return os.getpid()\n"
        "@task\nasync def async_exit():\n    raise SystemExit(2)\n"
    )
    client = start("--workers", "1", "--app", "interrupt").wait_until_ready().connect()
    before = client.ask(bare("pid"))
    for function, name in (("interrupt", "KeyboardInterrupt"), ("async_exit", "SystemExit")):
        code, data = error_of(client.ask(bare(function)))
        assert (code, data["type"]) == (-32000, name)
        assert client.ask(bare("pid")) == before


def test_a_result_that_is_not_json_names_its_type(client: Connection) -> None:
    reply = client.ask(bare("not_json"))
    code, data = error_of(reply)
    assert (code, data["type"]) == (-32000, "object")
    assert "object" in reply["error"]["message"]


@pytest.mark.parametrize("kind", ["set of objects", "lone surrogate", "itself", "complex", "module"])
def test_a_result_that_cannot_be_written_as_json_fails_the_task_and_not_the_worker(
    client: Connection, kind: str
) -> None:
    assert error_of(client.ask(bare("odd", kind)))[0] == -32000
    assert client.ask(bare("hello")) == "Hello, World!"


def test_a_worker_that_dies_is_an_error_with_its_status_or_signal(client: Connection) -> None:
    code, data = error_of(client.ask(bare("vanish", 7)))
    assert (code, data["status"]) == (-32003, 7)
    code, data = error_of(client.ask(bare("die", 9)))
    assert (code, data["signal"]) == (-32003, "SIGKILL")


def test_a_full_queue_answers_busy_with_when_to_try_again(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1", "--max-queue", "2").wait_until_ready()
    client = daemon.connect()
    client.send(gate.rpc("running"))
    gate.wait_until_entered()
    client.send(*(rpc(number, "echo", [number]) for number in range(4)))
    refused = [client.receive(), client.receive()]
    assert [reply["id"] for reply in refused] == [2, 3]
    newcomer = daemon.connect()
    newcomer.send(rpc("its share", "echo", [7]), rpc("too much", "echo", [8]))
    for reply in [*refused, newcomer.receive()]:
        code, data = error_of(reply)
        assert code == -32004
        assert data["retry_after"] > 0
    assert client.ask(rpc("own", "taskd.ping")) == result("own", "pong")
    gate.release("done")
    assert [client.receive() for _ in range(3)] == [result("running", "done"), result(0, 0), result(1, 1)]
    assert newcomer.receive() == result("its share", 7)
    assert client.ask(bare("hello")) == "Hello, World!"


def test_a_server_without_a_queue_takes_as_many_tasks_as_it_has_workers(
    start: Start, make_gate: Callable[[], Gate]
) -> None:
    daemon = start("--workers", "2", "--max-queue", "0").wait_until_ready()
    daemon.wait_for_workers(2)
    client = daemon.connect()
    gates = [make_gate(), make_gate()]
    client.send(gates[0].rpc(0), gates[1].rpc(1), rpc(2, "hello"))
    assert error_of(client.receive())[0] == -32004
    for gate in gates:
        gate.release()
    assert sorted((client.receive()["id"], client.receive()["id"])) == [0, 1]
    assert client.ask(bare("hello")) == "Hello, World!"


# --- size --------------------------------------------------------------------


def padded(size: int) -> bytes:
    """Make a request of so many bytes, including its LF."""
    head, tail = b'{"function": "taskd.ping", "args": {}', b"}"
    return head + b" " * (size - len(head) - len(tail) - 1) + tail


def test_a_message_of_exactly_the_limit_is_taken(small: Daemon) -> None:
    client = small.connect()
    client.send(*[padded(1000)] * 5, padded(999)).end_sending()
    assert client.receive_all() == ["pong"] * 6


def test_a_message_over_the_limit_is_refused_after_all_earlier_replies_and_closes_the_connection(
    small: Daemon, gate: Gate
) -> None:
    client = small.connect()
    client.send(gate.call(), bare("boom"), padded(1001), bare("hello"))
    gate.wait_until_entered()
    # The error waits for its turn.
    assert small.connect().ask(bare("hello")) == "Hello, World!"
    gate.release("first")
    replies = client.receive_all()
    assert replies[0] == "first"
    assert error_of(replies[1])[0] == -32000
    assert error_of(replies[2]) == (-32006, {"limit": 1000})
    assert len(replies) == 3
    assert small.connect().ask(bare("hello")) == "Hello, World!"


def test_an_unterminated_message_is_refused_as_soon_as_it_exceeds_the_limit(small: Daemon) -> None:
    client = small.connect()
    client.socket.sendall(b"x" * 1000)
    assert [error_of(reply) for reply in client.receive_all()] == [(-32006, {"limit": 1000})]


def test_a_client_that_keeps_sending_far_over_the_limit_still_receives_the_error(
    start: Start, gate: Gate
) -> None:
    """The error is flushed before the connection closes, and no reset overtakes it."""
    client = start("--workers", "1", "--max-message", "100000").wait_until_ready().connect()
    client.send(gate.call())
    gate.wait_until_entered()

    def flood() -> None:
        try:
            for _ in range(200):
                client.socket.sendall(b"x" * 100_000)
        except OSError:
            pass  # closed meanwhile, as it may be

    sending = threading.Thread(target=flood)
    sending.start()
    gate.release("first")
    assert client.receive() == "first"
    assert error_of(client.receive()) == (-32006, {"limit": 100_000})
    sending.join(TIMEOUT)
    assert not sending.is_alive()


def test_a_result_of_exactly_the_limit_is_sent_and_one_over_it_is_an_error(small: Daemon) -> None:
    client = small.connect()
    assert client.ask(bare("big", 997)) == "x" * 997
    assert error_of(client.ask(bare("big", 998))) == (-32006, {"limit": 1000})
    assert error_of(client.ask(rpc(1, "big", [5_000_000]))) == (-32006, {"limit": 1000})
    assert client.ask(bare("hello")) == "Hello, World!"


# --- progress ----------------------------------------------------------------


def progress(request_id: Any, done: float, total: float, message: str) -> dict[str, Any]:
    params = {"id": request_id, "done": done, "total": total, "message": message}
    return {"jsonrpc": "2.0", "method": "taskd.progress", "params": params}


def test_progress_arrives_before_the_result_and_always_includes_the_last_report(client: Connection) -> None:
    began = time.monotonic()
    client.send(rpc("p", "count", [100], options={"progress": True})).end_sending()
    *reports, last = client.receive_all()
    seconds = time.monotonic() - began
    assert last == result("p", 100)
    assert reports[0] == progress("p", 1, 100, "step 1")
    assert reports[-1] == progress("p", 100, 100, "step 100")
    assert 2 <= len(reports) <= 2 + seconds * 20


def test_progress_of_a_bare_request_has_no_id(client: Connection) -> None:
    client.send({**bare("count", 3), "options": {"progress": True}}).end_sending()
    *reports, last = client.receive_all()
    assert last == 3
    assert reports[-1] == progress(None, 3, 3, "step 3")


def test_progress_is_sent_only_if_it_was_requested(client: Connection) -> None:
    client.send(rpc(1, "count", [3]), rpc(2, "count", [3], options={"progress": False}), bare("count", 3))
    client.send(
        {"jsonrpc": "2.0", "method": "count", "params": [3], "options": {"progress": True}}
    ).end_sending()
    replies = client.receive_all()
    assert sorted(replies, key=str) == sorted([result(1, 3), result(2, 3), 3], key=str)


def test_progress_comes_at_most_twenty_times_a_second(client: Connection) -> None:
    began = time.monotonic()
    client.send(rpc(1, "count", [500, 0.002], options={"progress": True})).end_sending()
    done: list[int] = []
    while (message := client.receive()) != result(1, 500):
        done.append(message["params"]["done"])
    seconds = time.monotonic() - began
    assert 5 <= len(done) <= seconds * 20 + 2
    assert done == sorted(set(done))
    assert done[-1] == 500


def test_a_report_that_came_too_soon_is_sent_later_even_without_another(
    client: Connection, gate: Gate
) -> None:
    client.send(gate.rpc(1, "report_and_stand") | {"options": {"progress": True}})
    assert client.receive()["params"] == {"id": 1, "done": 1, "total": 2}
    assert client.receive()["params"] == {"id": 1, "done": 2, "total": 2, "message": "both"}
    gate.release()
    assert client.receive() == result(1, None)


def test_progress_in_a_batch_comes_before_its_reply(client: Connection) -> None:
    client.send([rpc(1, "count", [2], options={"progress": True}), rpc(2, "hello")])
    assert client.receive() == progress(1, 1, 2, "step 1")
    assert client.receive() == progress(1, 2, 2, "step 2")
    assert isinstance(client.receive(), list)


# --- tasks -------------------------------------------------------------------


def test_async_functions_run(client: Connection) -> None:
    assert client.ask(bare("async_nap", 0.001)) == 0.001
    assert client.ask(rpc(1, "async_nap", [0])) == result(1, 0)


def test_running_tasks_go_on_although_their_connection_is_lost(
    server: Daemon, gate: Gate, drop: Drop
) -> None:
    client = server.connect()
    client.send({"function": "pass_on", "args": {"path": gate.path, "target": drop.path}})
    gate.wait_until_entered()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # with a reset
    assert server.connect().ask(bare("hello")) == "Hello, World!"
    gate.release("it went on")
    assert drop.receive() == "it went on"


def test_waiting_tasks_run_although_their_connection_is_lost(start: Start, gate: Gate, drop: Drop) -> None:
    daemon = start(*Apps, "--workers", "1").wait_until_ready()
    client = daemon.connect()
    client.send(gate.call(), bare("drop_into", drop.path, "it ran"))
    gate.wait_until_entered()
    daemon.wait_for_status(lambda status: status["waiting"] == 1)
    client.close()
    gate.release()
    assert drop.receive() == "it ran"
    daemon.wait_for_status(lambda status: status["waiting"] == status["running"] == 0)


# --- the server's own methods ------------------------------------------------


def test_ping_is_answered_while_every_worker_is_busy(start: Start, gate: Gate) -> None:
    client = start("--workers", "1").wait_until_ready().connect()
    client.send(gate.rpc(1))
    gate.wait_until_entered()
    assert client.ask(rpc(2, "taskd.ping")) == result(2, "pong")


def test_functions_lists_names_signatures_and_first_docstring_lines(client: Connection) -> None:
    functions = {each["name"]: each for each in client.ask(bare("taskd.functions"))}
    assert {"hello", "from.keyword", "async_nap", "total"} <= set(functions)
    assert not any(name.startswith("taskd.") for name in functions)
    hello = functions["hello"]
    assert "name: str = 'World'" in hello["signature"]
    assert hello["summary"] == "Say hello."
    assert functions["wait_for"]["summary"].startswith("Wait until the test has opened this FIFO")
    assert list(functions["from.keyword"]["parameters"]) == ["from", "class"]


def test_status_shows_running_and_waiting_tasks_and_how_many_were_done(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "2", "--max-queue", "77").wait_until_ready()
    daemon.wait_for_workers(2)
    client = daemon.connect()
    client.send(rpc(1, "hello"), rpc(2, "boom"), rpc(3, "vanish"))
    assert {client.receive()["id"] for _ in range(3)} == {1, 2, 3}
    workers = daemon.wait_for_workers(2)
    assert sorted(worker["pid"] for worker in workers) == daemon.workers
    client.send(gate.rpc(4))
    gate.wait_until_entered()
    status = client.ask(rpc(5, "taskd.status"))["result"]
    assert status["name"] == daemon.name
    assert status["uptime"] > 0
    assert status["stopping"] is False
    assert (status["waiting"], status["running"], status["max_queue"]) == (0, 1, 77)
    (busy,) = [worker for worker in status["workers"] if worker["state"] == "busy"]
    assert (busy["function"], busy["task"]) == ("wait_for", 4)
    assert busy["seconds"] >= 0
    seen = {each["name"]: (each["done"], each["failed"], each["lost"]) for each in status["functions"]}
    assert (seen["hello"], seen["boom"], seen["vanish"]) == ((1, 0, 0), (0, 1, 0), (0, 0, 1))


# --- what must never happen --------------------------------------------------

MALFORMED = [
    b"nonsense",
    b"{",
    b"[",
    b"[1,",
    b"{}",
    b"[]",
    b"[[]]",
    b"null",
    b'"\xff"',
    b"\xff",
    b"\x00",
    b"\xef\xbb\xbf{}",
    b'{"function": "\\ud800"}',
    b'{"function": "echo", "args": ["\\ud800"]}',
    b'{"function": "echo", "args": ["\\udc00\\ud800"]}',
    b'{"function": "echo", "args": {"\\ud800": 1}}',
    b'{"function": "hello", "function": "hello"}',
    b'{"function": "hello", "args": {"name": "a", "name": "b"}}',
    b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "hello"}',
    b'{"jsonrpc": "2.0", "id": 1e999, "method": "hello"}',
    b'{"jsonrpc": "2.0", "id": ' + b"9" * 1000 + b', "method": "hello"}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "\\ud800"}',
    b'{"jsonrpc": "2.0", "id": 1, "id": 2, "method": "hello"}',
    b'{"function": "add", "args": [' + b"9" * 1000 + b"]}",
    b'{"function": "add", "args": [1e999]}',
    b'{"function": "echo", "args": [' + b"[" * 5000 + b"]" * 5000 + b"]}",
    b'{"function": "echo", "args": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    b"[" * 50_000 + b"]" * 50_000,
    b'{"\\ud800": 1}',
    b'{"function": "hello", "\\ud800": 1}',
    b'{"function": "hello", "options": {"\\ud800": 1}}',
    b'{"function": "hello", "options": {"progress": 1e999}}',
    b'{"function": "taskd.ping", "args": ["\\ud800"]}',
    b'{"function": "taskd.ping", "args": {"\\ud800": 1}}',
    b'{"function": "taskd.functions", "args": [' + b"[" * 5000 + b"]" * 5000 + b"]}",
]


def test_a_malformed_message_closes_nothing_affects_no_other_and_logs_no_traceback(
    start: Start,
) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    client = daemon.connect()
    for number, line in enumerate(MALFORMED):
        client.send(bare("echo", f"before {number}"), line, bare("echo", f"behind {number}"))
    client.end_sending()
    replies = client.receive_all()
    # A JSON-RPC reply may come before bare ones: each must have one, in any order.
    assert len(replies) == 3 * len(MALFORMED)
    echoes = [reply for reply in replies if isinstance(reply, str) and reply.startswith(("before", "behind"))]
    assert echoes == [f"{side} {number}" for number in range(len(MALFORMED)) for side in ("before", "behind")]
    codes = {error_of(reply)[0] for reply in replies if isinstance(reply, dict) and "error" in reply}
    assert codes <= {-32700, -32600, -32601, -32602}
    daemon.stop()
    daemon.wait_for_end()
    assert "Traceback" not in daemon.log
    assert "Error" not in daemon.log
    assert daemon.log.count("worker 2") == 0  # no worker had to be replaced


# --- endpoints and apps ------------------------------------------------------


def test_several_endpoints_serve_one_task_server(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    tcp = "tcp:0:interface=127.0.0.1"
    daemon = start(
        "--listen", tcp, "--listen", f"unix:{path}", "--listen", tcp, "--workers", "1"
    ).wait_until_ready()
    assert daemon.port(1) != daemon.port(2)
    ports = [socket.create_connection(("127.0.0.1", daemon.port(nth)), TIMEOUT) for nth in (1, 2)]
    connections = [*map(Connection, ports), connect_unix(path)]
    assert len({connection.ask(bare("pid")) for connection in connections}) == 1
    daemon.stop()
    assert not path.exists()


def test_half_close_works_on_a_unix_socket(start: Start, tmp_path: Path, gate: Gate) -> None:
    path = tmp_path / "socket"
    start("--listen", f"unix:{path}", "--workers", "2").wait_until_ready()
    client = connect_unix(path).send(gate.call(), bare("hello")).end_sending()
    gate.release("first")
    assert client.receive_all() == ["first", "Hello, World!"]


def test_a_unix_socket_left_behind_by_a_killed_server_is_taken_over(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    killed = start("--listen", f"unix:{path}", "--workers", "1").wait_until_ready()
    assert killed.stop(9) == -9
    assert path.exists()
    start("--listen", f"unix:{path}", "--workers", "1").wait_until_ready()
    assert connect_unix(path).ask(bare("hello")) == "Hello, World!"


def test_apps_can_be_modules_of_the_working_directory_and_files_also_together(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "here.py").write_text("from taskd import task\n@task\ndef one():\n    return __name__\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "inner.py").write_text(
        "from taskd import task\n@task\ndef two():\n    return __name__\n"
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "helper.py").write_text("VALUE = 3\n")
    (tmp_path / "elsewhere" / "there.py").write_text(
        "from helper import VALUE\nfrom taskd import task\n@task\ndef three():\n    return VALUE\n"
    )
    apps = ["here", "package.inner", "elsewhere/there.py", str(APPS / "plain.py")]
    options = [option for app in apps for option in ("--app", app)]
    client = start(*options, "--workers", "1").wait_until_ready().connect()
    assert client.ask(bare("one")) == "here"
    assert client.ask(bare("two")) == "package.inner"
    assert client.ask(bare("three")) == 3
    assert client.ask(bare("hello")) == "Hello, World!"


def test_requests_wait_until_the_app_is_imported(start: Start, tmp_path: Path, gate: Gate) -> None:
    (tmp_path / "slow.py").write_text(
        f"from taskd import task\nopen({gate.path!r}).read()\n@task\ndef one():\n    return 1\n"
    )
    daemon = start("--app", "slow", "--workers", "1")
    client = daemon.connect().send(rpc(1, "one"), rpc(2, "there is none"), rpc(3, "taskd.ping"))
    gate.wait_until_entered()
    assert client.receive() == result(3, "pong")
    gate.release()
    replies = {reply["id"]: reply for reply in (client.receive(), client.receive())}
    assert replies[1] == result(1, 1)
    assert error_of(replies[2])[0] == -32601


@pytest.mark.parametrize(
    "first",
    [b"POST / HTTP/1.1\r", b"post / HTTP/1.1\r", b"null / HTTP/1.1\r", b"EHLO x\r", b"\x16\x03\x01\x02"],
)
def test_nothing_is_run_behind_the_first_line_of_another_protocol(daemon: Daemon, first: bytes) -> None:
    client = daemon.connect()
    client.send(first, b"Host: 127.0.0.1\r", b"\r", bare("hello"), bare("hello"))
    (reply,) = client.receive_all()
    assert "HTTP" in reply["error"]["message"]
    assert daemon.connect().ask(bare("taskd.status"))["functions"] == []


def test_a_peer_that_speaks_another_protocol_is_refused_before_its_first_line_ends(daemon: Daemon) -> None:
    client = daemon.connect()
    client.socket.sendall(b"\x16\x03\x01\x02")
    (reply,) = client.receive_all()
    assert error_of(reply)[0] == -32600
