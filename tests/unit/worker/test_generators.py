"""Generator functions in a worker: what they yield, and how they end."""

import asyncio
import contextlib
import json
import os

from taskd.functions.stops import TaskCancelled, TaskStopped, TaskTimeout
from taskd.protocol.nesting import MAX_VALUE_NESTING
from taskd.worker.messages import Done, Failed, Stopped
from tests.unit.worker.test_invocation import InvokerCase


class Odd:
    """An object whose JSON takes a while: a stop comes meanwhile."""

    def __init__(self, stop):
        self.stop = stop

    def model_dump(self, mode):
        self.stop()
        return "odd"


class GeneratorCase(InvokerCase):
    def setUp(self):
        super().setUp()
        self.notes = []

    def note(self, what):
        self.notes.append(what if isinstance(what, str) else type(what).__name__)

    def values(self):
        return [json.loads(bytes(message.value)) for message in self.yielded]

    def result(self, outcome):
        self.assertIsInstance(outcome, Done, outcome)
        return json.loads(bytes(outcome.value))

    def failure(self, outcome):
        self.assertIsInstance(outcome, Failed, outcome)
        return outcome


def numbers(count: int):
    yield from range(count)
    return "the end"


async def async_numbers(count: int):
    for number in range(count):
        await asyncio.sleep(0)
        yield number


class YieldTests(GeneratorCase):
    def test_an_ordinary_call_gets_the_list_of_what_was_yielded(self):
        for function in numbers, async_numbers:
            self.assertEqual(self.result(self.call(function, b"[3]")), [0, 1, 2])
            self.assertEqual(self.result(self.call(function, b"[0]")), [])
        self.assertEqual(self.yielded, [])

    def test_of_a_stored_task_each_value_is_sent_and_the_result_is_what_is_returned(self):
        self.assertEqual(self.result(self.call(numbers, b"[3]", task=7, stored="id")), "the end")
        self.assertEqual({message.task for message in self.yielded}, {7})
        self.assertEqual(self.result(self.call(async_numbers, b"[2]", stored="id")), None)
        self.assertEqual(self.values(), [0, 1, 2, 0, 1])

    def test_each_value_is_sent_before_the_next_one_is_computed(self):
        def function():
            for number in range(3):
                self.assertEqual(self.values(), list(range(number)))
                yield number

        self.assertIsInstance(self.call(function, stored="id"), Done)

    def test_a_plain_function_may_return_a_generator(self):
        async def later(count: int):
            return async_numbers(count)

        for function in lambda count: numbers(count), lambda count: async_numbers(count), later:
            self.assertEqual(self.result(self.call(function, b"[2]")), [0, 1])

    def test_a_value_that_changes_after_it_was_yielded_is_sent_as_it_was(self):
        def function():
            value = []
            for number in range(2):
                value.append(number)
                yield value

        self.assertEqual(self.result(self.call(function)), [[0], [0, 1]])

    def test_an_exception_of_a_generator_is_the_failure_of_the_task(self):
        def function():
            yield 1
            raise ValueError("no")

        async def async_function():
            yield 1
            raise ValueError("no")

        for each in function, async_function:
            failed = self.failure(self.call(each, stored="id"))
            self.assertEqual(failed.message, "ValueError: no")
            self.assertIn("raise ValueError", failed.traceback)
            self.assertNotIn("taskd/worker/generators.py", failed.traceback)
            self.assertTrue(failed.verdict.may_retry)
        self.assertEqual(self.values(), [1, 1])

    def test_other_async_code_goes_on_while_an_async_generator_yields(self):
        async def function():
            ticks = []

            async def tick():
                while True:
                    ticks.append(1)
                    await asyncio.sleep(0)

            task = asyncio.ensure_future(tick())
            for _ in range(5):
                yield len(ticks)
            task.cancel()

        self.assertGreaterEqual(self.result(self.call(function))[-1], 3)


class UnfitTests(GeneratorCase):
    def closed_after(self, *values):
        """Return functions, sync and async, that yield these and note how they end."""

        def function():
            try:
                yield from values
            except BaseException as error:
                self.note(error)
                raise
            finally:
                self.note("cleaned up")

        async def async_function():
            try:
                for value in values:
                    yield value
            except BaseException as error:
                self.note(error)
                raise
            finally:
                await asyncio.sleep(0)
                self.note("cleaned up")

        return function, async_function

    def test_a_value_that_is_not_json_ends_the_generator_and_the_message_has_its_place(self):
        for function in self.closed_after(1, {"a": object()}, 3):
            for stored in None, "id":
                self.notes.clear()
                failed = self.failure(self.call(function, stored=stored))
                self.assertIn("the result is not JSON: result[1].a is of type", failed.message)
                self.assertEqual((failed.code, failed.traceback, failed.verdict), (-32000, None, None))
                self.assertEqual(self.notes, ["GeneratorExit", "cleaned up"])

    def test_the_values_together_have_the_limit_of_a_result(self):
        value = "x" * 100
        fits = (self.config.max_result - 2) // 103
        for function in self.closed_after(*[value] * fits):
            self.assertEqual(len(self.result(self.call(function))), fits)
            self.assertIsInstance(self.call(function, stored="id"), Done)
        for function in self.closed_after(*[value] * (fits + 5)):
            for stored in None, "id":
                self.notes.clear()
                self.yielded.clear()
                failed = self.failure(self.call(function, stored=stored))
                self.assertEqual((failed.code, json.loads(bytes(failed.data))), (-32006, {"limit": 1000}))
                self.assertEqual(self.notes, ["GeneratorExit", "cleaned up"])
                self.assertLessEqual(len(self.yielded), fits)

    def test_the_list_has_the_limit_of_the_protocol_on_nesting(self):
        deep = []
        for _ in range(MAX_VALUE_NESTING - 1):
            deep = [deep]
        for function in self.closed_after(deep):
            self.assertIn("nested", self.failure(self.call(function)).message)
            self.assertIsInstance(self.call(function, stored="id"), Done)

    def test_cleaning_up_that_raises_is_the_failure(self):
        def function():
            try:
                yield object()
            finally:
                raise OSError("the disk is full")

        self.assertEqual(self.failure(self.call(function)).message, "OSError: the disk is full")

    def test_a_generator_that_will_not_end_is_a_failure(self):
        def function():
            while True:
                with contextlib.suppress(GeneratorExit):
                    yield object()

        self.assertIn("ignored GeneratorExit", self.failure(self.call(function)).message)

    def test_callers_learn_the_type_alone_if_the_operator_wants_that(self):
        self.config = self.with_details("type")
        for function in self.closed_after(object()):
            failed = self.failure(self.call(function))
            self.assertNotIn("make it a str", failed.message)
            self.assertEqual(json.loads(bytes(failed.data))["type"], "object")


class StopTests(GeneratorCase):
    def test_a_stop_is_raised_in_a_generator_that_runs(self):
        for cancelled, expected in (True, TaskCancelled), (False, TaskTimeout):

            def function(cancelled=cancelled, expected=expected):
                try:
                    yield 1
                    self.stop(cancelled=cancelled)
                except expected as error:
                    self.note(error)
                    raise

            stopped = self.call(function, b"{}")
            self.assertEqual((type(stopped), stopped.traceback), (Stopped, None))
        self.assertEqual(self.notes, ["TaskCancelled", "TaskTimeout"])

    def test_a_stop_between_two_values_is_raised_where_the_generator_yields(self):
        def function():
            try:
                yield Odd(self.stop)
                self.note("went on")
            except TaskStopped as error:
                self.note(error)
                raise
            finally:
                self.note("cleaned up")

        for stored in None, "id":
            self.notes.clear()
            stopped = self.call(function, stored=stored)
            self.assertEqual((type(stopped), stopped.traceback), (Stopped, None))
            self.assertEqual(self.notes, ["TaskCancelled", "cleaned up"])
        self.assertEqual(self.values(), ["odd"])

    def test_a_stop_cancels_an_async_generator_wherever_it_is(self):
        async def waiting():
            try:
                yield 1
                self.stop()
                await asyncio.sleep(30)
            except asyncio.CancelledError as error:
                self.note(error)
                raise

        async def yielding():
            try:
                while True:
                    yield Odd(self.stop)
            except asyncio.CancelledError as error:
                self.note(error)
                raise

        for function in waiting, yielding:
            stopped = self.call(function, stored="id")
            self.assertEqual((type(stopped), stopped.traceback), (Stopped, None))
        self.assertEqual(self.notes, ["CancelledError", "CancelledError"])

    def test_a_generator_that_goes_on_after_a_stop_is_closed_at_its_next_value(self):
        def function():
            try:
                while True:
                    try:
                        yield Odd(self.stop)
                    except TaskStopped:
                        self.note("ignored")
            finally:
                self.note("cleaned up")

        async def async_function():
            try:
                while True:
                    try:
                        yield Odd(self.stop)
                    except asyncio.CancelledError:
                        self.note("ignored")
            finally:
                self.note("cleaned up")

        for each in function, async_function:
            self.notes.clear()
            self.yielded.clear()
            self.assertIsInstance(self.call(each, stored="id"), Stopped)
            self.assertEqual((self.notes, self.values()), (["ignored", "cleaned up"], ["odd"]))

    def test_an_async_generator_that_cancels_itself_has_failed(self):
        async def function():
            asyncio.current_task().cancel()
            yield 1

        self.assertIsInstance(self.call(function), Failed)

    def test_a_stop_that_was_raised_by_the_function_itself_is_a_failure(self):
        def function():
            yield 1
            raise TaskCancelled("by myself")

        self.assertIsInstance(self.call(function), Failed)

    def test_cleaning_up_after_a_stop_that_raises_is_reported(self):
        def function():
            try:
                yield Odd(self.stop)
            finally:
                raise OSError("the disk is full")

        stopped = self.call(function)
        self.assertIsInstance(stopped, Stopped)
        self.assertIn("the disk is full", stopped.traceback)

    def test_a_child_process_sends_nothing(self):
        def function():
            child = os.fork()
            yield child
            if child:
                self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)

        self.assertIsInstance(self.call(function, stored="id"), Done)
        self.assertEqual(len(self.yielded), 1)
