"""Signals and timers that a task changes, and what the next one finds."""

import faulthandler
import signal

from twisted.trial.unittest import SynchronousTestCase

from taskd.worker.messages import POKE
from taskd.worker.signal_state import SignalState

WATCHED = (POKE, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGUSR1)
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


def on_poke(number, frame):
    pass


class SignalStateTests(SynchronousTestCase):
    def setUp(self):
        for number in WATCHED:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self.addCleanup(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        for timer in TIMERS:
            self.addCleanup(signal.setitimer, timer, 0)
        self.state = SignalState(on_poke)
        self.state.keep()
        self.before = self.found()

    def found(self):
        """Return the handlers, the mask and the timers as a task finds them."""
        return (
            [signal.getsignal(number) for number in WATCHED[:-1]],
            signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            [signal.getitimer(timer) for timer in TIMERS],
        )

    def check_after(self, *damage):
        for each in damage:
            each()
            self.state.put_back()
            self.assertEqual(self.found(), self.before)

    def test_handlers_that_taskd_or_the_next_task_needs_are_put_back(self):
        for number in WATCHED[:-1]:
            for handler in signal.SIG_IGN, signal.SIG_DFL, lambda *_: None:
                self.check_after(lambda n=number, h=handler: signal.signal(n, h))

    def test_other_handlers_are_the_apps_own_business(self):
        signal.signal(signal.SIGUSR1, on_poke)
        self.state.put_back()
        self.assertIs(signal.getsignal(signal.SIGUSR1), on_poke)

    def test_blocked_signals_are_let_through_again(self):
        self.check_after(
            lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
            lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {POKE, signal.SIGUSR1}),
        )

    def test_timers_are_stopped(self):
        for timer in TIMERS:
            self.check_after(lambda timer=timer: signal.setitimer(timer, 1000.0, 1000.0))
        self.check_after(lambda: signal.alarm(1000))

    def test_a_timer_that_the_start_hook_has_started_runs_on(self):
        signal.setitimer(signal.ITIMER_PROF, 1000.0, 1000.0)
        self.state.keep()
        self.state.put_back()
        self.assertGreater(signal.getitimer(signal.ITIMER_PROF)[0], 0)

    def test_the_start_hook_cannot_take_over_the_signal_of_interrupts(self):
        signal.signal(POKE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {POKE, signal.SIGTERM})
        self.state.keep()
        self.assertEqual(self.found(), self.before)

    def test_the_stack_at_sigterm_is_printed_again(self):
        faulthandler.register(signal.SIGTERM, all_threads=False, chain=True)
        self.addCleanup(faulthandler.unregister, signal.SIGTERM)
        self.state.keep()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.state.put_back()
        self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)
        self.assertTrue(faulthandler.unregister(signal.SIGTERM))

    def test_crash_stacks_are_printed_again_if_they_were_before(self):
        enabled = faulthandler.is_enabled()
        self.addCleanup(faulthandler.enable if enabled else faulthandler.disable)
        self.patch(faulthandler, "enable", lambda: enabling.append(True))
        for before, expected in (True, [True]), (False, []):
            enabling = []
            self.patch(faulthandler, "is_enabled", lambda before=before: before)
            self.state.keep()
            self.patch(faulthandler, "is_enabled", lambda: False)
            self.state.put_back()
            self.assertEqual(enabling, expected)
