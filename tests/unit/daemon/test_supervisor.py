"""What a supervisor is sent, and when."""

import secrets
import socket

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.supervisor import EXTENSION_INTERVAL, Supervisor, supervisor_of


class RecordingSocket:
    """A notify socket that records what is sent."""

    def __init__(self):
        self.sent = []
        self.is_closed = False

    def send(self, **assignments):
        self.sent.append(assignments)

    def close(self):
        self.is_closed = True


class SupervisorTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.socket = RecordingSocket()

    def supervisor(self, watchdog=None):
        return Supervisor(self.clock, self.socket, watchdog, lambda: 7_000_999)

    def sent(self):
        sent, self.socket.sent = self.socket.sent, []
        return sent

    def test_a_start_is_a_status_and_then_ready(self):
        supervisor = self.supervisor()
        supervisor.status("starting")
        supervisor.ready("ready")
        self.assertEqual(self.sent(), [{"STATUS": "starting"}, {"READY": 1, "STATUS": "ready"}])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_watchdog_gets_a_sign_at_once_and_at_half_its_interval(self):
        supervisor = self.supervisor(watchdog=4.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        supervisor.ready("ready")
        self.assertEqual(self.sent()[1:], [{"WATCHDOG": 1}])
        self.clock.pump([1.9, 0.1, 2.0])
        self.assertEqual(self.sent(), [{"WATCHDOG": 1}] * 2)
        supervisor.ready("reloaded")  # which begins no second series of signs
        self.clock.pump([2.0, 2.0])
        self.assertEqual(self.sent()[1:], [{"WATCHDOG": 1}] * 2)

    def test_a_reload_carries_the_time_of_the_monotonic_clock_in_microseconds(self):
        self.supervisor().reloading("reloading")
        self.assertEqual(self.sent(), [{"RELOADING": 1, "MONOTONIC_USEC": 7000, "STATUS": "reloading"}])

    def test_a_stop_asks_for_more_time_until_its_last_steps(self):
        supervisor = self.supervisor(watchdog=60.0)
        supervisor.ready("ready")
        supervisor.stopping("stopping")
        more = {"EXTEND_TIMEOUT_USEC": 15_000_000}
        self.assertEqual(self.sent()[2:], [{"STOPPING": 1, "STATUS": "stopping"}, more])
        self.clock.pump([EXTENSION_INTERVAL] * 3)
        self.assertEqual(self.sent(), [more] * 3)
        supervisor.finishing("the end", 45.0)
        self.assertEqual(self.sent(), [{"STATUS": "the end", "EXTEND_TIMEOUT_USEC": 45_000_000}])
        self.clock.advance(EXTENSION_INTERVAL)
        self.assertEqual(self.sent(), [])
        supervisor.close()
        supervisor.close()
        self.assertTrue(self.socket.is_closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_without_a_supervisor_nothing_happens(self):
        supervisor = Supervisor(self.clock, None, watchdog=1.0)
        supervisor.ready("ready")
        supervisor.reloading("reloading")
        supervisor.stopping("stopping")
        supervisor.finishing("the end", 1.0)
        supervisor.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_environment_names_the_supervisor_and_keeps_nothing_of_it(self):
        name = f"taskd-{secrets.token_hex(8)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(f"\0{name}")
            receiver.setblocking(False)
            environ = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "2000000"}
            supervisor = supervisor_of(self.clock, environ)
            supervisor.ready("ready")
            self.assertEqual(environ, {})
            self.assertEqual(receiver.recv(100), b"READY=1\nSTATUS=ready")
            self.assertEqual(receiver.recv(100), b"WATCHDOG=1")
            supervisor.close()
