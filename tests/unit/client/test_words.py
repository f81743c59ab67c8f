"""The words of the Python clients: which options there are, and how calls are encoded."""

import json
from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from taskd.client.words import (
    NO_WORDS,
    call_of,
    function_name,
    named_call,
    row_call,
    submit_batch_of,
    submit_of,
)
from taskd.functions.registry import registry
from taskd.model import NO_OPTIONS, Options


def report(pages, paper="A4", /, size=1, *more, color=False, from_=None):
    """Be a function with every kind of parameter."""


class Owner:
    def method(self, number):
        """Be a method that can be registered."""


OWNER = Owner()


def arguments(call):
    return None if call.args is None else json.loads(bytes(call.args))


class FunctionTests(SynchronousTestCase):
    def setUp(self):
        self.patch(registry, "_functions", {})
        self.patch(registry, "_by_identity", {})
        registry.add(report, "paper.report")

    def test_a_function_has_the_name_that_it_is_registered_under(self):
        self.assertEqual(function_name(report), "paper.report")
        self.assertEqual(function_name("any text"), "any text")

    def test_an_object_that_is_not_registered_has_no_name(self):
        for function in (json.dumps, OWNER.method, 7, None):
            error = self.assertRaises(TypeError, function_name, function)
            self.assertIn("is not registered: decorate it with @task", str(error))

    def test_arguments_are_sent_by_position_or_by_their_names_on_the_wire(self):
        for args, kwargs, sent in (
            ((), {}, None),
            ((1, "A5"), {}, [1, "A5"]),
            ((), {"size": 3, "from_": "a"}, {"size": 3, "from": "a"}),
            ((1, "A5"), {"color": True}, {"pages": 1, "paper": "A5", "color": True}),
            ((1,), {"from_": "a"}, {"pages": 1, "from": "a"}),
        ):
            call = call_of(NO_WORDS, report, args, kwargs)
            self.assertEqual((call.function, arguments(call)), ("paper.report", sent))
            self.assertIs(call.options, NO_OPTIONS)

    def test_arguments_by_position_and_by_name_need_the_function_itself(self):
        error = self.assertRaises(TypeError, call_of, NO_WORDS, "report", (1,), {"color": True})
        self.assertIn("give the arguments either by position or by name", str(error))

    def test_arguments_that_cannot_be_named_are_refused(self):
        error = self.assertRaises(TypeError, call_of, NO_WORDS, report, (1, 2, 3, 4), {"color": True})
        self.assertIn("4 arguments by position, of which 3 have names", str(error))
        error = self.assertRaises(TypeError, call_of, NO_WORDS, report, (1, 2, 3), {"size": 4})
        self.assertIn("size is given by position and by name", str(error))

    def test_arguments_that_are_no_json_are_refused(self):
        self.assertRaises(TypeError, call_of, NO_WORDS, report, (object(),), {})
        self.assertRaises(TypeError, submit_of, NO_WORDS, report, (), {"size": object()})

    def test_arguments_that_are_nested_too_deeply_are_refused(self):
        value = []
        for _ in range(300):
            value = [value]
        self.assertRaises(ValueError, call_of, NO_WORDS, report, (value,), {})
        for _ in range(100_000):
            value = [value]
        self.assertRaises(ValueError, call_of, NO_WORDS, report, (value,), {})

    def test_a_submit_has_function_arguments_options_and_token(self):
        words = NO_WORDS.with_options(timeout=5, priority=0, delay=2, key="k", retries=1, keep=9, deadline=3)
        call = submit_of(words, report, (1,), {})
        self.assertEqual(call.function, "taskd.submit")
        options = {
            "timeout": 5,
            "priority": 0,
            "delay": 2,
            "key": "k",
            "retries": 1,
            "keep": 9,
            "deadline": 3,
        }
        self.assertEqual(arguments(call), {"function": "paper.report", "args": [1], "options": options})
        call = submit_of(NO_WORDS.with_options(token="t"), "f", (), {})
        self.assertEqual(arguments(call), {"function": "f", "options": {}, "token": "t"})

    def test_a_batch_has_the_arguments_of_each_row(self):
        rows = [(1, 2), [3], {"from_": 4}, "five"]
        call = submit_batch_of(NO_WORDS.with_options(token="t"), report, iter(rows), then=report)
        self.assertEqual(call.function, "taskd.submit_batch")
        self.assertEqual(
            arguments(call),
            {
                "function": "paper.report",
                "args": [[1, 2], [3], {"from": 4}, ["five"]],
                "options": {},
                "then": "paper.report",
                "token": "t",
            },
        )
        self.assertNotIn("then", arguments(submit_batch_of(NO_WORDS, "f", [])))

    def test_a_row_is_called_with_what_it_holds(self):
        self.assertEqual(arguments(row_call(NO_WORDS, report, {"size": 1})), {"size": 1})
        self.assertEqual(arguments(row_call(NO_WORDS, report, "a")), ["a"])

    def test_the_servers_own_methods_have_no_arguments_or_named_ones(self):
        self.assertEqual(arguments(named_call("taskd.ping", {})), None)
        self.assertEqual(arguments(named_call("taskd.get", {"task": "1"})), {"task": "1"})


class OptionsTests(SynchronousTestCase):
    def test_options_are_added_replaced_and_taken_away(self):
        words = NO_WORDS.with_options(timeout=5, priority=1)
        self.assertEqual(words.with_options(priority=2, wait=3).timeout, 5)
        self.assertEqual(words.with_options(timeout=None), NO_WORDS.with_options(priority=1))
        self.assertEqual(words.with_options(), words)
        self.assertEqual(NO_WORDS.timeout, None)

    def test_the_options_of_a_call_are_those_of_the_protocol(self):
        words = NO_WORDS.with_options(
            timeout=5, priority=1, deadline=2, on_disconnect="cancel", wait=9, on_progress=print
        )
        self.assertEqual(
            words.call_options(),
            Options(timeout=5, deadline=2, priority=1, progress=True, on_disconnect="cancel"),
        )
        self.assertEqual(NO_WORDS.with_options(wait=1).call_options(), NO_OPTIONS)

    def test_a_value_that_an_option_cannot_have_is_refused(self):
        for options in (
            {"timeout": 0},
            {"timeout": "5"},
            {"deadline": -1},
            {"priority": 10},
            {"priority": 1.5},
            {"on_disconnect": "stop"},
            {"key": ""},
            {"delay": -1},
            {"retries": -1},
            {"keep": -1},
            {"token": ""},
            {"token": "t" * 201},
            {"wait": 0},
            {"on_progress": "print"},
        ):
            error = self.assertRaises(ValueError, NO_WORDS.with_options, **options)
            self.assertIn(next(iter(options)), str(error))

    def test_a_time_is_a_text_or_has_a_zone(self):
        time = datetime(2026, 12, 24, 18, tzinfo=UTC)
        self.assertEqual(NO_WORDS.with_options(at=time).at, "2026-12-24T18:00:00+00:00")
        self.assertEqual(NO_WORDS.with_options(at="2026-12-24T18:00:00Z").at, "2026-12-24T18:00:00Z")
        error = self.assertRaises(ValueError, NO_WORDS.with_options, at=time.replace(tzinfo=None))
        self.assertIn("at needs a time with a zone", str(error))
        self.assertRaises(ValueError, NO_WORDS.with_options, at="now", delay=1)

    def test_an_option_of_another_method_is_refused_and_says_where_it_belongs(self):
        for options, method, where in (
            ({"key": "k"}, "call", "it is for submit"),
            ({"delay": 1}, "map", "it is for submit and submit_batch"),
            ({"on_progress": print}, "submit", "it is for call and map"),
            ({"key": "k"}, "submit_batch", "it is for submit"),
        ):
            words = NO_WORDS.with_options(**options)
            error = self.assertRaises(ValueError, words.check_method, method)
            self.assertEqual(
                str(error), f"the option {next(iter(options))} does not belong to {method}: {where}"
            )
        for function in (call_of, submit_of):
            other = {"key": "k"} if function is call_of else {"on_disconnect": "cancel"}
            self.assertRaises(ValueError, function, NO_WORDS.with_options(**other), "f", (), {})
