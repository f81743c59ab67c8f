"""A worker's loop, over a socketpair and in this process: one thread, no waiting."""

import importlib
import json
import socket

import msgspec
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.pool import worker as worker_module
from taskd.pool.channel import NULL, Config, Done, Failed, Ready, Reported, Run, decode_from_worker, encode
from taskd.pool.worker import MAX_TEXT, Worker
from taskd.task import Registry, progress, report_progress_to

task_module = importlib.import_module("taskd.task")

CONFIG = Config(apps=[], directory="", name="TaskWorker", max_result=1000, tracebacks=False)


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")


class Elsewhere(Exception):
    """Not one of Python's own."""


class WorkerTests(SynchronousTestCase):
    def setUp(self):
        self.titles = []
        self.patch(worker_module, "setproctitle", self.titles.append)
        self.addCleanup(report_progress_to, task_module._sink)
        self.registry = Registry()
        self.config = CONFIG

    def add(self, function):
        self.registry.add(function, "f")

    def run_worker(self, *runs):
        """What a worker says to these tasks, from its start to its end."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        with theirs:
            ours.sendall(b"".join(encode(run) for run in runs))
            ours.shutdown(socket.SHUT_WR)
            Worker(self.registry, self.config).run(theirs)
        said = b""
        while data := ours.recv(65536):
            said += data
        return [decode_from_worker(line) for line in said.split(b"\n")[:-1]]

    def outcome(self, args=NULL):
        ready, outcome = self.run_worker(Run(7, "f", Raw(args), False))
        self.assertEqual((ready, outcome.job), (Ready(), 7))
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
        said = self.run_worker(*[Run(number, "f", Raw(b"[%d]" % number), False) for number in range(3)])
        self.assertEqual([bytes(done.value) for done in said[1:]], [b"0", b"1", b"2"])

    def test_tasks_run_one_after_the_other_in_their_order(self):
        self.add(lambda a: a)
        said = self.run_worker(*[Run(number, "f", Raw(b"[%d]" % number), False) for number in range(5)])
        self.assertEqual(said[0], Ready())
        self.assertEqual(
            [(done.job, bytes(done.value)) for done in said[1:]], [(n, b"%d" % n) for n in range(5)]
        )
        self.assertEqual(self.titles[0], "TaskWorker: idle")
        self.assertIn("TaskWorker: f #3", self.titles)
        self.assertEqual(self.titles[-1], "TaskWorker: stopping")

    def test_a_result_that_is_json_text_already_is_sent_as_one_line(self):
        """msgspec passes a `Raw` on as it is; the worker would be killed for what the daemon cannot read."""
        self.add(lambda: msgspec.Raw(b'{"a": [1,\n2]}'))
        self.assertEqual(self.result(), {"a": [1, 2]})

    def test_a_result_that_only_claims_to_be_json_text_is_a_failure_of_the_task(self):
        for text in b"nonsense", b"[1", b'"\xff"', b"1\n2":
            self.registry = Registry()
            self.add(lambda text=text: [msgspec.Raw(text)])
            self.assertEqual(self.failure()[0], -32000, text)

    def test_a_result_that_is_not_json_is_a_failure_of_the_task(self):
        for result in object(), {1: object()}, "\udcff", 1j:
            self.registry = Registry()
            self.add(lambda result=result: result)
            code, message, data = self.failure()
            self.assertEqual((code, data["type"]), (-32000, type(result).__name__))
            self.assertIn("the result is not JSON", message)

    def test_a_result_over_the_limit_is_refused_with_the_limit(self):
        self.add(lambda size: "x" * size)
        self.assertEqual(len(self.result(b"[997]")), 997)
        code, _, data = self.failure(b"[998]")
        self.assertEqual((code, data), (-32006, {"limit": 1000}))

    # --- what it raises ---

    def test_arguments_that_do_not_fit_are_the_callers_mistake(self):
        def function(a: int):
            pass

        self.add(function)
        code, message, data = self.failure(b'["x"]')
        self.assertEqual((code, data), (-32602, {"argument": "a", "expected": "int", "got": "str"}))
        self.assertTrue(message.startswith("f: "), message)
        self.assertIsNone(self.outcome(b"[]").traceback)

    def test_an_exception_is_told_with_its_type_and_text(self):
        def function(kind):
            raise {"own": Elsewhere, "builtin": ValueError}[kind]("it is so")

        self.add(function)
        expected = {"type": "ValueError", "message": "it is so"}
        self.assertEqual(self.failure(b'["builtin"]'), (-32000, "ValueError: it is so", expected))
        name = f"{__name__}.Elsewhere"
        expected = {"type": name, "message": "it is so"}
        self.assertEqual(self.failure(b'["own"]'), (-32000, f"{name}: it is so", expected))

    def test_the_log_gets_the_traceback_from_the_tasks_own_first_line(self):
        def function():
            raise ValueError("it is so")

        async def async_function():
            raise ValueError("it is so")

        for task in function, async_function:
            self.registry = Registry()
            self.add(task)
            trace = self.outcome().traceback
            self.assertIn('raise ValueError("it is so")', trace)
            self.assertNotIn("pool/worker.py", trace)
            self.assertNotIn("asyncio", trace)

    def test_a_caller_gets_the_traceback_only_where_the_operator_wants_it(self):
        def function():
            raise ValueError("it is so")

        self.add(function)
        self.assertNotIn("traceback", self.failure()[2])
        self.config = msgspec.structs.replace(CONFIG, tracebacks=True)
        self.assertIn("raise ValueError", self.failure()[2]["traceback"])

    def test_whatever_is_raised_ends_the_task_and_not_the_worker(self):
        for error in SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Unprintable(), ValueError("\udcff"):

            def function(error=error):
                raise error

            self.registry = Registry()
            self.registry.add(function, "f")
            self.registry.add(lambda: 1, "g")
            _, failed, done = self.run_worker(Run(1, "f", NULL, False), Run(2, "g", NULL, False))
            self.assertEqual((failed.code, bytes(done.value)), (-32000, b"1"))

    def test_a_long_text_is_cut(self):
        def function():
            raise ValueError("x" * 1_000_000)

        self.add(function)
        outcome = self.outcome()
        for text in outcome.message, outcome.traceback, json.loads(bytes(outcome.data))["message"]:
            self.assertLessEqual(len(text), MAX_TEXT + 100)

    # --- progress, hooks, and the end ---

    def test_progress_is_sent_before_the_outcome_to_who_wants_it(self):
        def function():
            progress(1, 3, "begun")
            progress(3)
            return 1

        self.add(function)
        said = self.run_worker(Run(1, "f", NULL, True), Run(2, "f", NULL, False))
        self.assertEqual(said[1:3], [Reported(1, 1, 3, "begun"), Reported(1, 3, None, None)])
        self.assertEqual([(type(message), message.job) for message in said[3:]], [(Done, 1), (Done, 2)])

    def test_hooks_are_called_before_the_first_task_and_after_the_last(self):
        order = []
        self.add(lambda: order.append("task"))
        self.registry.start_hooks += [lambda: order.append("one"), lambda: order.append("two")]
        self.registry.stop_hooks += [lambda: order.append("three")]
        self.run_worker(Run(1, "f", NULL, False))
        self.assertEqual(order, ["one", "two", "task", "three"])

    def test_a_worker_whose_hook_fails_is_not_ready(self):
        def hook():
            raise ValueError("no database")

        self.registry.start_hooks.append(hook)
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        with theirs:
            self.assertRaises(ValueError, Worker(self.registry, self.config).run, theirs)
        self.assertEqual(ours.recv(1), b"")

    def test_a_worker_ends_in_order_where_the_daemon_has_gone(self):
        stopped = []
        self.registry.stop_hooks.append(lambda: stopped.append(1))
        ours, theirs = socket.socketpair()
        ours.close()
        with theirs:
            Worker(self.registry, self.config).run(theirs)
        self.assertEqual(stopped, [1])

    def test_a_task_may_close_or_replace_its_streams(self):
        class Broken:
            def flush(self):
                raise OSError("gone")

        self.patch(worker_module.sys, "stdout", Broken())
        self.patch(worker_module.sys, "stderr", None)
        self.patch(worker_module, "_OUTPUT", 1 << 20)
        self.add(lambda: 1)
        outcome = self.outcome()
        self.assertEqual((bytes(outcome.value), outcome.output), (b"1", False))
