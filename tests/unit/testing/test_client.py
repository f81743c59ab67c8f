"""The memory client, made for the tests of apps and their callers."""

from twisted.trial.unittest import SynchronousTestCase

from taskd import progress
from taskd.errors import InvalidParams, MethodNotFound, TaskFailed
from taskd.functions.registry import Registry
from taskd.protocol.nesting import MAX_NESTING, MAX_VALUE_NESTING
from taskd.testing import MemoryTaskClient


def add(a: int, b: int = 1) -> int:
    return a + b


def keyword(from_: str) -> dict:
    return {"from": from_, "pair": (1, 2)}


def count(upto: int) -> int:
    for number in range(upto):
        progress(number + 1, upto)
    return upto


def boom() -> None:
    raise ValueError("boom")


def no_json() -> object:
    return object()


def nest(levels: int) -> object:
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


def count_on(upto: int) -> None:
    progress(0, upto)
    for number in range(upto):
        progress(number + 1)


def not_a_number() -> list[float]:
    return [float("nan")]


def no_number_of_steps() -> None:
    progress(float("nan"))


async def later(value: int) -> int:
    return value


class MemoryTaskClientTests(SynchronousTestCase):
    def setUp(self):
        functions = Registry()
        for function in (
            add,
            keyword,
            count,
            count_on,
            boom,
            no_json,
            not_a_number,
            no_number_of_steps,
            nest,
            later,
        ):
            functions.add(function)
        self.client = MemoryTaskClient(functions)

    def test_a_generator_function_returns_the_list_of_its_values(self):
        def numbers(count: int):
            yield from range(count)

        async def async_numbers(count: int):
            for number in range(count):
                yield number

        for function in numbers, async_numbers:
            functions = Registry()
            functions.add(function, "f")
            client = MemoryTaskClient(functions)
            self.assertEqual(self.successResultOf(client.call("f", count=3)), [0, 1, 2])

    def test_a_call_gives_what_a_server_would_give(self):
        self.assertEqual(self.successResultOf(self.client.call("add", a=2, b=3)), 5)
        self.assertEqual(self.successResultOf(self.client.request("add", [2])), 3)

    def test_arguments_and_results_go_through_json(self):
        result = self.successResultOf(self.client.call("keyword", from_="x"))
        self.assertEqual(result, {"from": "x", "pair": [1, 2]})

    def test_async_functions_are_run(self):
        self.assertEqual(self.successResultOf(self.client.call("later", value=7)), 7)

    def test_an_awaitable_result_is_awaited_whichever_function_returned_it(self):
        functions = Registry()
        functions.add(lambda: later(7), "plain")
        client = MemoryTaskClient(functions)
        self.assertEqual(self.successResultOf(client.call("plain")), 7)

    def test_progress_is_reported(self):
        seen = []
        self.successResultOf(self.client.with_options(on_progress=seen.append).call("count", upto=2))
        self.assertEqual([(each.done, each.total) for each in seen], [(1, 2), (2, 2)])
        self.assertEqual(self.successResultOf(self.client.call("count", upto=1)), 1)

    def test_errors_are_the_exceptions_of_the_real_client(self):
        self.failureResultOf(self.client.call("nope"), MethodNotFound)
        failure = self.failureResultOf(self.client.call("add", a="x"), InvalidParams)
        self.assertEqual(failure.value.data["argument"], "a")
        failure = self.failureResultOf(self.client.call("boom"), TaskFailed)
        self.assertEqual(failure.value.data, {"type": "ValueError", "message": "boom"})
        self.failureResultOf(self.client.call("no_json"), TaskFailed)
        self.client.close()

    def test_nesting_is_limited_as_by_a_server(self):
        deepest = self.successResultOf(self.client.call("nest", levels=MAX_VALUE_NESTING))
        self.assertEqual(deepest, nest(MAX_VALUE_NESTING))
        for levels in MAX_VALUE_NESTING + 1, 20_000:
            self.failureResultOf(self.client.call("nest", levels=levels), TaskFailed)
        for levels in MAX_NESTING, 20_000:
            self.assertRaises(ValueError, self.client.request, "add", nest(levels))

    def test_results_and_reports_are_checked_as_by_a_server(self):
        seen = []
        self.successResultOf(self.client.with_options(on_progress=seen.append).call("count_on", upto=2))
        self.assertEqual([(each.done, each.total) for each in seen], [(0, 2), (1, None), (2, None)])
        failure = self.failureResultOf(self.client.call("not_a_number"), TaskFailed).value
        self.assertEqual(failure.data["message"], "result[0] is nan, which JSON cannot hold")
        failure = self.failureResultOf(self.client.call("no_number_of_steps"), TaskFailed).value
        self.assertEqual(failure.message, "ValueError: progress takes finite numbers, not nan")
