"""Connections that nobody uses, closed to make room for others."""

import socket

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.listeners.idle_connections import IdleConnections


class FakePeer:
    """A peer whose kernel has received `received` bytes, the last of them `seconds` ago."""

    def __init__(self, seconds, received=10, *, is_busy=False, family=socket.AF_INET):
        self.seconds = seconds
        self.received = received
        self.is_busy = is_busy
        self.family = family
        self.is_closed = False

    @property
    def idle_handle(self):
        return None if self.is_busy else self

    def fileno(self):
        return -1 if self.is_closed else 7

    def getsockopt(self, level, option, size):
        if self.seconds is None:
            raise OSError("it is gone")
        info = bytearray(size)
        info[52:56] = int(self.seconds * 1000).to_bytes(4, "little")
        info[128:136] = self.received.to_bytes(8, "little")
        return bytes(info)

    def close(self):
        self.is_closed = True


class IdleConnectionsTests(SynchronousTestCase):
    def closed(self, *peers, times=10):
        """Make room as often as possible; return the peers that were closed."""
        idle = IdleConnections(Clock(), peers)
        count = 0
        while count < times and idle.close_one():
            count += 1
        return [peer for peer in peers if peer.is_closed]

    def test_the_connection_that_has_been_idle_for_longest_is_closed_first(self):
        peers = [FakePeer(20), FakePeer(60), FakePeer(30)]
        self.assertEqual(self.closed(*peers, times=1), [peers[1]])

    def test_a_connection_that_is_used_now_and_then_stays(self):
        self.assertEqual(self.closed(FakePeer(4)), [])

    def test_a_connection_on_which_nothing_was_asked_goes_earlier(self):
        silent = FakePeer(2, received=0)
        self.assertEqual(self.closed(silent, FakePeer(2), FakePeer(0.5, received=0)), [silent])

    def test_a_connection_that_is_owed_something_stays(self):
        self.assertEqual(self.closed(FakePeer(1000, is_busy=True)), [])

    def test_connections_whose_idle_time_is_unknown_stay(self):
        self.assertEqual(self.closed(FakePeer(None), FakePeer(1000, family=socket.AF_UNIX)), [])

    def test_a_connection_that_became_busy_meanwhile_stays(self):
        peers = [FakePeer(20), FakePeer(60)]
        idle = IdleConnections(Clock(), peers)
        self.assertTrue(idle.close_one())
        peers[0].is_busy = True
        self.assertFalse(idle.close_one())

    def test_all_connections_are_looked_at_four_times_a_second_at_most(self):
        clock, peers = Clock(), []
        idle = IdleConnections(clock, peers)
        self.assertFalse(idle.close_one())
        peers.append(FakePeer(20))
        self.assertFalse(idle.close_one())
        clock.advance(0.25)
        self.assertTrue(idle.close_one())

    def test_the_kernel_says_how_long_a_connection_has_been_idle(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            end, _ = server.accept()
        with client, end:
            peer = FakePeer(0)
            peer.getsockopt = end.getsockopt
            self.assertEqual(self.closed(peer), [])
            self.assertEqual(len(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)), 136)
