"""The interruption of a function in a thread: it meets its own attempt, and no other."""

import threading
import time

from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.stops import TaskCancelled, TaskStopped, TaskTimeout
from taskd.testing.interrupts import ThreadInterrupter
from taskd.worker.messages import Attempt, Interrupt

LONG = 20.0
"""Seconds after which something that takes milliseconds will not happen any more."""


def attempt(task):
    return Attempt(task, 1, "f", Raw(b"[]"), 0)


def in_a_thread(call, *args):
    thread = threading.Thread(target=call, args=args)
    thread.start()
    thread.join(LONG)


class ThreadInterrupterTests(SynchronousTestCase):
    def setUp(self):
        self.interrupter = ThreadInterrupter()

    def interrupt(self, task, cancelled=True):
        in_a_thread(self.interrupter.interrupt, Interrupt(task, 1, cancelled))

    def test_a_running_function_is_interrupted_once(self):
        self.interrupter.begin(attempt(1), is_async=False)
        go = threading.Event()

        def stop():
            go.wait(LONG)
            self.interrupter.interrupt(Interrupt(1, 1, cancelled=False))

        stopping = threading.Thread(target=stop)
        stopping.start()
        deadline = time.monotonic() + LONG

        # A function of its own: Python 3.13 may raise at the end of a turn, which no `with` around it covers.
        def compute():
            go.set()
            while time.monotonic() < deadline:
                pass

        self.assertRaises(TaskTimeout, compute)
        stopping.join(LONG)
        self.interrupt(1)
        self.assertFalse(self.interrupter.end().cancelled)

    def test_a_stop_that_comes_before_the_function_begins_is_raised_when_it_does(self):
        self.interrupt(1)
        with self.assertRaises(TaskCancelled):
            self.interrupter.begin(attempt(1), is_async=False)
        self.assertTrue(self.interrupter.end().cancelled)

    def test_a_stop_for_another_attempt_has_no_effect(self):
        self.interrupt(2)
        self.interrupter.begin(attempt(1), is_async=False)
        self.interrupt(2)
        self.assertIsNone(self.interrupter.end())
        self.assertFalse(self.interrupter.is_stopped)

    def test_a_stop_within_internal_code_is_raised_at_the_end_of_it(self):
        self.interrupter.begin(attempt(1), is_async=False)
        passed = []
        with self.assertRaises(TaskCancelled):
            with self.interrupter.shield():
                with self.interrupter.shield():
                    self.interrupt(1)
                passed.append("internal code")
            passed.append("code of the app")
        self.assertEqual(passed, ["internal code"])
        self.interrupter.end()

    def test_code_in_another_thread_needs_no_shield(self):
        passed = []

        def elsewhere():
            with self.interrupter.shield():
                passed.append(1)

        in_a_thread(elsewhere)
        self.assertEqual(passed, [1])

    def test_no_stop_comes_after_the_end_of_the_function(self):
        for task in range(1, 50):
            try:
                try:
                    self.interrupter.begin(attempt(task), is_async=False)
                    self.interrupt(task)
                finally:
                    self.interrupter.end()
            except TaskStopped:
                self.interrupter.end()
            sum(range(100))
