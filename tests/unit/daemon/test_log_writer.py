"""The writer of the log: order, losses, failures, the end. Its thread is real; the sinks are fakes."""

import errno
import fcntl
import os
import signal
import syslog
import threading
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.log_writer import MAX_BUFFERED, LogWriter, SyslogSink, TextSink

TIMEOUT = 60.0
"""Seconds after which a test that waits for the thread gives up."""


class FakeSink:
    """A sink that writes only while its gate is open, or fails with `error`."""

    def __init__(self):
        self.added = []
        self.written = []
        self.error = None
        self.gate = threading.Event()
        self.gate.set()
        self.is_waiting = threading.Event()
        self.failed = threading.Event()
        self.threads = set()

    def add(self, entries):
        self.added.extend(text for _, text in entries)

    def flush(self, *, waits=True):
        self.threads.add(threading.current_thread())
        self.is_waiting.set()
        assert self.gate.wait(TIMEOUT)
        self.is_waiting.clear()
        if self.error is not None:
            self.failed.set()
            raise self.error
        self.written += self.added
        self.added.clear()


class WriterTests(SynchronousTestCase):
    def setUp(self):
        self.sink = FakeSink()
        self.writer = LogWriter(self.sink, lambda lines, why: (syslog.LOG_WARNING, f"{lines} lost: {why}\n"))

    def start_and_block(self):
        """Start the thread, which then stands in a write."""
        self.writer.start()
        self.sink.gate.clear()
        self.addCleanup(self.sink.gate.set)
        self.writer.write("first\n")
        self.assertTrue(self.sink.is_waiting.wait(TIMEOUT))

    def fill(self):
        """Write lines until one is lost; return how many were taken."""
        taken = 0
        while not self.writer.lost:
            self.writer.write(f"{taken} {'x' * 1000}\n")
            taken += 1
        return taken - 1

    def test_before_the_start_entries_are_written_at_once_in_the_callers_thread(self):
        self.writer.write("one\n")
        self.assertEqual(self.sink.written, ["one\n"])
        self.assertEqual(self.sink.threads, {threading.current_thread()})

    def test_after_the_start_a_thread_writes_in_the_same_order(self):
        self.writer.write("0\n")
        self.writer.start()
        self.writer.start()
        for number in range(1, 1000):
            self.writer.write(f"{number}\n")
        self.writer.finish()
        self.assertEqual(self.sink.written, [f"{number}\n" for number in range(1000)])
        self.assertEqual(len(self.sink.threads), 2)

    def test_a_write_that_blocks_keeps_nobody_and_the_buffer_is_bounded(self):
        self.start_and_block()
        taken = self.fill()
        self.assertTrue(MAX_BUFFERED * 0.8 < taken * 1000 <= MAX_BUFFERED, taken)
        self.writer.write("lost\n" * 5)
        self.assertEqual(self.writer.lost, 6)

    def test_lines_that_were_lost_are_reported_in_their_place_once_it_flows_again(self):
        self.start_and_block()
        taken = self.fill()
        self.sink.gate.set()
        self.writer.finish()
        self.writer.write("after\n")
        written = self.sink.written
        self.assertEqual([text.split()[0] for text in written[1 : taken + 1]], list(map(str, range(taken))))
        self.assertEqual(
            written[taken + 1 :], ["1 lost: they came faster than they were written\n", "after\n"]
        )

    def test_a_failed_write_is_tried_again_and_nothing_is_lost_meanwhile(self):
        self.sink.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.writer.start()
        self.writer.write("one\n")
        self.assertTrue(self.sink.failed.wait(TIMEOUT))
        self.writer.write("two\n")
        self.sink.error = None
        self.writer.run_between_writes(lambda: None)  # the attempt after it need not be waited for
        self.writer.finish()
        while self.sink.added:
            self.writer.finish()
        self.assertEqual((self.sink.written, self.writer.lost), (["one\n", "two\n"], 0))

    def test_the_reason_of_a_failure_is_reported(self):
        self.sink.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fill()
        self.sink.error = None
        self.writer.write("after\n")
        self.assertEqual(self.sink.written[-1], "2 lost: No space left on device\n")

    def test_an_errand_is_run_by_the_thread_between_two_writes(self):
        self.start_and_block()
        ran = []
        done = threading.Event()

        def errand():
            ran.append((threading.current_thread(), list(self.sink.written)))
            done.set()

        self.writer.run_between_writes(errand)
        self.assertEqual(ran, [])
        self.sink.gate.set()
        self.assertTrue(done.wait(TIMEOUT))
        ((thread, written),) = ran
        self.assertIsNot(thread, threading.current_thread())
        self.assertEqual(written, ["first\n"])

    def test_entries_older_than_an_errand_are_written_before_it_and_the_others_after_it(self):
        self.start_and_block()
        self.writer.write("before\n")
        written = []
        self.writer.run_between_writes(lambda: written.extend(self.sink.written))
        self.writer.write("after\n")
        self.sink.gate.set()
        self.writer.finish()
        self.assertEqual(written, ["first\n", "before\n"])
        self.assertEqual(self.sink.written, ["first\n", "before\n", "after\n"])

    def test_an_errand_does_not_wait_for_a_write_that_fails(self):
        self.sink.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.writer.start()
        self.writer.write("one\n")
        self.assertTrue(self.sink.failed.wait(TIMEOUT))
        self.writer.write("two\n")
        done = threading.Event()
        self.writer.run_between_writes(done.set)
        self.assertTrue(done.wait(TIMEOUT))
        self.sink.error = None

    def test_an_errand_that_blocks_keeps_nobody(self):
        release = threading.Event()
        self.addCleanup(release.set)
        entered = threading.Event()

        def errand():
            entered.set()
            assert release.wait(TIMEOUT)

        self.writer.start()
        self.writer.run_between_writes(errand)
        self.assertTrue(entered.wait(TIMEOUT))
        self.writer.write("one\n")
        self.assertEqual(self.sink.written, [])
        release.set()
        self.writer.finish()
        self.assertEqual(self.sink.written, ["one\n"])

    def test_before_the_start_an_errand_is_run_at_once(self):
        ran = []
        self.writer.run_between_writes(lambda: ran.append(1))
        self.assertEqual(ran, [1])

    def test_the_end_waits_for_a_reader_but_not_for_ever(self):
        self.start_and_block()
        for number in range(5):
            self.writer.write(f"{number}\n")
        self.writer.finish(0)
        self.assertEqual(self.sink.written, [])
        # The time is over: nobody waits again.
        self.writer.write("last\n")
        self.sink.gate.set()

    def test_the_end_does_not_wait_if_nothing_can_be_written(self):
        self.sink.error = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self.writer.start()
        self.writer.write("one\n")
        self.assertTrue(self.sink.failed.wait(TIMEOUT))
        self.writer.finish()

    def test_after_the_end_each_entry_is_waited_for(self):
        self.writer.start()
        self.writer.finish()
        self.writer.write("last\n")
        self.assertEqual(self.sink.written, ["last\n"])

    def test_the_thread_leaves_signals_to_the_main_thread(self):
        masks = []
        self.writer.start()
        self.writer.run_between_writes(lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        self.writer.write("one\n")
        self.writer.finish()
        self.assertIn(signal.SIGTERM, masks[0])

    def test_a_signal_handler_may_log_in_the_middle_of_a_write(self):
        def notice(lines, _why):
            self.writer.write("from a handler\n")
            return syslog.LOG_WARNING, f"{lines} lost\n"

        self.writer = LogWriter(self.sink, notice)
        self.sink.error = OSError()
        self.fill()
        self.sink.error = None
        self.writer.write("after\n")
        self.assertEqual(self.sink.written[-2:], ["from a handler\n", "2 lost\n"])


class TextSinkTests(SynchronousTestCase):
    def sink(self, *results, encoding="utf-8"):
        """Return a sink, and a list of what it writes: so many bytes each time, or an error."""
        written = []
        answers = list(results)

        def write(data):
            answer = answers.pop(0) if answers else len(data)
            if isinstance(answer, Exception):
                raise answer
            written.append(data[:answer])
            return answer

        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        return TextSink(write, writer, encoding), written

    def test_entries_are_joined_and_written_by_as_many_calls_as_it_takes(self):
        sink, written = self.sink(3)
        sink.add([(6, "one\n"), (4, "two é\n")])
        sink.flush()
        self.assertEqual(written, [b"one", "\ntwo é\n".encode()])

    def test_after_an_error_the_rest_is_written_and_nothing_twice(self):
        sink, written = self.sink(2, OSError(errno.ENOSPC, "full"))
        sink.add([(6, "one\n")])
        self.assertRaises(OSError, sink.flush)
        sink.add([(6, "two\n")])
        sink.flush()
        self.assertEqual(b"".join(written), b"one\ntwo\n")

    def test_a_stream_that_others_have_made_non_blocking_is_waited_for(self):
        sink, written = self.sink(BlockingIOError(errno.EAGAIN, "again"))
        sink.add([(6, "one\n")])
        sink.flush()
        self.assertEqual(written, [b"one\n"])

    def test_characters_that_the_encoding_does_not_have_are_escaped(self):
        sink, written = self.sink(encoding="ascii")
        sink.add([(6, "é \ud800\n")])
        sink.flush()
        self.assertEqual(written, [b"\\xe9 \\ud800\n"])


class SyslogSinkTests(SynchronousTestCase):
    def test_each_line_is_a_message_with_the_priority_of_its_entry(self):
        sent = []
        self.patch(syslog, "syslog", lambda *args: sent.append(args))
        sink = SyslogSink()
        sink.add([(4, "one\n\ttwo\n"), (6, "three\n")])
        sink.flush()
        self.assertEqual(sent, [(4, "one"), (4, "\ttwo"), (6, "three")])


class FullPipeTests(SynchronousTestCase):
    """A log to a pipe that is full before the thread runs."""

    def setUp(self):
        self.read_end, self.write_end = os.pipe()
        self.addCleanup(os.close, self.read_end)
        self.addCleanup(os.close, self.write_end)
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, 4096)
        self.fill = b"x" * 4096
        os.write(self.write_end, self.fill)
        sink = TextSink(partial(os.write, self.write_end), self.write_end)
        self.writer = LogWriter(sink, lambda lines, why: (syslog.LOG_WARNING, f"{lines} lost\n"))

    def read(self, size):
        data = b""
        while len(data) < size:
            data += os.read(self.read_end, 4096)
        return data

    def test_the_start_does_not_wait_and_the_line_is_written_later(self):
        self.writer.write("a line\n")
        self.assertEqual(self.read(4096), self.fill)
        self.writer.write("another\n")
        self.assertEqual(self.read(15), b"a line\nanother\n")

    def test_the_thread_goes_on_with_what_could_not_be_written_before(self):
        self.writer.write("a line\n")
        self.writer.start()
        self.assertEqual(self.read(4096 + 7), self.fill + b"a line\n")
