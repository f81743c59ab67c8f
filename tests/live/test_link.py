"""The link that tests cut between taskd and PostgreSQL."""

import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.link import Link
from tests.live.support import TIMEOUT

SHORT = 0.2
"""Seconds in which bytes that pass have long come."""


class Echo:
    """A server that sends back what it gets, and keeps it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.received: list[bytes] = []
        self.ends: list[str] = []
        self.changed = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[sock], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        end = "closed"
        try:
            while data := sock.recv(65536):
                with self.changed:
                    self.received.append(data)
                    self.changed.notify_all()
                sock.sendall(data)
        except OSError:
            end = "reset"
        sock.close()
        with self.changed:
            self.ends.append(end)
            self.changed.notify_all()

    def wait_for(self, received: bytes) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: b"".join(self.received) == received, TIMEOUT), self.received

    def wait_for_ends(self, *ends: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.ends == list(ends), TIMEOUT), self.ends


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()


@pytest.fixture
def link(echo: Echo) -> Iterator[Link]:
    with Link(echo.port) as made:
        yield made


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), TIMEOUT)


def ask(sock: socket.socket, text: bytes) -> bytes:
    sock.sendall(text)
    return sock.recv(65536)


def is_silent(sock: socket.socket) -> bool:
    return not select.select([sock], [], [], SHORT)[0]


def is_reset(sock: socket.socket) -> bool:
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    return True


def is_reset_at_once(link: Link) -> bool:
    with pytest.raises(ConnectionResetError), connect(link) as sock:
        sock.recv(1)
    return True


def test_bytes_and_ends_pass(link: Link, echo: Echo) -> None:
    with connect(link) as sock:
        assert ask(sock, b"one") == b"one"
        big = bytes(range(256)) * 40000
        writing = threading.Thread(target=sock.sendall, args=[big])
        writing.start()
        received = b""
        while len(received) < len(big):
            received += sock.recv(65536)
        writing.join()
        assert received == big
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    echo.wait_for_ends("closed")


def test_a_drop_closes_nothing_and_what_was_sent_comes_late(link: Link, echo: Echo) -> None:
    with connect(link) as sock:
        assert ask(sock, b"one") == b"one"
        link.cut("drop")
        sock.sendall(b"two")
        assert is_silent(sock)
        assert echo.received == [b"one"]
        link.heal()
        assert sock.recv(10) == b"two"


def test_new_connections_hang_while_the_link_drops(link: Link) -> None:
    link.cut("drop")
    with socket.socket() as sock:
        sock.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            sock.connect(("127.0.0.1", link.port))
    link.heal()
    with connect(link) as sock:
        assert ask(sock, b"one") == b"one"


def test_connections_that_hang_are_accepted_when_it_is_healed(link: Link) -> None:
    link.cut("drop")
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", link.port))
        assert not select.select([], [sock], [], SHORT)[1]
        link.heal()
        sock.settimeout(TIMEOUT)
        assert select.select([], [sock], [], TIMEOUT)[1]
        assert ask(sock, b"one") == b"one"


def test_a_drop_of_one_way_lets_the_other_pass(link: Link, echo: Echo) -> None:
    with connect(link) as sock:
        link.cut("drop", "down")
        sock.sendall(b"one")
        echo.wait_for(b"one")
        assert is_silent(sock)
        link.heal()
        assert sock.recv(10) == b"one"


def test_connections_that_a_healed_link_has_forgotten_stay_dumb(link: Link) -> None:
    with connect(link) as old:
        assert ask(old, b"one") == b"one"
        link.cut("drop")
        link.heal(forget=True)
        with connect(link) as new:
            assert ask(new, b"two") == b"two"
        old.sendall(b"three")
        assert is_silent(old)
        link.cut("drop")
        link.heal()
        assert is_silent(old)


def test_a_reset_is_one_for_both_ends_and_for_whoever_connects(link: Link, echo: Echo) -> None:
    with connect(link) as sock:
        assert ask(sock, b"one") == b"one"
        link.cut("rst")
        assert is_reset(sock)
        echo.wait_for_ends("reset")
    assert is_reset_at_once(link)
    assert link.connections == 0
    link.heal()
    with connect(link) as sock:
        assert ask(sock, b"two") == b"two"


def test_the_reply_to_one_message_is_lost_although_the_server_has_got_it(link: Link, echo: Echo) -> None:
    with connect(link) as other, connect(link) as sock:
        assert ask(other, b"other") == b"other"
        link.cut_reply_to(b"COMMIT")
        assert ask(sock, b"one") == b"one"
        sock.sendall(b"COMMIT;")
        link.wait_until_caught()
        assert is_reset(sock)
        echo.wait_for(b"otheroneCOMMIT;")
        assert ask(other, b"COMMIT again") == b"COMMIT again"


def test_bytes_take_their_time_in_both_directions(echo: Echo) -> None:
    with Link(echo.port, latency=0.1) as link, connect(link) as sock:
        for _ in range(2):
            began = time.monotonic()
            assert ask(sock, b"one") == b"one"
            assert 0.2 <= time.monotonic() - began < 2.0


def test_a_client_that_connects_while_the_server_is_down_is_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Link(port) as link:
        assert is_reset_at_once(link)


def test_links_have_ports_of_their_own(echo: Echo) -> None:
    with Link(echo.port) as first, Link(echo.port) as second:
        assert first.port != second.port
