"""Log lines of many kinds, each at a bounded rate."""

from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.log_rate import LINES_AT_ONCE, LINES_PER_SECOND, REST_INTERVAL, RatedLog


class RatedLogTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.lines = []
        self.log = RatedLog(
            self.clock, Logger("test", observer=lambda event: self.lines.append(formatEvent(event)))
        )

    def write(self, count, kind="a"):
        for number in range(count):
            self.log.warn(kind, "{kind} {number}", kind=kind, number=number)

    def test_a_few_lines_are_all_written_at_once(self):
        self.write(LINES_AT_ONCE)
        self.assertEqual(len(self.lines), LINES_AT_ONCE)
        self.clock.advance(REST_INTERVAL)
        self.assertEqual(len(self.lines), LINES_AT_ONCE)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_flood_is_written_at_a_bounded_rate_and_counted(self):
        for _ in range(100):
            self.write(1000)
            self.clock.advance(0.5)
        most = LINES_AT_ONCE + 50 * LINES_PER_SECOND + 50 / REST_INTERVAL + 1
        self.assertLessEqual(len(self.lines), most)
        self.log.close()
        counted = sum(int(line.split()[0]) for line in self.lines if "left out" in line)
        written = sum("left out" not in line for line in self.lines)
        self.assertEqual(written + counted, 100_000)

    def test_the_line_that_counts_shows_the_last_one(self):
        self.write(LINES_AT_ONCE + 7)
        self.clock.advance(REST_INTERVAL)
        self.assertEqual(self.lines[-1], f"7 lines like the next one were left out\na {LINES_AT_ONCE + 6}")

    def test_a_flood_of_one_kind_hides_no_other(self):
        self.write(1000)
        self.write(1, "b")
        self.assertEqual(self.lines[-1], "b 0")

    def test_nothing_is_kept_of_a_kind_that_has_become_rare(self):
        self.write(1000)
        self.clock.advance(REST_INTERVAL)
        self.clock.advance(REST_INTERVAL)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        before = len(self.lines)
        self.log.close()
        self.assertEqual(len(self.lines), before)
