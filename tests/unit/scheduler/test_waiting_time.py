"""How long refused callers should wait."""

from taskd.errors import Busy
from taskd.scheduler import FunctionStats
from taskd.scheduler.waiting_time import MAX_RETRY_AFTER, RETRY_AFTER
from tests.unit.scheduler.case import SchedulerCase


class RetryAfterTests(SchedulerCase):
    def fill(self, waiting, workers=1, *, seconds=None, stats=None):
        """Fill the queue, after one task of `seconds` if that is given; every worker has a task since 0."""
        scheduler = self.make(workers, max_queue=waiting)
        self.stats = stats or FunctionStats("f")
        if seconds is not None:
            task = self.submit()
            self.assign()
            self.finish(task, seconds=seconds)
        self.submit(waiting + workers)
        self.assign()
        return scheduler

    def retry_after(self, now=0.0):
        return self.assertRaises(Busy, self.scheduler.submit, self.task(received=now)).data["retry_after"]

    def test_a_refused_caller_waits_for_a_worker_and_for_a_tenth_of_the_queue(self):
        self.fill(100, seconds=1.0)
        self.assertEqual(self.retry_after(), 1.0 + 10.0)
        self.fill(100, workers=4, seconds=1.0)
        self.assertEqual(self.retry_after(), 1.0 + 2.5)

    def test_the_estimate_has_bounds(self):
        self.fill(100, seconds=0.0)
        self.assertEqual(self.retry_after(), RETRY_AFTER)  # nothing is known
        self.fill(100, seconds=0.00001)
        self.assertEqual(self.retry_after(), 0.1)
        self.fill(100, seconds=3600.0)
        self.assertEqual(self.retry_after(), MAX_RETRY_AFTER)

    def test_tasks_that_have_run_for_long_and_never_ended_count(self):
        self.fill(20, workers=2)
        self.assertEqual(self.retry_after(), RETRY_AFTER)
        self.assertEqual(self.retry_after(10.0), 10.0 + 20 * 10.0 / 2 / 10)
        self.assertEqual(self.retry_after(300.0), 300.0 + 300.0)

    def test_a_function_that_was_fast_and_now_takes_long_is_expected_to_take_long(self):
        self.fill(20, workers=2, seconds=0.01)
        self.assertEqual(self.retry_after(100.0), 100.0 + 100.0)

    def test_fast_tasks_behind_slow_ones_wait_for_those(self):
        fast = FunctionStats("fast")
        fast.add(0.01, failed=False, printed=False)
        scheduler = self.make(1, max_queue=10)
        self.submit()
        self.assign()
        self.submit(10, fast)
        self.assertEqual(len(scheduler.queue), 10)
        self.assertEqual(self.retry_after(50.0), 50.0)

    def test_the_estimate_is_made_at_most_ten_times_a_second(self):
        self.fill(20, workers=2, seconds=1.0)
        self.assertEqual(self.retry_after(10.0), 20.0)
        self.assertEqual(self.retry_after(10.05), 20.0)
        self.assertEqual(self.retry_after(10.2), 20.4)

    def test_a_worker_that_is_idle_or_starting_is_not_waited_for(self):
        scheduler = self.make(1, max_queue=0)
        self.stats.add(2.0, failed=False, printed=False)
        self.submit()
        self.assertEqual(self.retry_after(), 0.2)
        scheduler.fleet.remove(1, 0.0)
        self.assertEqual(self.retry_after(1.0), RETRY_AFTER)
        scheduler.fleet.add(2, 1.0)
        self.assertEqual(self.retry_after(2.0), 0.2)
