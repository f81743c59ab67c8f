"""The datagrams to systemd, received on real sockets."""

import os
import secrets
import socket
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.notify_socket import (
    MAX_QUEUED,
    RETRY_SECONDS,
    NotifySocket,
    take_notify_socket,
    take_watchdog,
)


class NotifySocketTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.lines = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event):
        self.lines.append(formatEvent(event))

    def receiver(self, name):
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(receiver.close)
        receiver.bind(name)
        receiver.setblocking(False)
        return receiver

    def connected(self):
        """Return a receiver and a socket that sends to it."""
        path = self.path()
        receiver = self.receiver(path)
        sender = NotifySocket(self.clock, path)
        self.addCleanup(sender.close)
        return receiver, sender

    def path(self):
        return os.path.relpath(Path(self.mktemp()).absolute())  # a socket's path is short

    def test_assignments_are_one_datagram_with_a_line_for_each(self):
        receiver, sender = self.connected()
        sender.send(READY=1, STATUS="two\nlines")
        self.assertEqual(receiver.recv(1000), b"READY=1\nSTATUS=two lines")

    def test_an_abstract_socket_is_written_with_an_at_sign(self):
        name = f"taskd-{secrets.token_hex(8)}"
        receiver = self.receiver(f"\0{name}")
        environ = {"NOTIFY_SOCKET": f"@{name}"}
        sender = take_notify_socket(self.clock, environ)
        self.addCleanup(sender.close)
        sender.send(READY=1)
        self.assertEqual((receiver.recv(1000), environ), (b"READY=1", {}))

    def test_a_supervisor_that_is_gone_is_mentioned_once_and_does_no_harm(self):
        sender = NotifySocket(self.clock, "/nowhere/at/all")
        self.addCleanup(sender.close)
        sender.send(READY=1)
        sender.send(STOPPING=1)
        self.assertEqual(self.lines, ["NOTIFY_SOCKET: nothing can be sent there: No such file or directory"])

    def test_datagrams_without_room_are_sent_later_in_their_order_without_the_oldest(self):
        receiver, sender = self.connected()
        sent = 0
        while not self.clock.getDelayedCalls():
            sender.send(N=sent)
            sent += 1
        for more in range(sent, sent + MAX_QUEUED):
            sender.send(N=more)
        for number in range(sent - 1):
            self.assertEqual(receiver.recv(1000), b"N=%d" % number)
        received = []
        while self.clock.getDelayedCalls():
            self.clock.advance(RETRY_SECONDS)
            received += self.all_of(receiver)
        self.assertEqual(received, [b"N=%d" % number for number in range(sent, sent + MAX_QUEUED)])

    def all_of(self, receiver):
        received = []
        while True:
            try:
                received.append(receiver.recv(1000))
            except BlockingIOError:
                return received

    def test_closing_forgets_what_waits(self):
        _, sender = self.connected()
        while not self.clock.getDelayedCalls():
            sender.send(N=1)
        sender.close()
        sender.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_environment_without_a_supervisor_names_none(self):
        self.assertIsNone(take_notify_socket(self.clock, {}))
        self.assertIsNone(take_watchdog({}))
        self.assertEqual(self.lines, [])

    def test_an_address_that_is_neither_a_path_nor_abstract_is_ignored_with_a_warning(self):
        for address in "vsock:2:1234", "@", "here":
            self.assertIsNone(take_notify_socket(self.clock, {"NOTIFY_SOCKET": address}))
        self.assertEqual(len(self.lines), 3)
        self.assertIn("NOTIFY_SOCKET=vsock:2:1234 is ignored", self.lines[0])


class WatchdogTests(SynchronousTestCase):
    def test_the_interval_is_in_seconds_and_the_variables_are_taken(self):
        environ = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "OTHER": "stays"}
        self.assertEqual(take_watchdog(environ), 30.0)
        self.assertEqual(environ, {"OTHER": "stays"})
        self.assertEqual(take_watchdog({"WATCHDOG_USEC": "1500000"}), 1.5)

    def test_a_watchdog_of_another_process_or_without_a_number_is_none(self):
        for environ in (
            {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
            {"WATCHDOG_USEC": "soon"},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "-1"},
        ):
            self.assertIsNone(take_watchdog(environ))
