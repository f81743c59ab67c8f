"""What the parts of a daemon have in flight."""

from collections import Counter

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.parts import Parts
from taskd.listeners.peers import Peers
from taskd.scheduler.budget import Budget


class Busy:
    """A part with tasks in flight, or a peer whose session has requests of these functions."""

    def __init__(self, **tasks):
        self.tasks = Counter(tasks)
        self.session = self

    def in_flight(self):
        return self.tasks


class Requested:
    def __init__(self, function):
        self.function = function


class ConnectedPeer:
    """A peer with requests in flight."""

    def __init__(self, *functions):
        self.session = self
        self.in_flight = dict.fromkeys(map(Requested, functions))


class InFlightTests(SynchronousTestCase):
    def test_a_gateways_calls_of_its_own_task_server_are_counted_once(self):
        parts = Parts(gateway=[Busy(mail=1, remote=2)], server=[Busy(mail=3)])
        self.assertEqual(parts.in_flight(), {"mail": 3, "remote": 2})
        self.assertEqual(Parts().in_flight(), {})

    def test_the_requests_of_all_connections_are_counted_by_function(self):
        peers = Peers(Clock(), Budget())
        self.assertEqual(peers.in_flight(), {})
        peers.add(ConnectedPeer("mail", "report"))
        peers.add(ConnectedPeer("mail"))
        self.assertEqual(peers.in_flight(), {"mail": 2, "report": 1})
