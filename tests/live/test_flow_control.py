"""Back-pressure: no client fills the server's memory or delays another, and nothing is lost."""

import json
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

from tests.live.support import TIMEOUT, Connection, Daemon, Gate, resident_bytes

Start = Callable[..., Daemon]
MakeGate = Callable[[], Gate]

QUIET = 0.3
"""Seconds in which a server that still reads would have read: there is no event to wait for."""

MIB = 1024 * 1024
IN_THE_KERNEL = 25 * MIB
"""Bytes: more than the buffers of a connection's two sockets hold."""

PADDING = "x" * 10_000
"""Makes requests and replies large, so that buffers fill with few of them."""


def bare(function: str, *args: Any) -> dict[str, Any]:
    return {"function": function, **({"args": args} if args else {})}


def rpc(request_id: Any, method: str, *params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def lines(*messages: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in messages)


def send_until_blocked(client: Connection, data: bytes, daemon: Daemon | None = None) -> int:
    """Send as much as the server reads, and return how many bytes that was.

    With `daemon`, include what it reads after the tasks that it has started have ended, however slow it
    is.
    """
    sent = send_while_writable(client, data)
    while daemon is not None:
        daemon.wait_for_status(lambda status: status["running"] == 0)
        if sent == len(data) or not is_writable(client):
            break
        sent += send_while_writable(client, data[sent:])
    return sent


def send_while_writable(client: Connection, data: bytes) -> int:
    """Send until the server has read nothing for a moment; return how many bytes that was."""
    client.socket.setblocking(False)
    sent = 0
    with memoryview(data) as view:
        while sent < len(data) and select.select([], [client.socket], [], QUIET)[1]:
            try:
                sent += client.socket.send(view[sent : sent + 65536])
            except BlockingIOError:
                continue
    client.socket.settimeout(TIMEOUT)
    return sent


def numbers_of(replies: list[str]) -> list[int]:
    """Return the numbers at the beginning of padded texts."""
    return [int(reply.partition(" ")[0]) for reply in replies]


def send_rest(client: Connection, data: bytes) -> threading.Thread:
    """Send in the background while the test reads, then shut down the sending side."""

    def send() -> None:
        client.socket.sendall(data)
        client.end_sending()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def is_writable(client: Connection) -> bool:
    return bool(select.select([], [client.socket], [], 0)[1])


# --- a client that does not read ---------------------------------------------


def test_a_client_that_never_reads_is_throttled_and_affects_no_other(start: Start) -> None:
    daemon = start("--workers", "2", "--max-unsent", "100000").wait_until_ready()
    before = resident_bytes(daemon.process.pid)
    deaf, other = daemon.connect(), daemon.connect()
    count = 3000
    data = lines(*(bare("echo", f"{number} {PADDING}") for number in range(count)))
    sent = send_until_blocked(deaf, data, daemon)
    assert sent < IN_THE_KERNEL < len(data)
    # Others are served; their round trips show that the server is running, and still does not read.
    assert [other.ask(bare("echo", number)) for number in range(200)] == list(range(200))
    # The kernel may take a little more, the server nothing.
    sent += send_while_writable(deaf, data[sent:])
    assert sent < IN_THE_KERNEL
    assert resident_bytes(daemon.process.pid) - before < 30 * MIB
    # Once it reads, it gets everything, in order.
    sending = send_rest(deaf, data[sent:])
    replies = deaf.receive_all()
    assert numbers_of(replies) == list(range(count))
    sending.join(TIMEOUT)


def test_json_rpc_replies_are_throttled_in_the_same_way(start: Start) -> None:
    daemon = start("--workers", "2", "--max-unsent", "100000").wait_until_ready()
    before = resident_bytes(daemon.process.pid)
    deaf, other = daemon.connect(), daemon.connect()
    count = 3000
    data = lines(*(rpc(number, "echo", PADDING) for number in range(count)))
    sent = send_until_blocked(deaf, data, daemon)
    assert sent < IN_THE_KERNEL < len(data)
    assert [other.ask(bare("echo", number)) for number in range(200)] == list(range(200))
    # The kernel may take a little more, the server nothing.
    sent += send_while_writable(deaf, data[sent:])
    assert sent < IN_THE_KERNEL
    assert resident_bytes(daemon.process.pid) - before < 30 * MIB
    sending = send_rest(deaf, data[sent:])
    assert sorted(reply["id"] for reply in deaf.receive_all()) == list(range(count))
    sending.join(TIMEOUT)


def test_errors_alone_are_throttled_too(start: Start) -> None:
    """No task runs here, so nothing but the replies themselves can throttle the client."""
    daemon = start("--workers", "1", "--max-unsent", "100000").wait_until_ready()
    before = resident_bytes(daemon.process.pid)
    deaf, other = daemon.connect(), daemon.connect()
    count = 60_000
    data = lines(*(rpc(number, "x" * 1000) for number in range(count)))
    sent = send_until_blocked(deaf, data, daemon)
    # A reply is a sixth of its request: the replies that the kernel holds are those to many requests.
    assert sent < 2 * IN_THE_KERNEL < len(data)
    assert other.ask(bare("hello")) == "Hello, World!"
    # The kernel may take a little more, the server nothing.
    sent += send_while_writable(deaf, data[sent:])
    assert sent < 2 * IN_THE_KERNEL
    assert resident_bytes(daemon.process.pid) - before < 30 * MIB
    sending = send_rest(deaf, data[sent:])
    assert [reply["id"] for reply in deaf.receive_all()] == list(range(count))
    sending.join(TIMEOUT)


def test_large_unread_results_do_not_pile_up(start: Start) -> None:
    """The requests are small enough for one read; their results would take 200 MB."""
    daemon = start("--workers", "2", "--max-unsent", "1000000", "--max-outstanding", "4").wait_until_ready()
    before = resident_bytes(daemon.process.pid)
    deaf, other = daemon.connect(), daemon.connect()
    count, size = 200, 1_000_000
    deaf.send(*(bare("big", size) for _ in range(count)))
    # Once nothing runs, no more memory is used until the client reads.
    status = daemon.wait_for_status(lambda status: status["running"] == 0 and status["functions"] != [])
    (big,) = status["functions"]
    assert other.ask(bare("hello")) == "Hello, World!"
    assert resident_bytes(daemon.process.pid) - before < 60 * MIB
    assert big["done"] * size < IN_THE_KERNEL + 10 * MIB
    deaf.end_sending()
    assert [len(reply) for reply in deaf.receive_all()] == [size] * count


def test_large_unread_json_rpc_results_do_not_pile_up(start: Start) -> None:
    daemon = start("--workers", "2", "--max-unsent", "1000000", "--max-outstanding", "4").wait_until_ready()
    before = resident_bytes(daemon.process.pid)
    deaf = daemon.connect()
    count, size = 200, 1_000_000
    deaf.send(*(rpc(number, "big", size) for number in range(count))).end_sending()
    daemon.wait_for_status(lambda status: status["running"] == 0 and status["functions"] != [])
    assert resident_bytes(daemon.process.pid) - before < 60 * MIB
    assert sorted(reply["id"] for reply in deaf.receive_all()) == list(range(count))


def test_a_result_far_over_max_unsent_is_still_sent(start: Start) -> None:
    daemon = start("--workers", "2", "--max-unsent", "1").wait_until_ready()
    client = daemon.connect()
    size = 9 * MIB
    client.send(bare("big", size), bare("hello"), bare("big", size)).end_sending()
    assert [len(reply) for reply in client.receive_all()] == [size, len("Hello, World!"), size]


def test_unread_progress_is_dropped_except_for_the_last_report(start: Start) -> None:
    daemon = start("--workers", "2", "--max-unsent", "1000").wait_until_ready()
    client = daemon.connect()
    client.send(rpc("big", "big", 9 * MIB))  # the kernel's buffers are full from here
    client.send(rpc("count", "count", 300, 0.001) | {"options": {"progress": True}})
    daemon.wait_for_status(
        lambda status: {each["name"]: each["done"] for each in status["functions"]} == {"count": 1, "big": 1}
    )
    client.end_sending()
    *replies, last = client.receive_all()
    big = next(reply for reply in replies if reply.get("id") == "big")
    assert len(big["result"]) == 9 * MIB
    reports = replies[replies.index(big) + 1 :]
    assert len(reports) == 1
    assert last == {"jsonrpc": "2.0", "id": "count", "result": 300}
    assert reports[-1]["params"]["done"] == 300


def test_a_client_that_disconnects_without_reading_leaves_nothing_behind(start: Start) -> None:
    daemon = start("--workers", "2", "--max-unsent", "100000", "--max-outstanding", "10").wait_until_ready()
    other = daemon.connect()
    data = lines(*[bare("echo", PADDING)] * 3000)
    for _ in range(3):
        deaf = daemon.connect()
        assert send_until_blocked(deaf, data) < IN_THE_KERNEL
        deaf.close()
        assert other.ask(bare("hello")) == "Hello, World!"
    daemon.wait_for_status(lambda status: status["waiting"] == status["running"] == 0)
    assert "Traceback" not in daemon.log


# --- more than may be outstanding --------------------------------------------


def test_the_server_stops_reading_at_max_outstanding_and_nothing_is_lost(
    start: Start, make_gate: MakeGate
) -> None:
    daemon = start("--workers", "2", "--max-outstanding", "5").wait_until_ready()
    before = resident_bytes(daemon.process.pid)
    gates = [make_gate(), make_gate()]
    client, second, other = daemon.connect(), daemon.connect(), daemon.connect()
    client.send(gates[0].call())
    gates[0].wait_until_entered()
    second.send(gates[1].call())
    gates[1].wait_until_entered()
    count = 3000
    data = lines(*(bare("echo", f"{number} {PADDING}") for number in range(count)))
    sent = send_until_blocked(client, data)
    assert sent < IN_THE_KERNEL < len(data)
    status = other.ask(bare("taskd.status"))
    assert (status["running"], status["waiting"]) == (2, 4)  # five from one client, one from the other
    # The kernel may take a little more, the server nothing.
    sent += send_while_writable(client, data[sent:])
    assert sent < IN_THE_KERNEL
    assert resident_bytes(daemon.process.pid) - before < 30 * MIB
    for gate in gates:
        gate.release("released")
    sending = send_rest(client, data[sent:])
    first, *replies = client.receive_all()
    assert first == "released"
    assert numbers_of(replies) == list(range(count))
    sending.join(TIMEOUT)
    assert second.receive() == "released"


def test_max_outstanding_applies_to_each_connection(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "2", "--max-outstanding", "1").wait_until_ready()
    first = daemon.connect().send(gate.call(), bare("hello"))
    gate.wait_until_entered()
    second = daemon.connect()
    assert second.ask(bare("hello")) == "Hello, World!"
    gate.release("done")
    assert [first.receive(), first.receive()] == ["done", "Hello, World!"]


def test_notifications_count_as_outstanding(start: Start, gate: Gate) -> None:
    daemon = start("--workers", "1", "--max-outstanding", "3").wait_until_ready()
    client = daemon.connect().send(gate.rpc("held"))
    gate.wait_until_entered()
    client.send(*[{"jsonrpc": "2.0", "method": "hello"}] * 100, rpc("last", "hello"))
    other = daemon.connect()
    for _ in range(20):
        assert other.ask(bare("taskd.status"))["waiting"] <= 2
    gate.release()
    assert client.receive()["id"] == "held"
    assert client.receive()["id"] == "last"


def test_with_max_outstanding_of_one_requests_are_answered_in_order(start: Start) -> None:
    client = start("--workers", "4", "--max-outstanding", "1").wait_until_ready().connect()
    client.send(*(rpc(number, "echo", number) for number in range(1000))).end_sending()
    assert [reply["result"] for reply in client.receive_all()] == list(range(1000))


def test_a_client_with_many_requests_does_not_starve_one_with_few(start: Start) -> None:
    """One client may fill the queue only up to its outstanding requests."""
    daemon = start("--workers", "1", "--max-outstanding", "10").wait_until_ready()
    greedy, modest = daemon.connect(), daemon.connect()
    greedy.send(*(rpc(number, "nap", 0.001) for number in range(400)))
    greedy.receive()
    answered = 1
    modest.send(bare("hello"))
    assert modest.receive() == "Hello, World!"
    status = modest.ask(bare("taskd.status"))
    assert status["waiting"] <= 10
    greedy.end_sending()
    assert len(greedy.receive_all()) + answered == 400


# --- long messages in small pieces -------------------------------------------


def test_a_message_of_ten_mebibytes_in_segments_of_one_kibibyte_arrives_whole(start: Start) -> None:
    client = start("--workers", "1").wait_until_ready().connect()
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head, tail = b'{"function": "echo", "args": ["', b'"]}\n'
    text = b"x" * (10 * MIB - len(head) - len(tail))
    message = head + text + tail
    assert len(message) == 10 * MIB
    with memoryview(message) as view:
        for start_ in range(0, len(message), 1024):
            client.socket.sendall(view[start_ : start_ + 1024])
    assert client.receive() == text.decode()


def test_a_message_of_a_hundred_kilobytes_sent_byte_by_byte_arrives_whole(start: Start) -> None:
    client = start("--workers", "1").wait_until_ready().connect()
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    message = lines(bare("echo", "x" * 100_000))
    for position in range(len(message)):
        client.socket.sendall(message[position : position + 1])
    assert client.receive() == "x" * 100_000


def test_other_clients_are_served_between_the_pieces_of_a_long_message(start: Start) -> None:
    daemon = start("--workers", "1").wait_until_ready()
    slow, other = daemon.connect(), daemon.connect()
    message = lines(bare("echo", "x" * 5 * MIB))
    for position in range(0, len(message), 256 * 1024):
        slow.socket.sendall(message[position : position + 256 * 1024])
        assert other.ask(bare("hello")) == "Hello, World!"
    assert slow.receive() == "x" * 5 * MIB
