"""The memory limit: when a worker is checked, and which workers exceed it."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.server.memory_limit import LOOK_INTERVAL, MemoryLimit


class MemoryLimitTests(SynchronousTestCase):
    def setUp(self):
        self.limit = MemoryLimit(1000, self.memory_kib)
        self.used = {1: 500, 2: 1001}
        self.looks = []

    def memory_kib(self, number):
        self.looks.append(number)
        return self.used.get(number)

    def excess(self, number, seconds=1.0, now=0.0):
        return self.limit.excess(number, seconds, now)

    def test_only_workers_over_the_limit_are_reported(self):
        self.assertIsNone(self.excess(1))
        self.assertEqual(self.excess(2), 1001)
        self.used[1] = 1000
        self.assertIsNone(self.excess(1))

    def test_unknown_memory_is_not_too_much(self):
        self.assertIsNone(self.excess(3))

    def test_no_worker_is_checked_without_a_limit(self):
        self.assertIsNone(MemoryLimit(None, self.memory_kib).excess(2, 1.0, 0.0))
        self.assertEqual(self.looks, [])

    def test_a_worker_that_runs_short_tasks_is_checked_now_and_then(self):
        for tick in range(100):
            self.excess(1, 0.0, tick * LOOK_INTERVAL / 10)
        self.assertEqual(len(self.looks), 10)

    def test_a_worker_is_always_checked_after_a_long_task(self):
        for _ in range(3):
            self.excess(1, LOOK_INTERVAL, 0.0)
        self.assertEqual(len(self.looks), 3)

    def test_a_worker_is_checked_after_its_first_task(self):
        self.excess(1, 0.0, 0.0)
        self.excess(2, 0.0, 0.0)
        self.assertEqual(self.looks, [1, 2])

    def test_nothing_is_kept_about_a_worker_that_is_gone(self):
        self.excess(1)
        self.limit.forget(1)
        self.limit.forget(1)
        self.excess(1, 0.0, 0.0)
        self.assertEqual(self.looks, [1, 1])
