"""The options of a submit as points in time."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.moments import Moments, RunOptions, read_time
from taskd.errors import InvalidParams
from taskd.model import Options, SubmitOptions


class TimeTests(SynchronousTestCase):
    def test_times_are_read_with_their_zones(self):
        for text, seconds in (
            ("1970-01-01T00:00:10Z", 10.0),
            ("1970-01-01t01:00:10.5+01:00", 10.5),
            ("1969-12-31 23:00:10-01:00", 10.0),
            ("2026-12-24T18:00:00+01:00", 1798131600.0),
        ):
            self.assertEqual(read_time(text), seconds, text)

    def test_wrong_times_are_explained(self):
        for text, reason in (
            ("2026-12-24T18:00:00", "at has no zone: write 2026-12-24T18:00:00Z for UTC"),
            ("2026-12-24", "as RFC 3339 writes it"),
            ("20261224T180000Z", "as RFC 3339 writes it"),
            ("tomorrow", "not tomorrow"),
            ("2026-02-30T00:00:00Z", "there is no time 2026-02-30T00:00:00Z: day is out of range"),
            ("2026-02-03T00:00:60Z", "there is no time"),
            ("2026-02-03T00:00:00+25:00", "there is no time"),
        ):
            error = self.assertRaises(InvalidParams, read_time, text)
            self.assertIn(reason, error.message)
            self.assertEqual(error.data["argument"], "options.at")


class MomentsTests(SynchronousTestCase):
    def test_without_options_a_task_is_due_at_once(self):
        for options in (Options(), SubmitOptions()):
            self.assertEqual(Moments.of(options, 100.0), Moments())

    def test_a_deadline_begins_when_the_task_is_due(self):
        self.assertEqual(Moments.of(Options(deadline=3), 100.0), Moments(0.0, 103.0))
        self.assertEqual(Moments.of(SubmitOptions(delay=5, deadline=3), 100.0), Moments(105.0, 108.0))
        at = SubmitOptions(at="1970-01-01T00:03:00Z", deadline=3)
        self.assertEqual(Moments.of(at, 100.0), Moments(180.0, 183.0, is_fixed=True))
        past = SubmitOptions(at="1970-01-01T00:01:00Z", deadline=3)
        self.assertEqual(Moments.of(past, 100.0), Moments(60.0, 103.0, is_fixed=True))

    def test_a_time_and_a_delay_contradict_each_other(self):
        both = SubmitOptions(delay=1, at="1970-01-01T00:01:00Z")
        self.assertIn("not both", self.assertRaises(InvalidParams, Moments.of, both, 0.0).message)

    def test_some_options_are_kept_until_the_run(self):
        self.assertEqual(RunOptions.of(Options(timeout=2, priority=1)), RunOptions(2, 1))
        self.assertEqual(RunOptions.of(SubmitOptions(retries=0)), RunOptions(retries=0))
