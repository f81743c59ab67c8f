"""Interrupts, which reach the function of a task and nothing else.

`on_signal` is called as the signal's handler is.
"""

import asyncio
import threading

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.stops import TaskCancelled, TaskStopped, TaskTimeout
from taskd.worker.interrupts import Interrupter
from taskd.worker.messages import NULL, Attempt, Interrupt


def an_attempt(task=1, attempt=1):
    return Attempt(task, attempt, "f", NULL, 0)


class InterrupterCase(SynchronousTestCase):
    def setUp(self):
        self.reads = 0
        self.sent = []
        self.taken = []
        self.interrupter = Interrupter(self.read_messages)

    def read_messages(self):
        self.reads += 1
        while self.sent:
            message = self.sent.pop(0)
            self.taken.append(self.interrupter.interrupt(message))

    def send(self, task=1, attempt=1, *, cancelled=True):
        """Order the interrupt of a task, and send the signal, as the daemon does."""
        self.sent.append(Interrupt(task, attempt, cancelled))
        self.interrupter.on_signal()

    def begin(self, task=1, attempt=1, *, is_async=False):
        self.interrupter.begin(an_attempt(task, attempt), is_async=is_async)


class InterrupterTests(InterrupterCase):
    def test_the_exception_shows_the_reason(self):
        for cancelled, kind in (True, TaskCancelled), (False, TaskTimeout):
            self.begin()
            self.assertRaises(kind, self.send, cancelled=cancelled)
            self.assertEqual(self.interrupter.end(), Interrupt(1, 1, cancelled))
            self.assertIsNone(self.interrupter.running)

    def test_a_signal_without_a_message_does_nothing(self):
        self.begin()
        self.interrupter.on_signal()
        self.assertEqual(self.reads, 1)
        self.assertIsNone(self.interrupter.end())

    def test_a_function_is_interrupted_once(self):
        self.begin()
        self.assertRaises(TaskCancelled, self.send)
        self.send()
        self.send(cancelled=False)
        self.assertEqual(self.taken, [True, True, True])
        self.assertEqual(self.interrupter.end(), Interrupt(1, 1, True))

    def test_an_interrupt_for_another_task_or_attempt_is_ignored(self):
        self.begin(task=2, attempt=2)
        self.send(task=1, attempt=2)
        self.send(task=2, attempt=1)
        self.assertEqual(self.taken, [False, False])
        self.assertIsNone(self.interrupter.end())

    def test_nothing_is_raised_if_nothing_runs(self):
        self.send()
        self.assertEqual(self.reads, 0)
        self.interrupter.handle_signal()
        self.assertEqual((self.reads, self.taken), (1, [False]))
        self.interrupter.handle_signal()
        self.assertEqual(self.reads, 1)

    def test_a_stop_that_comes_after_the_end_hits_no_other_task(self):
        self.begin()
        self.interrupter.end()
        self.send()
        self.begin(task=2)
        self.assertEqual((self.taken, self.interrupter.running), ([False], an_attempt(2)))
        self.assertIsNone(self.interrupter.end())

    def test_a_signal_before_a_task_begins_is_handled_when_it_begins(self):
        self.send()
        self.assertRaises(TaskCancelled, self.begin)
        self.assertEqual(self.interrupter.end(), Interrupt(1, 1, True))

    def test_the_stop_of_a_task_is_forgotten_when_the_next_begins(self):
        self.begin()
        self.assertRaises(TaskStopped, self.send)
        self.interrupter.end()
        self.begin(task=2)
        self.interrupter.handle_signal()
        self.assertIsNone(self.interrupter.end())

    def test_a_signal_during_a_read_causes_another_read(self):
        def read_twice():
            self.read_messages()
            if self.reads == 1:
                self.interrupter.on_signal()
                self.assertEqual(self.reads, 1)  # never two at a time
                self.sent.append(Interrupt(1, 1, True))

        self.interrupter = Interrupter(read_twice)
        self.begin()
        self.assertRaises(TaskCancelled, self.interrupter.on_signal)
        self.assertEqual(self.reads, 2)

    def test_a_read_that_fails_leaves_nothing_shielded(self):
        self.interrupter = Interrupter(lambda: 1 / 0)
        self.begin()
        self.assertRaises(ZeroDivisionError, self.interrupter.on_signal)
        self.assertRaises(ZeroDivisionError, self.interrupter.on_signal)


class ShieldTests(InterrupterCase):
    def test_shielded_code_is_not_interrupted_half_way(self):
        done = []

        def function():
            with self.interrupter.shield():
                self.send()
                done.append("written")
            done.append("never")

        self.begin()
        self.assertRaises(TaskCancelled, function)
        self.assertEqual(done, ["written"])

    def test_an_exception_inside_a_shield_does_not_delay_the_stop(self):
        def function():
            with self.interrupter.shield():
                self.send()
                raise ValueError

        self.begin()
        self.assertIsInstance(self.assertRaises(TaskCancelled, function).__context__, ValueError)

    def test_without_a_signal_nothing_is_read(self):
        self.begin()
        with self.interrupter.shield():
            pass
        self.assertEqual(self.reads, 0)

    def test_a_shield_inside_another_one_ends_with_the_outer_one(self):
        done = []

        def function():
            with self.interrupter.shield():
                with self.interrupter.shield():
                    self.send()
                done.append("written")

        self.begin()
        self.assertRaises(TaskCancelled, function)
        self.assertEqual(done, ["written"])

    def test_a_shield_in_another_thread_does_not_delay_an_interrupt(self):
        entered, may_leave = threading.Event(), threading.Event()

        def elsewhere():
            with self.interrupter.shield():
                entered.set()
                may_leave.wait()

        self.begin()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(may_leave.set)
        entered.wait()
        self.assertRaises(TaskCancelled, self.send)


class AsyncTests(InterrupterCase):
    def run_function(self, function):
        async def as_worker_does():
            self.interrupter.set_async_task(asyncio.current_task())
            try:
                return await function()
            finally:
                self.interrupter.set_async_task(None)

        return asyncio.run(as_worker_does())

    def test_an_async_function_gets_the_cancellation_of_asyncio(self):
        ended = []

        async def function():
            asyncio.get_running_loop().call_soon(self.send)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cleaned up")

        self.begin(is_async=True)
        self.assertRaises(asyncio.CancelledError, self.run_function, function)
        self.assertEqual(ended, ["cleaned up"])
        self.assertEqual(self.interrupter.end(), Interrupt(1, 1, True))

    def test_an_async_function_is_cancelled_once(self):
        async def function():
            self.send()
            self.send()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                self.send()
                await asyncio.sleep(0)
                return "cleaned up"

        self.begin(is_async=True)
        self.assertEqual(self.run_function(function), "cleaned up")

    def test_a_stop_before_the_asyncio_task_exists_cancels_it_once_it_does(self):
        begun = []

        async def function():
            begun.append(1)
            await asyncio.Event().wait()

        self.begin(is_async=True)
        self.send()
        self.assertRaises(asyncio.CancelledError, self.run_function, function)
        self.assertEqual(begun, [1])

    def test_a_stop_after_the_asyncio_task_is_raised_nowhere(self):
        async def function():
            return 1

        self.begin(is_async=True)
        self.assertEqual(self.run_function(function), 1)
        self.send()
        self.assertEqual(self.interrupter.end(), Interrupt(1, 1, True))
