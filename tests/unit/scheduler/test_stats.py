"""Statistics of a function, from its last runs."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.stops import GRACE
from taskd.scheduler import FunctionStats
from taskd.scheduler.stats import KNOWN_SHORT, LONG_RUN, SHORT_SECONDS

SHORT_RUN, LONG = SHORT_SECONDS / 10, SHORT_SECONDS


def seen(*runs, **more):
    """Return the statistics after runs of these seconds."""
    stats = FunctionStats("f")
    for seconds in runs:
        stats.add(seconds, **{"failed": False, "printed": False, **more})
    return stats


class FunctionStatsTests(SynchronousTestCase):
    def test_nothing_is_known_at_first(self):
        stats = FunctionStats("f")
        self.assertEqual((stats.mean, stats.estimate, stats.is_short), (0.0, 0.0, False))
        self.assertEqual((stats.timeout, stats.grace), (None, GRACE))

    def test_times_and_outcomes_are_counted(self):
        stats = seen(1.0, 0.5)
        stats.add(3.0, failed=True, printed=False)
        self.assertEqual((stats.done, stats.failed), (2, 1))
        self.assertEqual((stats.seconds, stats.longest, stats.mean), (4.5, 3.0, 1.5))

    def test_a_function_counts_as_short_only_after_many_short_runs(self):
        stats = seen(*[SHORT_RUN] * (KNOWN_SHORT - 1))
        self.assertFalse(stats.is_short)
        stats.add(SHORT_RUN, failed=False, printed=False)
        self.assertTrue(stats.is_short)

    def test_failed_attempts_count_too(self):
        self.assertTrue(seen(*[SHORT_RUN] * KNOWN_SHORT, failed=True).is_short)

    def test_one_run_in_sixteen_may_have_waited_for_a_processor(self):
        stats = seen(*([SHORT_RUN] * LONG_RUN + [LONG]) * 10)
        self.assertFalse(stats.is_short)
        stats = seen(*[SHORT_RUN] * 100, *([LONG] + [SHORT_RUN] * LONG_RUN) * 10)
        self.assertTrue(stats.is_short)

    def test_long_attempts_in_a_row_make_a_function_long_again(self):
        stats = seen(*[SHORT_RUN] * 1000, LONG, LONG)
        self.assertTrue(stats.is_short)
        stats.add(LONG, failed=False, printed=False)
        self.assertFalse(stats.is_short)

    def test_a_function_that_prints_is_not_short(self):
        stats = seen(*[SHORT_RUN] * 1000)
        stats.add(SHORT_RUN, failed=False, printed=True)
        self.assertEqual((stats.is_short, stats.points), (False, 0))

    def test_the_second_surprise_in_a_row_makes_a_function_long_again(self):
        stats = seen(*[SHORT_RUN] * 1000)
        stats.surprised()
        self.assertTrue(stats.is_short)
        stats.surprised()
        self.assertFalse(stats.is_short)
        stats.surprised()
        self.assertEqual(stats.points, 0)

    def test_new_code_does_not_count_as_short_at_first(self):
        stats = seen(*[SHORT_RUN] * 1000)
        stats.forget()
        self.assertFalse(stats.is_short)
        self.assertEqual(stats.done, 1000)

    def test_the_estimate_follows_the_last_runs(self):
        stats = seen(*[SHORT_RUN] * 100)
        self.assertAlmostEqual(stats.estimate, SHORT_RUN)
        for _ in range(50):
            stats.add(SHORT_RUN / 2, failed=False, printed=False)
        self.assertAlmostEqual(stats.estimate, SHORT_RUN / 2, delta=SHORT_RUN / 100)

    @given(st.lists(st.tuples(st.floats(0, 1e6), st.booleans())))
    def test_an_estimate_never_exceeds_the_limit_for_short_functions(self, runs):
        stats = FunctionStats("f")
        for seconds, printed in runs:
            stats.add(seconds, failed=False, printed=printed)
            self.assertTrue(0 <= stats.estimate <= SHORT_SECONDS)
            self.assertTrue(0 <= stats.points <= 2 * KNOWN_SHORT)
