"""One call in a worker: its outcome when the function returns, raises or is interrupted."""

import asyncio
import functools
import json
from dataclasses import dataclass

import msgspec
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.raised import MAX_TEXT
from taskd.functions.registry import Registry
from taskd.functions.retries import Retry, Verdict
from taskd.functions.stops import TaskCancelled, TaskTimeout
from taskd.protocol.nesting import MAX_VALUE_NESTING
from taskd.worker.clean_start import CleanStart
from taskd.worker.interrupts import Interrupter
from taskd.worker.invocation import Invoker
from taskd.worker.messages import (
    IS_DESCRIBED,
    NULL,
    Attempt,
    DescribedAttempt,
    Done,
    Failed,
    Interrupt,
    Stopped,
    WorkerConfig,
)

CONFIG = WorkerConfig(apps=[], directory="", name="TaskWorker", max_result=1000)

NO_PIPE = 1 << 20
"""No descriptor of this process."""


class InvokerCase(SynchronousTestCase):
    """Calls functions as a worker does, in this process."""

    def setUp(self):
        self.sent = []
        self.yielded = []
        self.wrote = False
        self.interrupter = Interrupter(self.read_messages)
        self.config = CONFIG
        self.invoker = None

    def read_messages(self):
        while self.sent:
            self.interrupter.interrupt(self.sent.pop(0))

    def stop(self, *, cancelled=True, task=1):
        """Order a stop and send the signal while a function runs, as the daemon does."""
        self.sent.append(Interrupt(task, 1, cancelled))
        self.interrupter.on_signal()

    def call(self, function, args=NULL, task=1, stored=None):
        registry = Registry()
        registry.add(function, "f")
        clean_start = CleanStart(NO_PIPE, NO_PIPE, self.interrupter.on_signal)
        self.patch(clean_start, "has_output", lambda: self.wrote)
        self.event_loop = clean_start.event_loop
        self.addCleanup(self.event_loop.close)
        self.invoker = Invoker(registry, self.config, self.interrupter, clean_start, self.yielded.append)
        attempt = Attempt(task, 1, "f", Raw(args), 0)
        if stored is not None:
            attempt = DescribedAttempt(task, 1, "f", Raw(args), IS_DESCRIBED, None, stored)
        return self.invoker.invoke(attempt, 0.0)

    def with_details(self, details):
        """Return the configuration with other details of errors for callers."""
        return msgspec.structs.replace(CONFIG, error_details=details)


class InvokerTests(InvokerCase):
    # --- verdicts ---

    def test_exceptions_are_judged_for_stored_tasks(self):
        def raising(error):
            def function():
                raise error

            return function

        self.assertEqual(self.call(raising(KeyError())).verdict, Verdict(True))
        self.assertEqual(self.call(raising(SystemExit())).verdict, Verdict(False))
        self.assertEqual(self.call(raising(Retry(after=5))).verdict, Verdict(True, 5.0))

    def test_neither_wrong_arguments_nor_a_wrong_result_are_reasons_to_try_again(self):
        self.assertIsNone(self.call(lambda: None, b"[1]").verdict)
        self.assertIsNone(self.call(lambda: object()).verdict)
        self.assertIsNone(self.call(lambda: "x" * 1000).verdict)

    # --- results ---

    def test_a_result_comes_with_its_time_and_whether_there_is_output(self):
        for wrote in False, True:
            self.wrote = wrote
            done = self.call(lambda a: {"a": a}, b'{"a":"b"}')
            self.assertEqual((type(done), done.task, bytes(done.value)), (Done, 1, b'{"a":"b"}'))
            self.assertEqual(done.output, wrote)
            self.assertGreater(done.seconds, 0)

    def test_all_async_functions_share_one_event_loop(self):
        loops = []

        async def function():
            loops.append(asyncio.get_running_loop())

        for _ in range(2):
            self.assertIsInstance(self.call(function), Done)
        invoker = self.invoker
        self.assertIsInstance(invoker.invoke(Attempt(2, 1, "f", NULL, 0), 0.0), Done)
        self.assertIs(loops[-1], loops[-2])
        self.event_loop.close()
        self.assertTrue(loops[-1].is_closed())

    def test_an_awaitable_result_is_awaited_whichever_function_returned_it(self):
        async def number():
            await asyncio.sleep(0)
            return 5

        async def nested():
            return number()

        def plain():
            return nested()

        for function in number, nested, plain, lambda: number():
            done = self.call(function)
            self.assertIsInstance(done, Done)
            self.assertEqual(bytes(done.value), b"5")

    def test_a_generator_that_an_async_function_returns_has_failed(self):
        async def later():
            return (number for number in range(3))

        failed = self.call(later)
        self.assertEqual(failed.code, -32000)
        self.assertIn("generator", failed.message)

    def test_without_an_async_function_no_event_loop_is_made(self):
        self.call(lambda: 1)
        self.event_loop.close()

    # --- failures ---

    def test_a_result_is_nested_as_deep_as_the_protocol_allows_and_no_deeper(self):
        def nest(levels):
            return Raw(b"[" * levels + b"]" * levels)

        self.assertIsInstance(self.call(lambda: nest(MAX_VALUE_NESTING)), Done)
        for levels in MAX_VALUE_NESTING + 1, 900, 20_000:
            failed = self.call(lambda levels=levels: nest(levels))
            self.assertEqual(
                (failed.code, json.loads(bytes(failed.data))["limit"]), (-32000, MAX_VALUE_NESTING)
            )

    def test_invalid_arguments_are_reported_without_time_and_traceback(self):
        failed = self.call(lambda a: a, b"[]")
        self.assertEqual((failed.code, failed.seconds, failed.traceback), (-32602, 0.0, None))
        self.assertFalse(failed.leaving)

    def test_a_wrapper_that_hides_no_argument_that_it_passes_is_explained_in_the_traceback(self):
        def query(conn, sql):
            return int(sql)

        @functools.wraps(query)
        def wrapper(*args, **kwargs):
            return query("conn", *args, **kwargs)

        failed = self.call(wrapper, b'["conn","x"]')
        self.assertIn("takes 2 positional arguments but 3 were given", failed.message)
        self.assertIn("__signature__", failed.traceback)
        self.assertIn(f"{__file__}:", failed.traceback)

        @functools.wraps(query)
        def passes_all(*args, **kwargs):
            return query(*args, **kwargs)

        for args in b'["conn",[]]', b'["conn","x"]':
            failed = self.call(passes_all, args)
            self.assertEqual(failed.code, -32000)
            self.assertNotIn("__signature__", failed.traceback)

    def test_a_failure_has_the_type_the_message_and_the_traceback(self):
        def function():
            raise LookupError("it is so")

        failed = self.call(function)
        self.assertEqual((failed.code, failed.message), (-32000, "LookupError: it is so"))
        self.assertEqual(json.loads(bytes(failed.data)), {"type": "LookupError", "message": "it is so"})
        self.assertIn("it is so", failed.traceback)
        self.assertFalse(failed.leaving)

    def test_an_exception_without_a_message_is_described_by_its_type(self):
        def function():
            raise LookupError

        self.assertEqual(self.call(function).message, "LookupError")

    def test_a_long_traceback_keeps_its_end(self):
        def function():
            raise LookupError("x" * 3 * MAX_TEXT + "the end")

        failed = self.call(function)
        self.assertLessEqual(len(failed.traceback), MAX_TEXT)
        self.assertTrue(failed.traceback.endswith("the end\n"))

    def test_a_worker_that_has_reached_its_memory_limit_leaves(self):
        def function():
            raise MemoryError

        failed = self.call(function)
        self.assertEqual((failed.leaving, json.loads(bytes(failed.data))["message"]), (False, ""))
        self.config = msgspec.structs.replace(CONFIG, hard_memory=2**30)
        failed = self.call(function)
        data = json.loads(bytes(failed.data))
        self.assertTrue(failed.leaving)
        self.assertEqual((data["type"], data["hard_memory"]), ("MemoryError", 2**30))
        self.assertIn("--hard-memory", data["message"])

    def test_the_message_of_a_memory_error_of_numpy_is_kept(self):
        class ArrayMemoryError(MemoryError):
            pass

        def function():
            raise ArrayMemoryError("unable to allocate")

        self.config = msgspec.structs.replace(CONFIG, hard_memory=2**30)
        data = json.loads(bytes(self.call(function).data))
        self.assertEqual((data["message"], data["hard_memory"]), ("unable to allocate", 2**30))

    def test_a_type_of_an_argument_that_exits_fails_the_task_alone(self):
        class Page(msgspec.Struct):
            number: int

            def __post_init__(self):
                raise SystemExit(3)

        def function(page: Page):
            """Never called."""

        failed = self.call(function, b'[{"number":1}]')
        self.assertEqual((type(failed), failed.code, failed.message), (Failed, -32000, "SystemExit: 3"))

    def test_an_exception_that_cannot_be_formatted_fails_the_task_alone(self):
        class Odd(Exception):
            def __str__(self):
                raise SystemExit("no text")

            def __getattr__(self, name):
                return getattr(self, name)

            __class__ = __cause__ = property(__str__)

        def function():
            raise Odd

        self.config = msgspec.structs.replace(CONFIG, error_details="traceback")
        failed = self.call(function)
        self.assertEqual(failed.code, -32000)
        data = json.loads(bytes(failed.data))
        self.assertEqual(data["message"], "its message could not be formatted: SystemExit: no text")
        self.assertTrue(failed.message.endswith(f"Odd: {data['message']}"))
        self.assertEqual(data["traceback"], failed.traceback)
        self.assertIn("in function", failed.traceback)

    def test_a_stop_that_ends_with_such_an_exception_is_logged(self):
        class Meta(type):
            def __getattribute__(cls, name):
                raise SystemExit(name)

        class Odd(Exception, metaclass=Meta):
            def __str__(self):
                raise SystemExit("no text")

        def function():
            try:
                self.stop()
            finally:
                raise Odd

        stopped = self.call(function)
        self.assertIsInstance(stopped, Stopped)
        self.assertIn("its message could not be formatted", stopped.traceback)

    def test_a_result_that_is_no_json_fails_with_its_place(self):
        failed = self.call(lambda: {"rows": [{"price": float("nan")}]})
        reason = "result.rows[0].price is nan, which JSON cannot hold"
        self.assertEqual((failed.code, failed.message), (-32000, f"the result is not JSON: {reason}"))
        self.assertEqual(json.loads(bytes(failed.data)), {"type": "float", "message": reason})
        self.assertIsNone(failed.traceback)

    # --- errors that keep what the app's code has said for the log ---

    def call_briefly(self, function, args=NULL):
        """Call a function whose failure gives callers only its type; return its message and its data."""
        self.config = msgspec.structs.replace(CONFIG, error_details="type")
        failed = self.call(function, args, task=12)
        self.assertIsInstance(failed, Failed)
        self.assertIn("secret", failed.traceback)
        self.assertNotIn("secret", failed.message)
        return failed.message, json.loads(bytes(failed.data))

    def test_a_brief_error_has_the_type_of_the_exception_and_where_to_find_the_rest(self):
        def function():
            raise ValueError("a secret")

        message, data = self.call_briefly(function)
        self.assertEqual(message, "ValueError: see #12 in the server's log")
        self.assertEqual(data, {"type": "ValueError", "task": 12})

    def test_a_brief_error_about_a_result_does_not_name_what_is_in_it(self):
        message, data = self.call_briefly(lambda: {"secret": float("nan")})
        self.assertEqual(message, "the result is not JSON: float: see #12 in the server's log")
        self.assertEqual(data, {"type": "float", "task": 12})

    def test_a_brief_error_about_arguments_does_not_say_what_a_check_of_the_app_has_said(self):
        def refused_with(error):
            @dataclass
            class Paper:
                size: int

                def __post_init__(self):
                    raise error("a secret")

            def function(paper: Paper):
                """Print."""

            function.__annotations__["paper"] = Paper
            return function

        for error in ValueError, KeyError:
            function = refused_with(error)
            message, data = self.call_briefly(function, b'[{"size":1}]')
            name = error.__name__
            self.assertEqual(
                message, f"f: argument 'paper' does not fit: {name}: see #12 in the server's log"
            )
            self.assertEqual(data, {"argument": "paper", "type": name, "task": 12})

    def test_a_brief_error_about_arguments_says_what_they_should_be(self):
        def function(size: int):
            """Print."""

        function.__annotations__["size"] = int
        self.config = msgspec.structs.replace(CONFIG, error_details="type")
        failed = self.call(function, b'["a4"]')
        data = {"argument": "size", "expected": "int", "got": "str"}
        self.assertEqual((json.loads(bytes(failed.data)), failed.traceback), (data, None))

    def test_a_brief_error_names_the_limit_of_the_memory(self):
        def function():
            raise MemoryError("a secret")

        self.config = msgspec.structs.replace(CONFIG, hard_memory=1000, error_details="type")
        failed = self.call(function)
        data = {"type": "MemoryError", "task": 1, "hard_memory": 1000}
        self.assertEqual((json.loads(bytes(failed.data)), failed.leaving), (data, True))

    # --- stops ---

    def test_an_interrupted_function_is_reported_as_stopped(self):
        for cancelled in True, False:
            stopped = self.call(lambda cancelled=cancelled: self.stop(cancelled=cancelled))
            self.assertEqual((type(stopped), stopped.task, stopped.traceback), (Stopped, 1, None))

    def test_a_stopped_function_sees_the_reason_and_may_clean_up(self):
        seen = []

        def function():
            try:
                self.stop(cancelled=False)
            except TaskTimeout as error:
                seen.append(error)
                raise

        self.assertIsNone(self.call(function).traceback)
        self.assertEqual(len(seen), 1)

    def test_the_return_value_of_a_stopped_function_is_discarded(self):
        def function():
            try:
                self.stop()
            except TaskCancelled:
                return "a result"

        self.assertIsInstance(self.call(function), Stopped)

    def test_an_exception_raised_during_cleanup_is_kept_for_the_log(self):
        def function():
            try:
                self.stop()
            finally:
                raise LookupError("no such row")

        stopped = self.call(function)
        self.assertIsInstance(stopped, Stopped)
        self.assertIn("no such row", stopped.traceback)

    def test_a_stop_for_another_task_changes_nothing(self):
        def function():
            self.stop(task=2)
            return 1

        self.assertIsInstance(self.call(function), Done)

    def test_a_stop_before_the_call_prevents_it(self):
        called = []
        self.stop()
        stopped = self.call(lambda: called.append(1))
        self.assertEqual((type(stopped), called), (Stopped, []))

    def test_a_stop_as_the_function_ends_still_counts(self):
        """The signal may arrive at any instruction up to the last."""
        end = self.interrupter.end

        def late_end():
            self.interrupter.end = end
            self.stop()
            return end()

        self.interrupter.end = late_end
        self.assertIsInstance(self.call(lambda: 1), Stopped)

    def test_a_stop_does_not_affect_the_next_call(self):
        self.call(self.stop)
        self.assertEqual(bytes(self.call(lambda: 1).value), b"1")

    def test_an_async_function_gets_a_cancelled_error(self):
        seen = []

        async def function():
            asyncio.get_running_loop().call_soon(self.stop)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append(1)
                raise

        stopped = self.call(function)
        self.assertEqual((type(stopped), stopped.traceback, seen), (Stopped, None, [1]))

    def test_a_stop_cancels_the_coroutine_that_a_plain_function_returned(self):
        seen = []

        async def wait():
            asyncio.get_running_loop().call_soon(self.stop)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        self.assertIsInstance(self.call(lambda: wait()), Stopped)
        self.assertEqual(seen, ["cancelled"])

    def test_a_stop_that_comes_before_a_returned_awaitable_runs_cancels_it(self):
        async def wait():
            await asyncio.Event().wait()

        class Late:
            """Its stop comes when the worker looks whether it can be awaited."""

            def __init__(self, stop):
                self.stop = stop

            def __await__(self):
                self.stop()
                yield from wait().__await__()

        self.assertIsInstance(self.call(lambda: Late(self.stop)), Stopped)

    def test_an_async_function_that_cancels_itself_has_failed(self):
        async def function():
            raise asyncio.CancelledError

        self.assertIsInstance(self.call(function), Failed)
