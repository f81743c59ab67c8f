"""Many calls of a Twisted program, whose results come as they are there."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from taskd.client.twisted_map import map_rows
from taskd.errors import TaskFailed


class MapTests(SynchronousTestCase):
    def setUp(self):
        self.calls = {}
        self.found = []

    def call(self, row):
        self.calls[row] = Deferred()
        return self.calls[row]

    def map(self, rows, concurrency=2, *, return_exceptions=False):
        async def collect():
            async for row, result in map_rows(
                self.call, rows, concurrency, return_exceptions=return_exceptions
            ):
                self.found.append((row, result))

        return Deferred.fromCoroutine(collect())

    def test_so_many_are_in_flight_and_results_come_as_they_end(self):
        done = self.map("abc")
        self.assertEqual(list(self.calls), ["a", "b"])
        self.calls["b"].callback(2)
        self.assertEqual(self.found, [("b", 2)])
        self.assertEqual(list(self.calls), ["a", "b", "c"])
        self.calls["c"].callback(3)
        self.calls["a"].callback(1)
        self.successResultOf(done)
        self.assertEqual(self.found, [("b", 2), ("c", 3), ("a", 1)])

    def test_the_first_error_is_raised_and_the_others_are_cancelled(self):
        done = self.map("abc")
        self.calls["a"].errback(TaskFailed("no paper"))
        self.failureResultOf(done, TaskFailed)
        self.assertEqual(list(self.calls), ["a", "b"])
        self.assertTrue(self.calls["b"].called)
        self.assertEqual(self.found, [])

    def test_errors_are_yielded_if_they_are_asked_for(self):
        done = self.map("ab", return_exceptions=True)
        error = TaskFailed("no paper")
        self.calls["a"].errback(error)
        self.calls["b"].callback(2)
        self.successResultOf(done)
        self.assertEqual(self.found, [("a", error), ("b", 2)])

    def test_an_error_that_is_none_of_taskds_is_raised_in_any_case(self):
        done = self.map("ab", return_exceptions=True)
        self.calls["a"].errback(ZeroDivisionError())
        self.failureResultOf(done, ZeroDivisionError)

    def test_a_call_that_has_ended_already_is_no_problem(self):
        self.call = self.ended
        self.successResultOf(self.map("abcde"))
        self.assertEqual(sorted(self.found), [(row, row) for row in "abcde"])

    def ended(self, row):
        done = Deferred()
        done.callback(row)
        return done

    def test_cancelling_ends_the_calls_in_flight(self):
        done = self.map("ab")
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertTrue(all(call.called for call in self.calls.values()))

    def test_a_concurrency_of_none_is_refused(self):
        self.failureResultOf(self.map("ab", concurrency=0), ValueError)
