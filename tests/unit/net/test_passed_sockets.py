"""Listening sockets that somebody else has opened, with real sockets."""

import os
import select
import socket
import stat
import tempfile
from pathlib import Path

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.net import passed_sockets
from taskd.net.endpoints import server_endpoint
from taskd.net.passed_sockets import PassedSockets, first_environment


class Greeting(Protocol):
    def connectionMade(self):
        self.transport.write(b"hello")
        self.transport.loseConnection()


def passing(case, *sockets):
    """Return `PassedSockets` for sockets, named `s0`, `s1` and so on, of which the originals stay open."""
    for sock in sockets:
        case.addCleanup(sock.close)
    return PassedSockets([(os.dup(sock.fileno()), f"s{place}") for place, sock in enumerate(sockets)])


def listening_on_tcp():
    return socket.create_server(("127.0.0.1", 0))


class DescriptionTests(SynchronousTestCase):
    def test_the_environment_says_which_descriptors_they_are_and_what_their_names_are(self):
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        os.set_inheritable(read, True)
        self.patch(passed_sockets, "FIRST", read)
        environ = {"LISTEN_FDS": "1", "LISTEN_PID": "7", "LISTEN_FDNAMES": "web"}
        self.assertEqual(PassedSockets.of(environ, 7).left, ["web"])
        self.assertFalse(os.get_inheritable(read))
        del environ["LISTEN_FDNAMES"]
        self.assertEqual(PassedSockets.of(environ, 7).left, ["unknown"])

    def test_sockets_of_another_process_and_nonsense_are_none(self):
        for environ in (
            {},
            {"LISTEN_FDS": "1"},
            {"LISTEN_FDS": "1", "LISTEN_PID": "8"},
            {"LISTEN_FDS": "many", "LISTEN_PID": "7"},
        ):
            self.assertEqual(PassedSockets.of(environ, 7).left, [])

    def test_the_first_environment_is_that_of_the_kernel_and_the_present_one_without_proc(self):
        path = Path(self.mktemp())
        path.write_bytes(b"A=1\0B=x=y\0")
        self.assertEqual({"A": "1", "B": "x=y"}.items() - first_environment(path).items(), set())
        self.assertEqual(first_environment("/nowhere/at/all"), dict(os.environ))

    def refusal(self, description, passed):
        error = self.assertRaises(ValueError, server_endpoint, Clock(), description, None, None, passed)
        return str(error)

    def test_a_wrong_description_says_what_there_is(self):
        self.assertIn("is there a .socket unit", self.refusal("systemd:web", PassedSockets()))
        passed = passing(self, listening_on_tcp(), listening_on_tcp())
        self.assertIn("are s0, s1, each for one endpoint", self.refusal("systemd:web", passed))
        self.assertIn("it names one socket", self.refusal("systemd:s0:s1", passed))
        self.assertIn("it names one socket", self.refusal("systemd:s0:backlog=3", passed))
        self.assertEqual(passed.left, ["s0", "s1"])

    def test_a_socket_that_does_not_listen_is_refused(self):
        passed = passing(self, socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket())
        for name in "s0", "s1":
            self.assertIn("no listening stream socket", self.refusal(f"systemd:{name}", passed))
        read, write = os.pipe()
        self.addCleanup(os.close, write)
        self.addCleanup(os.close, read)
        self.assertIn("is no socket", self.refusal("systemd:p", PassedSockets([(read, "p")])))

    def test_each_socket_is_taken_once_by_its_name_or_its_place(self):
        passed = passing(self, *[listening_on_tcp() for _ in range(3)])
        for description in "systemd:s1", "systemd:domain=INET:index=0", "systemd:domain=INET:name=s2":
            server_endpoint(Clock(), description, None, None, passed)
        self.assertEqual(passed.left, [])
        self.assertIn("each for one endpoint", self.refusal("systemd:s1", passed))


class ListeningTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = SelectReactor()
        self.addCleanup(self.end_reactor)

    def end_reactor(self):
        for reader in self.reactor.removeAll():
            reader.connectionLost(None)

    def turn_until(self, is_over):
        while not is_over():
            self.reactor.iterate(0)

    def greeted(self, sock):
        """Serve a socket, connect to it and close the port: the socket must still listen. Return its host."""
        passed = passing(self, sock)
        factory = Factory.forProtocol(Greeting)
        port = self.successResultOf(
            server_endpoint(self.reactor, "systemd:s0", None, None, passed).listen(factory)
        )
        host = port.getHost()
        with socket.socket(sock.family) as client:
            client.connect(sock.getsockname())
            self.turn_until(lambda: select.select([client], [], [], 0)[0])
            self.assertEqual(client.recv(100), b"hello")
        closed = []
        port.stopListening().addCallback(closed.append)
        self.turn_until(lambda: closed)
        with socket.socket(sock.family) as client:
            client.connect(sock.getsockname())  # waits in the queue of the one that has passed the socket on
        return host

    def test_a_tcp_socket_is_served_and_goes_on_to_listen_after_the_port_is_closed(self):
        sock = listening_on_tcp()
        self.assertEqual(self.greeted(sock).port, sock.getsockname()[1])

    def test_a_unix_socket_keeps_its_file_and_the_mode_of_that(self):
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/s"
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(path)
            os.chmod(path, 0o600)
            sock.listen(5)
            self.assertEqual(self.greeted(sock).name, path.encode())
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
