"""A function is interrupted, and nothing else is. `poke` is called as the signal's handler is."""

import asyncio
import threading

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.stops import TaskCancelled, TaskStopped, TaskTimeout
from taskd.worker.interrupts import Interrupter
from taskd.worker.messages import NULL, Attempt, Interrupt


def run(task=1, attempt=1):
    return Attempt(task, attempt, "f", NULL, 0)


class InterrupterCase(SynchronousTestCase):
    def setUp(self):
        self.looks = 0
        self.said = []
        self.taken = []
        self.interrupter = Interrupter(self.look)

    def look(self):
        self.looks += 1
        while self.said:
            message = self.said.pop(0)
            self.taken.append(self.interrupter.interrupt(message))

    def say(self, task=1, attempt=1, *, cancelled=True):
        """The daemon asks for a task to be interrupted, and pokes."""
        self.said.append(Interrupt(task, attempt, cancelled))
        self.interrupter.poke()

    def begin(self, task=1, attempt=1, *, is_async=False):
        self.interrupter.begin(run(task, attempt), is_async=is_async)


class InterrupterTests(InterrupterCase):
    def test_what_is_raised_says_why(self):
        for cancelled, kind in (True, TaskCancelled), (False, TaskTimeout):
            self.begin()
            self.assertRaises(kind, self.say, cancelled=cancelled)
            self.assertEqual(self.interrupter.end(), Interrupt(1, 1, cancelled))
            self.assertIsNone(self.interrupter.running)

    def test_a_poke_without_a_message_does_nothing(self):
        self.begin()
        self.interrupter.poke()
        self.assertEqual(self.looks, 1)
        self.assertIsNone(self.interrupter.end())

    def test_a_function_is_interrupted_once(self):
        self.begin()
        self.assertRaises(TaskCancelled, self.say)
        self.say()
        self.say(cancelled=False)
        self.assertEqual(self.taken, [True, True, True])
        self.assertEqual(self.interrupter.end(), Interrupt(1, 1, True))

    def test_another_task_or_attempt_is_not_interrupted(self):
        self.begin(task=2, attempt=2)
        self.say(task=1, attempt=2)
        self.say(task=2, attempt=1)
        self.assertEqual(self.taken, [False, False])
        self.assertIsNone(self.interrupter.end())

    def test_nothing_is_raised_where_nothing_runs(self):
        self.say()
        self.assertEqual(self.looks, 0)
        self.interrupter.attend()
        self.assertEqual((self.looks, self.taken), (1, [False]))
        self.interrupter.attend()
        self.assertEqual(self.looks, 1)

    def test_a_stop_that_comes_after_the_end_hits_no_other_task(self):
        self.begin()
        self.interrupter.end()
        self.say()
        self.begin(task=2)
        self.assertEqual((self.taken, self.interrupter.running), ([False], run(2)))
        self.assertIsNone(self.interrupter.end())

    def test_a_poke_before_the_beginning_is_seen_to_at_the_beginning(self):
        self.say()
        self.assertRaises(TaskCancelled, self.begin)
        self.assertEqual(self.interrupter.end(), Interrupt(1, 1, True))

    def test_the_stop_of_a_task_is_forgotten_when_the_next_begins(self):
        self.begin()
        self.assertRaises(TaskStopped, self.say)
        self.interrupter.end()
        self.begin(task=2)
        self.interrupter.attend()
        self.assertIsNone(self.interrupter.end())

    def test_a_poke_during_a_look_has_it_look_again(self):
        def look():
            self.look()
            if self.looks == 1:
                self.interrupter.poke()
                self.assertEqual(self.looks, 1)  # never two at a time
                self.said.append(Interrupt(1, 1, True))

        self.interrupter = Interrupter(look)
        self.begin()
        self.assertRaises(TaskCancelled, self.interrupter.poke)
        self.assertEqual(self.looks, 2)

    def test_a_look_that_fails_leaves_nothing_shielded(self):
        self.interrupter = Interrupter(lambda: 1 / 0)
        self.begin()
        self.assertRaises(ZeroDivisionError, self.interrupter.poke)
        self.assertRaises(ZeroDivisionError, self.interrupter.poke)


class ShieldTests(InterrupterCase):
    def test_code_of_ours_is_not_left_half_way(self):
        done = []

        def function():
            with self.interrupter.shield():
                self.say()
                done.append("written")
            done.append("never")

        self.begin()
        self.assertRaises(TaskCancelled, function)
        self.assertEqual(done, ["written"])

    def test_what_fails_within_does_not_put_off_the_stop(self):
        def function():
            with self.interrupter.shield():
                self.say()
                raise ValueError

        self.begin()
        self.assertIsInstance(self.assertRaises(TaskCancelled, function).__context__, ValueError)

    def test_without_a_poke_nothing_is_looked_at(self):
        self.begin()
        with self.interrupter.shield():
            pass
        self.assertEqual(self.looks, 0)

    def test_another_thread_needs_no_shield_and_takes_none_away(self):
        inside = []

        def elsewhere():
            with self.interrupter.shield():
                inside.append(self.interrupter._shielded)

        self.begin()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        self.assertEqual(inside, [False])
        self.assertRaises(TaskCancelled, self.say)


class AsyncTests(InterrupterCase):
    def run_function(self, function):
        async def as_worker_does():
            self.interrupter.run_as(asyncio.current_task())
            try:
                return await function()
            finally:
                self.interrupter.run_as(None)

        return asyncio.run(as_worker_does())

    def test_an_async_function_gets_the_cancellation_of_asyncio(self):
        ended = []

        async def function():
            asyncio.get_running_loop().call_soon(self.say)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cleaned up")

        self.begin(is_async=True)
        self.assertRaises(asyncio.CancelledError, self.run_function, function)
        self.assertEqual(ended, ["cleaned up"])
        self.assertEqual(self.interrupter.end(), Interrupt(1, 1, True))

    def test_it_is_cancelled_once(self):
        async def function():
            self.say()
            self.say()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                self.say()
                await asyncio.sleep(0)
                return "cleaned up"

        self.begin(is_async=True)
        self.assertEqual(self.run_function(function), "cleaned up")

    def test_a_stop_before_it_is_a_task_is_seen_to_when_it_is(self):
        begun = []

        async def function():
            begun.append(1)
            await asyncio.Event().wait()

        self.begin(is_async=True)
        self.say()
        self.assertRaises(asyncio.CancelledError, self.run_function, function)
        self.assertEqual(begun, [1])

    def test_a_stop_after_it_was_a_task_is_raised_nowhere(self):
        async def function():
            return 1

        self.begin(is_async=True)
        self.assertEqual(self.run_function(function), 1)
        self.say()
        self.assertEqual(self.interrupter.end(), Interrupt(1, 1, True))
