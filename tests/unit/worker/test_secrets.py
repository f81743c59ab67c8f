"""What a worker reports of a task with secret arguments: nothing has their values."""

import json
from dataclasses import dataclass
from typing import Annotated

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.hiding import MASK, unhidden
from taskd.functions.raised import MAX_TEXT
from taskd.functions.secrets import Secret
from taskd.worker.messages import Failed, Stopped
from taskd.worker.progress import ProgressReporter, running_task
from tests.unit.worker.test_invocation import InvokerCase

Password = Annotated[str, Secret]
VALUE = "hunter2hunter2"
ARGS = json.dumps([VALUE]).encode()


class FailureTests(InvokerCase):
    def make_fail(self, function, args=ARGS):
        failed = self.call(function, args)
        self.assertNotIn("hunter2", repr(failed))
        return failed

    def test_an_exception_that_quotes_a_secret_is_reported_without_it(self):
        def f(password: Password):
            try:
                raise KeyError(password)
            except KeyError as error:
                error.add_note(f"it was {password}")
                raise ValueError(f"no {password!r}") from error

        for details in "type", "message", "traceback":
            self.config = self.with_details(details)
            failed = self.make_fail(f)
            self.assertIsInstance(failed, Failed)
            self.assertIn(f"ValueError: no '{MASK}'", failed.traceback)
            self.assertIn(f"it was {MASK}", failed.traceback)
        self.assertEqual(json.loads(bytes(failed.data))["message"], f"no '{MASK}'")

    def test_a_long_text_is_masked_before_it_is_cut(self):
        def f(password: Password):
            raise ValueError("x" * (MAX_TEXT - 5) + password + "y" * (MAX_TEXT - 7))

        self.make_fail(f)

    def test_an_exception_that_cannot_be_formatted_is_reported_without_it(self):
        class Odd(Exception):
            def __str__(self):
                raise RuntimeError(self.args[0])

        def f(password: Password):
            raise Odd(password)

        self.assertIn(MASK, self.make_fail(f).message)

    def test_a_function_that_is_stopped_leaves_no_secret_in_the_traceback(self):
        def f(password: Password):
            try:
                self.stop()
            finally:
                raise ValueError(password)

        stopped = self.make_fail(f)
        self.assertIsInstance(stopped, Stopped)
        self.assertIn(f"ValueError: {MASK}", stopped.traceback)

    def test_a_result_that_is_not_json_is_described_without_it(self):
        def f(password: Password):
            return {password: object()}

        self.assertIn(MASK, self.make_fail(f).message)

        def g(password: Password):
            yield {password: object()}

        self.assertIn(MASK, self.make_fail(g).message)

    def test_arguments_that_do_not_fit_are_described_without_it(self):
        @dataclass
        class Login:
            password: Password

            def __post_init__(self):
                raise ValueError(self.password)

        def f(login: Login):
            pass

        for details in "type", "message", "traceback":
            self.config = self.with_details(details)
            self.make_fail(f, json.dumps([{"password": VALUE}]).encode())

        def g(password: Password, colour: str):
            pass

        self.make_fail(g, json.dumps({"password": VALUE, VALUE: 1}).encode())

    def test_the_memory_of_the_process_is_reported_with_a_failure(self):
        def f():
            raise ValueError

        self.assertGreater(self.call(f).peak_kib, 1000)
        self.assertGreater(self.call(f, b"[1]").peak_kib, 1000)

    def test_texts_of_other_functions_stay_as_they_are(self):
        def f(password):
            raise ValueError(password)

        self.assertIn("hunter2", self.call(f, ARGS).message)
        self.assertIs(self.invoker.hider_of_running(), unhidden)

    def test_the_secrets_of_the_function_that_runs_are_known(self):
        shown = []

        def f(password: Password):
            shown.append(self.invoker.hider_of_running()(f"with {password}"))

        self.call(f, ARGS)
        self.assertEqual(shown, [f"with {MASK}"])


class ProgressTests(SynchronousTestCase):
    def test_a_report_has_its_text_without_secrets(self):
        sent = []
        asked = []

        def hider():
            asked.append(1)
            return lambda text: text.replace(VALUE, MASK)

        reporter = ProgressReporter(sent.append, hider)
        self.addCleanup(running_task.set, running_task.get())
        running_task.set(1)
        reporter.begin(1)
        reporter.report(1, 2)
        self.assertEqual(asked, [], "only texts are looked at")
        for _ in range(3):
            reporter.report(2, 2, "x" * (MAX_TEXT - 5) + VALUE)
        reporter.end()
        self.assertEqual([each.message for each in sent][-1], ("x" * (MAX_TEXT - 5) + MASK)[:MAX_TEXT])
        self.assertEqual(len(asked), 1, "and their secrets looked up once for a task")
        self.assertNotIn("hunter2", msgspec.json.encode(sent).decode())
