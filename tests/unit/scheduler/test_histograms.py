"""Histograms, as plain counters, and those of a function."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.scheduler import FunctionStats
from taskd.scheduler.histograms import FINE_BOUNDS, TASK_BOUNDS, Histogram, coarse, quantile
from taskd.scheduler.states import WAITING
from taskd.scheduler.stats import SHORT_SECONDS
from taskd.scheduler.workers import WorkerView
from tests.unit.tasks import make_task

TIMES = st.floats(0, 1000)


def counted(values, bounds=TASK_BOUNDS):
    """Return how many values are in each range of `bounds`, in another way than the code does."""
    bounds = [-1.0, *bounds, float("inf")]
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
        times = [seconds for seconds, _, _ in runs]
        self.assertEqual(stats.runs, counted(times, FINE_BOUNDS))
        self.assertEqual(coarse(stats.runs), counted(times))

    @given(st.lists(TIMES | st.sampled_from(TASK_BOUNDS)))
    def test_waits_are_counted_when_a_worker_gets_its_tasks(self, times):
        worker, stats = WorkerView(1, 1, 0.0), FunctionStats("f")
        for number, waited in enumerate(times):
            task = make_task(number)
            task.received, task.stats, task.state = 0.0, stats, WAITING
            worker.give(task, waited)
        self.assertEqual(stats.waits, counted(times, FINE_BOUNDS))
        self.assertEqual(coarse(stats.waits), counted(times))
        self.assertEqual(stats.longest_wait, max([*times, SHORT_SECONDS]))
        self.assertAlmostEqual(stats.waited, sum(times))

    @given(st.lists(st.floats(0, 4000), min_size=1), st.sampled_from((0.5, 0.95)))
    def test_an_estimated_percentile_is_in_the_range_of_the_real_one(self, values, part):
        counts, values = counted(values, FINE_BOUNDS), sorted(values)
        real = next(value for number, value in enumerate(values, 1) if number >= part * len(values))
        estimate = quantile(counts, part, values[-1])
        bounds = [0.0, *FINE_BOUNDS, float("inf")]
        lower, upper = next(pair for pair in pairwise(bounds) if real <= pair[1])
        self.assertTrue(lower <= estimate <= min(upper, values[-1]), (estimate, real))

    def test_nothing_has_no_percentile(self):
        self.assertIsNone(quantile([0] * (len(FINE_BOUNDS) + 1), 0.5, 0.0))

    def test_the_peaks_are_those_since_they_were_taken(self):
        stats = FunctionStats("f")
        for seconds in (3.0, 1.0):
            stats.add(seconds, failed=False, printed=False)
        self.assertEqual((stats.take_peaks(), stats.longest), ((0.0, 3.0), 3.0))
        stats.add(2.0, failed=False, printed=False)
        self.assertEqual((stats.take_peaks(), stats.longest, stats.longest_wait), ((0.0, 2.0), 3.0, 0.0005))
