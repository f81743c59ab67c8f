"""Waiting for a Deferred while the reactor does not run yet."""

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.before_reactor import wait_for
from taskd.errors import StartError


class TurningReactor:
    """A reactor that calls a function in each of its turns."""

    def __init__(self, turn):
        self.turn = turn
        self.turns = 0

    def iterate(self, delay):
        self.turns += 1
        self.turn()


class WaitForTests(SynchronousTestCase):
    def test_the_reactor_is_iterated_until_the_result_arrives(self):
        deferred = Deferred()
        reactor = TurningReactor(lambda: deferred.callback("done") if reactor.turns == 3 else None)
        self.assertEqual(wait_for(reactor, deferred), "done")
        self.assertEqual(reactor.turns, 3)

    def test_an_available_result_needs_no_iteration(self):
        reactor = TurningReactor(lambda: None)
        self.assertEqual(wait_for(reactor, succeed(1)), 1)
        self.assertEqual(reactor.turns, 0)

    def test_a_failure_is_raised(self):
        self.assertRaises(ZeroDivisionError, wait_for, TurningReactor(None), fail(ZeroDivisionError()))

    def test_ctrl_c_ends_the_start(self):
        def interrupt():
            raise KeyboardInterrupt

        error = self.assertRaises(StartError, wait_for, TurningReactor(interrupt), Deferred())
        self.assertIn("interrupted", str(error))
