"""Histograms, as plain counters, and those of a function."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.scheduler import FunctionStats
from taskd.scheduler.histograms import TASK_BOUNDS, Histogram
from taskd.scheduler.states import WAITING
from taskd.scheduler.workers import WorkerView
from tests.unit.tasks import make_task

TIMES = st.floats(0, 1000)


def counted(values):
    """Return how many values are in each range of `TASK_BOUNDS`, in another way than the code does."""
    bounds = [-1.0, *TASK_BOUNDS, float("inf")]
    return [sum(lower < value <= upper for value in values) for lower, upper in pairwise(bounds)]


class HistogramTests(SynchronousTestCase):
    @given(st.lists(TIMES | st.sampled_from(TASK_BOUNDS)))
    def test_each_value_is_in_the_first_range_whose_bound_it_does_not_exceed(self, values):
        histogram = Histogram(TASK_BOUNDS)
        for value in values:
            histogram.add(value)
        self.assertEqual(histogram.counts, counted(values))
        self.assertAlmostEqual(histogram.total, sum(values))

    @given(st.lists(st.tuples(TIMES | st.sampled_from(TASK_BOUNDS), st.booleans(), st.booleans())))
    def test_runs_are_counted_although_short_ones_are_not_one_by_one(self, runs):
        stats = FunctionStats("f")
        for seconds, failed, printed in runs:
            stats.add(seconds, failed=failed, printed=printed)
        self.assertEqual(stats.runs, counted([seconds for seconds, _, _ in runs]))

    @given(st.lists(TIMES | st.sampled_from(TASK_BOUNDS)))
    def test_waits_are_counted_when_a_worker_gets_its_tasks(self, times):
        worker, stats = WorkerView(1, 1, 0.0), FunctionStats("f")
        for number, waited in enumerate(times):
            task = make_task(number)
            task.received, task.stats, task.state = 0.0, stats, WAITING
            worker.give(task, waited)
        self.assertEqual(stats.waits, counted(times))
        self.assertAlmostEqual(stats.waited, sum(times))
