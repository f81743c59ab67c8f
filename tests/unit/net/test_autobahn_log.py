"""The logger of Autobahn's websockets."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.autobahn_log import AutobahnLog
from taskd.net.log_rate import LINES_AT_ONCE, RatedLog


class Lines:
    def __init__(self):
        self.lines = []

    def warn(self, line, /, **values):
        self.lines.append(line.format(**values))


class AutobahnLogTests(SynchronousTestCase):
    def setUp(self):
        self.written = Lines()
        self.log = AutobahnLog(RatedLog(Clock(), self.written))

    def test_lines_are_formatted_and_those_that_cannot_be_are_written_as_they_are(self):
        self.log.warn("code={code}", code=1009)
        self.log.info("{missing}")
        self.log.error("an { alone")
        self.assertEqual(
            self.written.lines,
            ["a websocket: code=1009", "a websocket: {missing}", "a websocket: an { alone"],
        )

    def test_lines_for_debugging_are_dropped_and_the_others_have_a_bounded_rate(self):
        for number in range(2 * LINES_AT_ONCE):
            self.log.debug("{number}", number=number)
            self.log.warn("{number}", number=number)
        self.assertEqual(len(self.written.lines), LINES_AT_ONCE)
