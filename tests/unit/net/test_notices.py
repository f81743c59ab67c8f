"""Log lines at a bounded rate."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.notices import Notices


class NoticesTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.lines = []
        self.notices = Notices(self.clock, lambda count, what: self.lines.append((count, what)))

    def test_the_first_event_is_logged_at_once_and_the_others_together(self):
        for number in range(1000):
            self.notices.note(str(number))
        self.assertEqual(self.lines, [(1, "0")])
        self.clock.advance(1)
        self.assertEqual(self.lines, [(1, "0"), (999, "999")])

    def test_after_a_quiet_second_the_next_event_is_logged_at_once(self):
        self.notices.note("a")
        self.clock.advance(1)
        self.notices.note("b")
        self.assertEqual(self.lines, [(1, "a"), (1, "b")])

    def test_nothing_is_left_to_be_called_when_nothing_happens(self):
        self.notices.note()
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
