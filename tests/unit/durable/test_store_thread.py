"""The thread of a store: what it runs, and how the reactor learns of it."""

import threading

from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.store_thread import StoreThread


class Reactor:
    """A reactor that keeps what threads want called, until `turn`."""

    def __init__(self):
        self.calls = []

    def callFromThread(self, function, *args):
        self.calls.append((function, args))

    def turn(self):
        calls, self.calls = self.calls, []
        for function, args in calls:
            function(*args)


class StoreThreadTests(SynchronousTestCase):
    def test_functions_run_in_their_order_and_their_results_come_in_the_reactor(self):
        reactor = Reactor()
        thread = StoreThread(reactor)
        ran, threads = [], set()

        def run(number):
            ran.append(number)
            threads.add(threading.current_thread())
            return number

        results = [thread.execute(lambda number=number: run(number)) for number in range(3)]
        thread.end()
        self.assertEqual((ran, len(threads)), ([0, 1, 2], 1))
        self.assertNotIn(threading.current_thread(), threads)
        for result in results:
            self.assertNoResult(result)
        reactor.turn()
        self.assertEqual([self.successResultOf(result) for result in results], [0, 1, 2])

    def test_the_thread_goes_on_after_a_function_that_has_failed(self):
        reactor = Reactor()
        thread = StoreThread(reactor)
        failed, done = thread.execute(lambda: 1 // 0), thread.execute(lambda: 2)
        thread.end()
        reactor.turn()
        self.failureResultOf(failed, ZeroDivisionError)
        self.assertEqual(self.successResultOf(done), 2)
