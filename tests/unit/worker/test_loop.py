"""A worker's loop, over a socketpair and in this process: one thread, no waiting."""

import contextvars
import importlib
import json
import os
import signal
import socket
import sys

import msgspec
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.current import describe_current_task_by
from taskd.functions.progress import progress, report_progress_to
from taskd.functions.raised import MAX_TEXT
from taskd.functions.registry import Registry
from taskd.worker import loop, own_process
from taskd.worker.board import KEPT_BYTES, Board
from taskd.worker.loop import WorkerLoop, rehearse
from taskd.worker.messages import (
    IS_SHORT,
    NULL,
    POKE,
    WANTS_PROGRESS,
    Attempt,
    Done,
    Failed,
    Grown,
    Interrupt,
    Ready,
    Reclaim,
    Reported,
    Returned,
    Stopped,
    WorkerConfig,
    decode_from_worker,
    encode,
)
from tests.unit.descriptors import open_descriptors

registry_module = importlib.import_module("taskd.functions.registry")

CONFIG = WorkerConfig(apps=[], directory="", name="TaskWorker", max_result=1000)

TASK = 7

NO_PIPE = 1 << 20
"""A number that is no descriptor of this process."""


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")


class Elsewhere(Exception):
    """An exception that is not one of Python's own."""


class InterruptedChannel:
    """A worker's channel, with a signal when half of a report is written."""

    def __init__(self, end, interrupt):
        self.end = end
        self.interrupt = interrupt

    def sendall(self, data):
        half = len(data) // 2
        self.end.sendall(data[:half])
        if b'"progress"' in data:
            self.interrupt()
        self.end.sendall(data[half:])

    def __getattr__(self, name):
        return getattr(self.end, name)


class WorkerCase(SynchronousTestCase):
    """Runs a worker over a pair of sockets; its output is read only if a test asks for that."""

    def setUp(self):
        self.titles = []
        self.patch(loop, "setproctitle", self.titles.append)
        self.patch(loop, "OUTPUT", NO_PIPE)
        self.addCleanup(report_progress_to, report_progress_to(None))
        self.addCleanup(describe_current_task_by, describe_current_task_by(None))
        self.addCleanup(signal.signal, POKE, signal.getsignal(POKE))
        self.registry = Registry()
        self.config = CONFIG
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in self.ours, self.theirs:
            self.addCleanup(end.close)
        descriptor = Board.create(2)
        self.addCleanup(os.close, descriptor)
        self.board = Board(descriptor)
        self.worker = None

    def add(self, function, name="f"):
        self.registry.add(function, name)

    def send(self, *messages):
        """Send messages as the daemon does."""
        self.ours.sendall(b"".join(encode(message) for message in messages))

    def poke(self, *messages):
        """Send messages while a function runs, and call the signal's handler."""
        self.send(*messages)
        signal.getsignal(POKE)(POKE, None)

    def received(self):
        """Return the messages that the worker has sent."""
        sent = b""
        while True:
            try:
                data = self.ours.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not data:
                break
            sent += data
        return decode_from_worker(sent)

    def run_worker(self, *messages):
        """Run a worker on these messages from start to end, and return the messages that it sends."""
        self.ours, self.theirs = socket.socketpair()
        for end in self.ours, self.theirs:
            self.addCleanup(end.close)
        self.ours.sendall(b"".join(encode(message) for message in messages))
        self.ours.shutdown(socket.SHUT_WR)
        return self.serve()

    def serve(self):
        self.worker = WorkerLoop(self.registry, self.config)
        self.worker.prepare()
        self.worker.run(self.theirs, self.board, 1)
        self.theirs.close()
        return self.received()

    def attempt_of(self, task=TASK, function="f", args=NULL, flags=0, attempt=1):
        return Attempt(task, attempt, function, Raw(args), flags)


class WorkerTests(WorkerCase):
    def outcome(self, args=NULL):
        _ready, outcome = self.run_worker(self.attempt_of(args=args))
        self.assertEqual((_ready, outcome.task), (Ready(), TASK))
        return outcome

    def result(self, args=NULL):
        outcome = self.outcome(args)
        self.assertIsInstance(outcome, Done)
        return json.loads(bytes(outcome.value))

    def failure(self, args=NULL):
        outcome = self.outcome(args)
        self.assertIsInstance(outcome, Failed)
        return outcome.code, outcome.message, json.loads(bytes(outcome.data))

    # --- what a function returns ---

    def test_a_function_is_called_with_its_arguments(self):
        self.add(lambda a, b=2: [a, b])
        self.assertEqual(self.result(b'{"a": 1}'), [1, 2])
        self.assertEqual(self.result(b"[1, 3]"), [1, 3])

    def test_an_async_function_is_run_to_its_end(self):
        async def function(a):
            return a

        self.add(function)
        sent = self.run_worker(*[self.attempt_of(number, args=b"[%d]" % number) for number in range(3)])
        self.assertEqual([bytes(done.value) for done in sent[1:]], [b"0", b"1", b"2"])

    def test_tasks_run_one_after_the_other_in_their_order(self):
        self.add(lambda a: a)
        sent = self.run_worker(*[self.attempt_of(number, args=b"[%d]" % number) for number in range(5)])
        self.assertEqual(sent[0], Ready())
        self.assertEqual(
            [(done.task, bytes(done.value)) for done in sent[1:]], [(n, b"%d" % n) for n in range(5)]
        )
        self.assertEqual(self.titles[0], "taskd[TaskWorker]: idle")
        self.assertIn("taskd[TaskWorker]: f #3", self.titles)
        self.assertEqual(self.titles[-1], "taskd[TaskWorker]: stopping")

    def test_a_result_that_is_already_json_text_is_sent_as_one_line(self):
        """msgspec passes on a `Raw` unchanged; for unreadable data the daemon would kill the worker."""
        self.add(lambda: msgspec.Raw(b'{"a": [1,\n2]}'))
        self.assertEqual(self.result(), {"a": [1, 2]})

    def test_a_raw_result_that_is_not_json_is_a_failure_of_the_task(self):
        for text in b"nonsense", b"[1", b'"\xff"', b"1\n2":
            self.registry = Registry()
            self.add(lambda text=text: [msgspec.Raw(text)])
            self.assertEqual(self.failure()[0], -32000, text)

    def test_a_result_that_is_not_json_is_a_failure_of_the_task(self):
        for result in object(), {1: object()}, "\udcff", 1j:
            self.registry = Registry()
            self.add(lambda result=result: result)
            code, message, data = self.failure()
            self.assertEqual(code, -32000)
            self.assertIn(data["type"], ("object", "str", "complex"))
            self.assertIn("the result is not JSON", message)

    def test_a_result_over_the_limit_is_refused_with_the_limit(self):
        self.add(lambda size: "x" * size)
        self.assertEqual(len(self.result(b"[997]")), 997)
        code, _, data = self.failure(b"[998]")
        self.assertEqual((code, data), (-32006, {"limit": 1000}))

    # --- what it raises ---

    def test_invalid_arguments_are_reported_as_the_mistake_of_the_caller(self):
        def function(a: int):
            pass

        self.add(function)
        code, message, data = self.failure(b'["x"]')
        self.assertEqual((code, data), (-32602, {"argument": "a", "expected": "int", "got": "str"}))
        self.assertTrue(message.startswith("f: "), message)
        self.assertIsNone(self.outcome(b"[]").traceback)

    def test_an_exception_is_reported_with_its_type_and_text(self):
        def function(kind):
            raise {"own": Elsewhere, "builtin": ValueError}[kind]("it is so")

        self.add(function)
        expected = {"type": "ValueError", "message": "it is so"}
        self.assertEqual(self.failure(b'["builtin"]'), (-32000, "ValueError: it is so", expected))
        name = f"{__name__}.Elsewhere"
        expected = {"type": name, "message": "it is so"}
        self.assertEqual(self.failure(b'["own"]'), (-32000, f"{name}: it is so", expected))

    def test_the_logged_traceback_begins_at_the_first_line_of_the_task(self):
        def function():
            raise ValueError("it is so")

        async def async_function():
            raise ValueError("it is so")

        for task in function, async_function:
            self.registry = Registry()
            self.add(task)
            trace = self.outcome().traceback
            self.assertIn('raise ValueError("it is so")', trace)
            self.assertNotIn("worker/invocation.py", trace)
            self.assertNotIn("asyncio", trace)

    def test_a_caller_gets_the_traceback_only_if_the_operator_wants_it(self):
        def function():
            raise ValueError("it is so")

        self.add(function)
        self.assertNotIn("traceback", self.failure()[2])
        self.config = msgspec.structs.replace(CONFIG, error_details="traceback")
        self.assertIn("raise ValueError", self.failure()[2]["traceback"])

    def test_any_exception_ends_the_task_and_not_the_worker(self):
        for error in SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Unprintable(), ValueError("\udcff"):

            def function(error=error):
                raise error

            self.registry = Registry()
            self.registry.add(function, "f")
            self.registry.add(lambda: 1, "g")
            _, failed, done = self.run_worker(self.attempt_of(1), self.attempt_of(2, "g"))
            self.assertEqual((failed.code, bytes(done.value)), (-32000, b"1"))

    def test_a_long_error_message_is_cut(self):
        def function():
            raise ValueError("x" * 1_000_000)

        self.add(function)
        outcome = self.outcome()
        for text in outcome.message, outcome.traceback, json.loads(bytes(outcome.data))["message"]:
            self.assertLessEqual(len(text), MAX_TEXT + 100)

    # --- progress, hooks, and the end ---

    def test_progress_is_sent_before_the_outcome_if_the_caller_wants_it(self):
        def function():
            progress(1, 3, "begun")
            progress(3)
            return 1

        self.add(function)
        sent = self.run_worker(self.attempt_of(1, flags=WANTS_PROGRESS), self.attempt_of(2))
        self.assertEqual(sent[1:3], [Reported(1, 1, 3, "begun"), Reported(1, 3, None, None)])
        self.assertEqual([(type(message), message.task) for message in sent[3:]], [(Done, 1), (Done, 2)])

    def test_hooks_are_called_before_the_first_task_and_after_the_last(self):
        order = []
        self.add(lambda: order.append("task"))
        self.registry.start_hooks += [lambda: order.append("one"), lambda: order.append("two")]
        self.registry.stop_hooks += [lambda: order.append("three")]
        self.run_worker(self.attempt_of(1))
        self.assertEqual(order, ["one", "two", "task", "three"])

    def test_each_task_has_the_context_that_the_start_hooks_have_left(self):
        variable = contextvars.ContextVar("variable", default="unset")
        self.registry.start_hooks.append(lambda: variable.set("by the hook"))

        def function():
            before = variable.get()
            variable.set("by a task")
            return before

        async def async_function():
            return function()

        self.add(function)
        self.add(async_function, "async_f")
        context = contextvars.copy_context()
        sent = context.run(
            self.run_worker, *[self.attempt_of(n, "async_f" if n % 2 else "f") for n in range(4)]
        )
        self.assertEqual([bytes(done.value) for done in sent[1:]], [b'"by the hook"'] * 4)

    def test_a_copy_of_the_worker_leaves_where_it_comes_back(self):
        class LeftError(BaseException):
            """The process has ended, with this status."""

        def leave(status):
            raise LeftError(status)

        def exiting():
            self.fork()
            raise SystemExit(7)

        self.patch(own_process.os, "_exit", leave)
        self.add(lambda: self.fork())
        self.add(exiting, "exiting")
        for name, status in ("f", 0), ("exiting", 7):
            self.patch(own_process, "getpid", os.getpid)
            error = self.assertRaises(LeftError, self.run_worker, self.attempt_of(function=name))
            self.assertEqual((error.args, self.received()), ((status,), [Ready()]))
        for hooks in self.registry.start_hooks, self.registry.stop_hooks:
            self.patch(own_process, "getpid", os.getpid)
            hooks.append(self.fork)
            self.assertEqual(self.assertRaises(LeftError, self.run_worker).args, (0,))
            hooks.clear()

    def fork(self):
        """Have the code that follows run in another process, as far as it can tell."""
        self.patch(own_process, "getpid", lambda: -1)

    def test_a_copy_of_the_worker_reports_no_progress_and_reads_nothing_that_the_daemon_sends(self):
        def function():
            self.fork()
            progress(1)
            self.poke(Interrupt(TASK, 1, True))
            self.ours.shutdown(socket.SHUT_WR)
            self.patch(own_process, "getpid", os.getpid)
            progress(2)
            signal.getsignal(POKE)(POKE, None)

        self.add(function)
        self.send(self.attempt_of(flags=WANTS_PROGRESS))
        _ready, report, outcome = self.serve()
        self.assertEqual((report.done, type(outcome)), (2, Stopped))

    def test_a_worker_that_has_grown_reports_it_before_the_outcome_and_returns_the_rest(self):
        self.config = msgspec.structs.replace(CONFIG, max_memory=1)
        self.add(lambda: 1)
        grown, done, returned = self.run_worker(*[self.attempt_of(n, flags=IS_SHORT) for n in (1, 2, 3)])[1:]
        self.assertEqual((type(grown), done.task, returned), (Grown, 1, Returned([2, 3])))
        self.assertGreater(grown.kib, 1024)
        grown, done = self.run_worker(self.attempt_of(1))[1:]
        self.assertEqual((type(grown), done.task), (Grown, 1))

    def test_a_worker_below_its_memory_limit_reports_only_the_outcome(self):
        self.config = msgspec.structs.replace(CONFIG, max_memory=1 << 50)
        self.add(lambda: 1)
        self.assertEqual([type(message) for message in self.run_worker(self.attempt_of())], [Ready, Done])

    def test_a_worker_whose_hook_fails_is_not_ready(self):
        def hook():
            raise ValueError("no database")

        self.registry.start_hooks.append(hook)
        self.assertRaises(ValueError, self.serve)
        self.assertEqual(self.received(), [])

    def test_a_worker_ends_normally_when_the_daemon_is_gone(self):
        stopped = []
        self.registry.stop_hooks.append(lambda: stopped.append(1))
        self.ours.close()
        self.worker = WorkerLoop(self.registry, self.config)
        self.worker.run(self.theirs, self.board, 1)
        self.assertEqual(stopped, [1])

    def test_a_task_may_close_or_replace_its_streams(self):
        self.patch(sys, "stdout", sys.stdout)
        self.patch(sys, "stderr", sys.stderr)
        before = sys.stdout, sys.stderr

        def function():
            sys.stdout = object()
            del sys.stderr

        self.add(function)
        outcome = self.outcome()
        self.assertEqual((bytes(outcome.value), outcome.output), (b"null", False))
        self.assertEqual((sys.stdout, sys.stderr), before)

    def test_an_outcome_reports_whether_the_daemon_must_read_output(self):
        read_end, write_end = os.pipe()
        self.addCleanup(os.close, read_end)
        self.addCleanup(os.close, write_end)
        self.patch(loop, "OUTPUT", read_end)
        self.add(lambda text: os.write(write_end, text.encode()))
        self.assertFalse(self.outcome(b'[""]').output)
        self.assertTrue(self.outcome(b'["x"]').output)


class BatchTests(WorkerCase):
    """Several tasks that a worker has at once."""

    def batch(self, count, flags=IS_SHORT):
        return [self.attempt_of(number, args=b"[%d]" % number, flags=flags) for number in range(1, count + 1)]

    def test_the_board_shows_which_task_was_begun_last(self):
        begun = []
        self.add(lambda number: begun.append(self.board.begun(1)))
        self.assertEqual(len(self.run_worker(*self.batch(3))), 4)
        self.assertEqual(begun, [1, 2, 3])
        self.assertEqual((self.board.begun(1), self.board.begun(0)), (3, 0))

    def test_outcomes_of_short_tasks_are_sent_together_and_kept_on_the_board_meanwhile(self):
        received, kept = [], []

        def function(number):
            received.append(self.received())
            kept.append([message.task for message in decode_from_worker(self.board.kept(1))])

        self.patch(loop, "OUTCOME_DELAY", 1000.0)
        self.add(function)
        rest = self.run_worker(*self.batch(3))
        self.assertEqual(received, [[Ready()], [], []])
        self.assertEqual(kept, [[], [1], [1, 2]])
        self.assertEqual([message.task for message in rest], [1, 2, 3])
        self.assertEqual(self.board.kept(1), b"")

    def test_an_outcome_that_has_waited_too_long_is_sent(self):
        received = []
        self.patch(loop, "OUTCOME_DELAY", -1.0)
        self.add(lambda number: received.append(len(self.received())))
        self.run_worker(*self.batch(3))
        self.assertEqual(received, [1, 1, 1])

    def test_outcomes_for_which_the_board_has_no_room_are_sent(self):
        received = []
        self.patch(loop, "OUTCOME_DELAY", 1000.0)
        self.config = msgspec.structs.replace(CONFIG, max_result=2 * KEPT_BYTES)

        def function(number):
            received.append(len(self.received()))
            return "x" * (KEPT_BYTES // 2)

        self.add(function)
        self.run_worker(*self.batch(4))
        self.assertEqual(received, [1, 0, 2, 0])

    def test_the_output_of_a_task_is_kept_apart_from_that_of_the_next(self):
        read_end, write_end = os.pipe()
        self.addCleanup(os.close, read_end)
        self.addCleanup(os.close, write_end)
        self.patch(loop, "OUTPUT", read_end)
        self.add(lambda number: os.write(write_end, b"x"))
        _ready, done, returned = self.run_worker(*self.batch(3))
        self.assertEqual((done.task, done.output, returned), (1, True, Returned([2, 3])))

    def test_only_a_task_that_is_not_short_changes_the_title(self):
        self.add(lambda number: None)
        self.run_worker(*self.batch(2))
        self.assertEqual(self.titles, ["taskd[TaskWorker]: idle", "taskd[TaskWorker]: stopping"])
        del self.titles[:]
        self.run_worker(*self.batch(2, flags=0))
        self.assertEqual(
            self.titles,
            [
                "taskd[TaskWorker]: idle",
                "taskd[TaskWorker]: f #1",
                "taskd[TaskWorker]: f #2",
                "taskd[TaskWorker]: idle",
                "taskd[TaskWorker]: stopping",
            ],
        )

    def test_tasks_that_have_not_begun_are_returned_when_they_are_reclaimed(self):
        self.add(lambda number: self.poke(Reclaim()) if number == 1 else number)
        self.send(*self.batch(3))
        self.theirs.settimeout(0)
        self.assertRaises(BlockingIOError, self.serve)
        _ready, returned, done = self.received()
        self.assertEqual((returned, done.task), (Returned([2, 3]), 1))
        self.assertIn("taskd[TaskWorker]: f #1", self.titles)  # it turned out not to be short

    def test_a_reclaim_received_with_the_tasks_is_handled_before_them(self):
        self.add(lambda number: number)
        sent = self.run_worker(*self.batch(3), Reclaim())
        self.assertEqual(sent, [Ready(), Returned([1, 2, 3])])
        self.assertEqual(self.run_worker(Reclaim()), [Ready()])

    def test_outcomes_are_sent_before_tasks_are_returned(self):
        self.patch(loop, "OUTCOME_DELAY", 1000.0)
        self.add(lambda number: self.poke(Reclaim()) if number == 2 else number)
        self.send(*self.batch(4))
        self.theirs.settimeout(0)
        self.assertRaises(BlockingIOError, self.serve)
        self.assertEqual([type(message) for message in self.received()], [Ready, Done, Returned, Done])


class InterruptTests(WorkerCase):
    """Functions that are interrupted while they run."""

    def served(self, *attempts):
        """Run the worker on these messages until it is idle, and return the messages that it sends."""
        self.send(*attempts)
        self.theirs.settimeout(0)
        self.assertRaises(BlockingIOError, self.serve)
        return self.received()

    def test_after_an_interrupted_function_the_next_one_runs(self):
        def function(number):
            if number == 1:
                self.poke(Interrupt(1, 1, True))
                raise AssertionError("it goes on")
            return number

        self.add(function)
        _ready, stopped, done = self.served(self.attempt_of(1, args=b"[1]"), self.attempt_of(2, args=b"[2]"))
        self.assertEqual((type(stopped), stopped.task, stopped.traceback), (Stopped, 1, None))
        self.assertEqual((type(done), done.task), (Done, 2))

    def test_an_interrupt_for_a_task_that_has_not_begun_returns_only_that_task(self):
        self.add(lambda number: self.poke(Interrupt(2, 1, True)) if number == 1 else number)
        attempts = [self.attempt_of(number, args=b"[%d]" % number) for number in (1, 2, 3)]
        _ready, returned, first, third = self.served(*attempts)
        self.assertEqual((returned, first.task, third.task), (Returned([2]), 1, 3))

    def test_an_interrupt_for_another_attempt_is_ignored(self):
        self.add(lambda number: self.poke(Interrupt(2, 1, True)) if number == 1 else number)
        attempts = [self.attempt_of(1, args=b"[1]"), self.attempt_of(2, args=b"[2]", attempt=2)]
        _ready, first, second = self.served(*attempts)
        self.assertEqual([type(first), type(second)], [Done, Done])

    def test_an_interrupt_for_an_ended_task_is_ignored(self):
        self.add(lambda: 1)
        self.assertEqual(len(self.run_worker(self.attempt_of(1))), 2)
        self.assertEqual(self.run_worker(Interrupt(1, 1, True)), [Ready()])

    def test_a_report_is_written_whole_before_the_stop_is_raised(self):
        def function():
            progress(1, 2)
            raise AssertionError("it goes on")

        channel = InterruptedChannel(self.theirs, lambda: self.poke(Interrupt(TASK, 1, False)))
        self.theirs = channel
        self.add(function)
        _ready, reported, stopped = self.served(self.attempt_of(flags=WANTS_PROGRESS))
        self.assertEqual((reported, type(stopped)), (Reported(TASK, 1, 2, None), Stopped))

    def test_an_async_function_is_cancelled(self):
        import asyncio

        async def function():
            asyncio.get_running_loop().call_soon(self.poke, Interrupt(TASK, 1, True))
            await asyncio.Event().wait()

        self.add(function)
        _ready, stopped = self.served(self.attempt_of())
        self.assertEqual((type(stopped), stopped.traceback), (Stopped, None))

    def test_a_poke_after_the_channel_is_closed_is_ignored(self):
        def function():
            self.ours.shutdown(socket.SHUT_WR)
            signal.getsignal(POKE)(POKE, None)
            return 1

        self.add(function)
        _ready, done = self.served_to_the_end(self.attempt_of())
        self.assertIsInstance(done, Done)

    def served_to_the_end(self, *attempts):
        self.send(*attempts)
        return self.serve()


class RehearsalTests(WorkerCase):
    def test_a_rehearsal_leaves_no_descriptor_open(self):
        before = open_descriptors()
        rehearse(self.config)
        self.assertEqual(open_descriptors(), before)
        self.assertIn("taskd[TaskWorker]: stopping", self.titles)
