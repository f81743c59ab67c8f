"""SIGHUP and the second signal to stop, whose handlers make calls in the reactor's thread."""

import signal

from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.signals import ABORT_SECONDS, ANSWER_SECONDS, StopSignals, has_terminal, reload_at_hangup


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


class StopSignalTests(SignalTests):
    def setUp(self):
        super().setUp()
        self.addCleanup(signal.signal, signal.SIGALRM, signal.getsignal(signal.SIGALRM))
        self.addCleanup(signal.setitimer, signal.ITIMER_REAL, 0)
        for number in signal.SIGINT, signal.SIGTERM:
            signal.signal(number, lambda number, _: self.reactor.callFromThread(self.note, f"stop {number}"))
        self.signals = StopSignals(
            self.reactor,
            lambda: self.note("abort"),
            lambda: self.note("kill"),
            self.skip_draining,
            lambda number: self.note(f"end {number}"),
        )
        self.signals.install()
        self.can_skip = False

    def skip_draining(self):
        skips, self.can_skip = self.can_skip, False
        if skips:
            self.note("skip")
        return skips

    def note(self, what):
        self.called.append(what)

    def raise_again(self, number):
        """Raise a signal, and forget what was called before."""
        self.called.clear()
        signal.raise_signal(number)

    def assert_timer(self, seconds):
        """Check that SIGALRM comes in so many seconds, or up to one less on a slow machine."""
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        self.assertTrue(seconds - 1 < left <= seconds, left)

    def test_the_first_signal_stops_the_reactor_as_its_own_handler_does(self):
        self.raise_signal(signal.SIGTERM)
        self.assertEqual(self.called, [f"stop {signal.SIGTERM}"])
        self.assertEqual(signal.getitimer(signal.ITIMER_REAL)[0], 0)

    def test_a_second_signal_of_either_kind_aborts(self):
        self.raise_signal(signal.SIGTERM)
        self.raise_again(signal.SIGINT)
        self.assert_timer(ANSWER_SECONDS)
        self.reactor.turn()
        self.assertEqual(self.called, ["abort"])
        self.assert_timer(ABORT_SECONDS)

    def test_a_second_signal_that_only_skips_what_comes_before_the_stop_is_followed_by_one_that_aborts(self):
        self.raise_signal(signal.SIGTERM)
        self.can_skip = True
        self.raise_again(signal.SIGTERM)
        self.reactor.turn()
        self.assertEqual(self.called, ["skip"])
        self.assertEqual(signal.getitimer(signal.ITIMER_REAL)[0], 0)
        self.raise_again(signal.SIGTERM)
        self.reactor.turn()
        self.assertEqual(self.called, ["abort"])

    def test_a_daemon_that_stops_for_another_reason_aborts_at_the_first_signal(self):
        self.signals.stopping()
        self.raise_signal(signal.SIGTERM)
        self.assertEqual(self.called, ["abort"])

    def test_a_reactor_that_does_not_answer_a_second_signal_does_not_keep_the_process(self):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGALRM)
        self.assertEqual(self.called, ["kill", f"end {signal.SIGTERM}"])

    def test_a_third_signal_ends_the_process_at_once(self):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        self.assertEqual(self.called, ["kill", f"end {signal.SIGINT}"])

    def test_signals_without_a_pause_do_not_keep_the_processes_from_being_killed(self):
        def kill():
            for _ in range(2000):  # each handler would run inside the one before it
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGALRM)
            self.note("kill")

        signals = StopSignals(
            self.reactor, kill, kill, lambda: False, lambda number: self.note(f"end {number}")
        )
        signals.install()
        signals.stopping()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(self.called, ["kill", f"end {signal.SIGTERM}"])

    def test_an_error_while_processes_are_killed_does_not_keep_the_process(self):
        def fail():
            raise LookupError

        signals = StopSignals(
            self.reactor, fail, fail, self.skip_draining, lambda number: self.note(f"end {number}")
        )
        signals.install()
        signals.stopping()
        signal.raise_signal(signal.SIGTERM)
        self.assertRaises(LookupError, signal.raise_signal, signal.SIGTERM)
        self.assertEqual(self.called, [f"end {signal.SIGTERM}"])

    def test_a_signal_that_is_ignored_stays_ignored(self):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        StopSignals(self.reactor, self.fail, self.fail, self.fail).install()
        self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_IGN)
