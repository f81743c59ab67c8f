"""SIGHUP and the second signal to stop, whose handlers make calls in the reactor's thread."""

import signal

from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.signals import abort_at_second_signal, has_terminal, reload_at_hangup


class RecordingReactor:
    """The part of a reactor that signals need: calls from a handler are made by `turn`."""

    def __init__(self):
        self.calls = []
        self.stopped = 0

    def callFromThread(self, function, *args):
        self.calls.append((function, args))

    def turn(self):
        calls, self.calls = self.calls, []
        for function, args in calls:
            function(*args)

    def stop(self):
        self.stopped += 1


class SignalTests(SynchronousTestCase):
    def setUp(self):
        for number in signal.SIGHUP, signal.SIGINT, signal.SIGTERM:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.reactor = RecordingReactor()
        self.called = []

    def raise_signal(self, number):
        signal.raise_signal(number)
        self.assertEqual(self.called, [], "a handler of a signal does nothing itself")
        self.reactor.turn()


class HangupTests(SignalTests):
    def install(self, *terminals):
        """Install the handler; `terminals` has, for each check, whether there is a terminal."""
        looks = iter(terminals)
        reload_at_hangup(self.reactor, lambda: self.called.append("reload"), lambda: next(looks))

    def test_sighup_reloads_without_a_terminal(self):
        self.install(False)
        self.raise_signal(signal.SIGHUP)
        self.assertEqual((self.called, self.reactor.stopped), (["reload"], 0))

    def test_sighup_reloads_while_the_terminal_stays(self):
        self.install(True, True)
        self.raise_signal(signal.SIGHUP)
        self.assertEqual((self.called, self.reactor.stopped), (["reload"], 0))

    def test_sighup_stops_when_the_terminal_is_gone(self):
        self.install(True, False)
        self.raise_signal(signal.SIGHUP)
        self.assertEqual((self.called, self.reactor.stopped), ([], 1))

    def test_looking_for_a_terminal_raises_nothing(self):
        self.assertIsInstance(has_terminal(), bool)


class SecondSignalTests(SignalTests):
    def test_a_second_signal_of_either_kind_aborts(self):
        for number in signal.SIGINT, signal.SIGTERM:
            abort_at_second_signal(self.reactor, lambda: self.called.append("abort"))
            self.raise_signal(number)
            self.assertEqual(self.called, ["abort"])
            self.called.clear()
