"""The progress and the partial results of an attempt: what is pushed, what is stored, and in which order."""

from itertools import count

from msgspec import Raw
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable import reports as reports_module
from taskd.durable.reports import Reports


class Writer:
    """A store's writer whose commits the tests make."""

    def __init__(self):
        self.pending = []
        self.log = []

    def event(self, event, answer=None):
        self.pending.append((event, answer))

    def commit(self, push):
        pending, self.pending = self.pending, []
        self.log += [event for event, _ in pending]
        push([event for event, _ in pending])
        for _, answer in pending:
            if answer is not None:
                answer(True)


class ReportsTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.writer = Writer()
        self.last = 0
        self.got = []
        self.make()

    def make(self, *, is_start_committed=True):
        numbers = count(1)
        self.reports = Reports(
            "t",
            lambda: next(numbers),
            self.writer,
            self.push,
            self.clock,
            self.clock.seconds,
            is_start_committed=is_start_committed,
        )

    def push(self, events):
        """Get events as a watcher does: those that have been pushed before are skipped."""
        for event in events:
            if event.seq > self.last:
                self.last = event.seq
                self.got.append(event.data)

    def commit(self):
        self.writer.commit(self.push)

    def stored(self):
        return [event.data for event in self.writer.log]

    def test_progress_is_pushed_at_once_and_stored_four_times_a_second(self):
        for number in range(100):
            self.reports.progressed(b"%d" % number)
            self.commit()
            self.clock.advance(0.01)
            self.commit()
        self.assertEqual(len(self.got), 100)
        self.assertLessEqual(len(self.writer.log), 5)
        self.clock.advance(1.0)
        self.commit()
        self.assertEqual(self.stored()[-1], b"99")
        self.assertEqual(
            [event.seq for event in self.writer.log], sorted(event.seq for event in self.writer.log)
        )

    def test_nothing_is_pushed_before_the_start_is_committed(self):
        self.make(is_start_committed=False)
        self.reports.progressed(b"1")
        self.reports.progressed(b"2")
        self.assertEqual(self.got, [])
        self.reports.committed()
        self.commit()
        self.assertEqual(self.got[-1], b"2")

    def test_partial_results_are_pushed_when_they_are_stored_and_none_is_left_out(self):
        for number in range(5):
            self.reports.partial(Raw(b"%d" % number))
            self.reports.progressed(b"p%d" % number)
        self.assertEqual(self.got, [])
        self.commit()
        self.assertEqual(
            [data for data in self.got if data[:1] == b"{"], [b'{"value":%d}' % n for n in range(5)]
        )
        self.assertEqual(self.got[-1], b"p4")
        self.assertEqual(
            [data for data in self.stored() if data[:1] == b"{"], [b'{"value":%d}' % n for n in range(5)]
        )

    def test_the_last_progress_is_stored_with_the_end_and_nothing_comes_after_it(self):
        self.reports.progressed(b"1")
        self.reports.progressed(b"2")
        self.reports.end()
        self.reports.progressed(b"3")
        self.reports.partial(Raw(b"3"))
        self.commit()
        self.clock.advance(1.0)
        self.commit()
        self.assertEqual((self.got, self.stored()), ([b"1", b"2"], [b"1", b"2"]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_of_too_many_partial_results_the_rest_is_only_pushed_after_a_gap(self):
        self.patch(reports_module, "MAX_LOGGED", 2)
        self.patch(reports_module, "MAX_HELD", 2)
        for number in range(7):
            self.reports.partial(Raw(b"%d" % number))
        self.commit()
        self.reports.partial(Raw(b"7"))
        self.commit()
        value = b'{"value":%d}'
        self.assertEqual(self.stored(), [value % 0, value % 1, b"{}"])
        self.assertEqual(self.got, [value % 0, value % 1, b"{}", value % 2, value % 3, value % 7])
        self.assertEqual(self.writer.log[-1].event, "gap")

    def test_partial_results_that_are_too_long_together_are_cut_too(self):
        self.patch(reports_module, "MAX_LOGGED_BYTES", 30)
        for _ in range(4):
            self.reports.partial(Raw(b'"long text"'))
        self.commit()
        self.assertEqual([event.event for event in self.writer.log], ["partial", "gap"])
