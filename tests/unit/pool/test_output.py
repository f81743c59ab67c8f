"""The output of workers, over real pipes and with a fake clock."""

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from taskd.pool.output import REST_SECONDS, OutputReader
from taskd.pool.output_lines import BURST, LINES_PER_SECOND, MAX_LOGGED_LINE, LineRate
from taskd.printable import printable


class FakeReactor(Clock):
    """A clock that records the readers."""

    def __init__(self):
        super().__init__()
        self.readers = set()

    def addReader(self, reader):
        self.readers.add(reader)

    def removeReader(self, reader):
        self.readers.discard(reader)

    def removeWriter(self, writer):
        pass


class LineRateTests(SynchronousTestCase):
    def test_a_burst_is_allowed_and_then_nothing(self):
        rate = LineRate(0.0)
        self.assertTrue(all(rate.allows(0.0) for _ in range(BURST)))
        self.assertEqual([rate.allows(0.0) for _ in range(3)], [False] * 3)
        self.assertEqual(rate.left_out, 3)

    def test_the_rate_is_allowed_in_the_long_run(self):
        rate = LineRate(0.0)
        allowed = sum(rate.allows(tick / 1000) for tick in range(100_000))
        self.assertTrue(-2 < allowed - BURST - 100 * LINES_PER_SECOND < 2)

    def test_a_pause_allows_at_most_one_burst(self):
        rate = LineRate(0.0)
        self.assertEqual(sum(rate.allows(1e6) for _ in range(2 * BURST)), BURST)

    @given(st.lists(st.floats(0, 10), max_size=50))
    def test_a_burst_and_the_rate_are_never_exceeded(self, pauses):
        rate, now, allowed = LineRate(0.0), 0.0, 0
        for pause in pauses:
            now += pause
            allowed += sum(rate.allows(now) for _ in range(400))
            self.assertLessEqual(allowed, BURST + now * LINES_PER_SECOND + 1)


class OutputReaderTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = FakeReactor()
        read_end, self.write_end = os.pipe()
        self.lines = []
        self.reader = OutputReader(self.reactor, read_end, lambda _, line: self.lines.append(line))
        self.addCleanup(self.hang_up)

    def hang_up(self):
        if self.write_end is not None:
            os.close(self.write_end)
            self.write_end = None
        self.reader.connectionLost(Failure(ConnectionDone()))

    def write(self, data):
        os.write(self.write_end, data)
        return self.reader.doRead()

    def test_lines_are_delivered_when_they_are_whole(self):
        self.write(b"one\ntw")
        self.assertEqual(self.lines, ["one"])
        self.write(b"o\r\n\nthree")
        self.assertEqual(self.lines, ["one", "two", ""])

    def test_bytes_that_are_not_utf_8_are_escaped(self):
        self.write(b"caf\xe9\n")
        self.assertEqual(self.lines, ["caf\\xe9"])

    def test_a_long_line_is_cut_into_several(self):
        self.write(b"x" * (MAX_LOGGED_LINE + 5) + b"\n")
        self.reader.doRead()
        self.assertEqual([len(line) for line in self.lines], [MAX_LOGGED_LINE, 5])

    def test_a_line_without_an_end_is_delivered_when_it_is_long(self):
        self.write(b"x" * MAX_LOGGED_LINE)
        self.assertEqual([len(line) for line in self.lines], [MAX_LOGGED_LINE])

    def test_the_output_of_a_task_is_delivered_when_it_ends(self):
        os.write(self.write_end, b"one\ntwo")
        self.reader.finish_task(more=True)
        self.assertEqual(self.lines, ["one", "two"])
        self.reader.finish_task(more=True)
        self.reader.finish_task(more=False)
        self.assertEqual(self.lines, ["one", "two"])

    def test_a_task_that_wrote_nothing_costs_no_read(self):
        os.write(self.write_end, b"of the next one\n")
        self.reader.finish_task(more=False)
        self.assertEqual(self.lines, [])

    def test_a_full_pipe_is_read_to_its_end(self):
        line = b"x" * 127 + b"\n"
        os.set_blocking(self.write_end, False)
        os.write(self.write_end, line * 512)
        self.reader.finish_task(more=True)
        self.assertEqual(len(self.lines), 512)

    def flood(self, count):
        for _ in range(count):
            self.write(b"x\n" * 1000)

    def test_lines_over_the_rate_are_left_out_and_counted(self):
        self.flood(2)
        self.assertEqual(self.lines, ["x"] * BURST)
        self.reader.finish_task(more=False)
        self.assertEqual(self.lines[BURST:], ["(1000 lines left out: over 100 a second)"])
        self.reactor.advance(1.0)
        self.write(b"later\n")
        self.assertEqual(self.lines[-1], "later")

    def test_the_gap_is_logged_before_the_first_line_that_is_allowed_again(self):
        self.flood(2)
        self.reactor.advance(1.0)
        self.write(b"later\n")
        self.assertEqual(self.lines[BURST:], ["(1000 lines left out: over 100 a second)", "later"])

    def test_a_worker_that_prints_too_much_is_not_read_for_a_while(self):
        self.assertIn(self.reader, self.reactor.readers)
        self.flood(2)
        self.assertNotIn(self.reader, self.reactor.readers)
        self.reactor.advance(REST_SECONDS)
        self.assertIn(self.reader, self.reactor.readers)

    def test_a_reader_that_pauses_can_be_closed(self):
        self.flood(2)
        self.hang_up()
        self.reactor.advance(REST_SECONDS)
        self.assertEqual(self.reactor.readers, set())

    def test_the_rest_is_delivered_and_the_pipe_closed_at_the_end_of_the_output(self):
        self.write(b"the end")
        os.close(self.write_end)
        self.write_end = None
        reason = self.reader.doRead()
        self.assertIsNotNone(reason)
        self.reader.connectionLost(Failure(ConnectionDone()))
        self.reader.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.lines, self.reader.fileno()), (["the end"], -1))

    def test_a_reader_closed_by_the_daemon_closes_its_pipe_in_the_next_turn(self):
        os.write(self.write_end, b"the end")
        descriptor = self.reader.fileno()
        self.reader.close()
        self.assertEqual((self.lines, self.reactor.readers), (["the end"], set()))
        self.assertEqual(self.reader.fileno(), descriptor)
        self.reactor.advance(0)
        self.assertEqual(self.reader.fileno(), -1)
        self.reader.close()
        self.reader.finish_task(more=True)
        self.assertEqual(self.lines, ["the end"])

    def test_a_flood_at_the_end_is_read_no_further_than_the_pipe_holds(self):
        os.close(self.write_end)
        self.write_end = None
        self.reader.finish_task(more=True)
        self.assertEqual(self.lines, [])

    def test_the_stack_of_a_crash_is_kept_although_its_lines_are_left_out(self):
        self.flood(2)
        self.write(b'Current thread 0x1 (most recent call first):\n  File "/a/b.py", line 3 in f\n')
        self.reader.doRead()
        self.assertEqual(self.reader.stack, ["b.py:3 in f"])
        self.assertNotIn("b.py", "".join(self.lines))

    @given(
        st.lists(
            st.binary(max_size=40).filter(lambda data: b"\x1e" not in data)
            | st.sampled_from([b"\n", b"a\n", b"b"])
        )
    )
    def test_output_in_any_pieces_is_delivered_whole(self, pieces):
        self.setUp()
        for piece in pieces:
            if piece:
                self.write(piece)
        self.reader.finish_task(more=False)
        text = b"".join(pieces)
        expected = text.split(b"\n")
        if not expected[-1]:
            expected.pop()
        shown = []
        for line in expected:
            _, overwritten, last = line.rstrip(b"\r").rpartition(b"\r")
            if last.strip() or not overwritten:
                shown.append(printable(last.decode("utf-8", "backslashreplace")))
        self.assertEqual(self.lines, shown)
        self.hang_up()
