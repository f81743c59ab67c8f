"""Standard streams that a task closes, replaces or redirects, and what the next one finds."""

import contextlib
import io
import logging
import os
import sys

from twisted.trial.unittest import SynchronousTestCase

from taskd.worker.streams import StandardStreams
from tests.unit.descriptors import open_descriptors


class Tee:
    """A stream of the app's own, over another one."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        self.stream.write(text)

    def flush(self):
        self.stream.flush()


class Unflushable:
    def flush(self):
        raise KeyboardInterrupt


class StandardStreamsTests(SynchronousTestCase):
    """The streams are this process's own only by name: their descriptors are pipes of the test."""

    def setUp(self):
        self.reads, self.descriptors = [], []
        for name in "stdout", "stderr":
            read_end, write_end = os.pipe()
            os.set_blocking(read_end, False)
            self.reads.append(read_end)
            self.descriptors.append(write_end)
            stream = io.TextIOWrapper(
                open(write_end, "wb", closefd=False),  # noqa: SIM115
                encoding="utf-8",
                errors="backslashreplace",
                line_buffering=True,
            )
            self.patch(sys, name, stream)
            self.patch(sys, f"__{name}__", stream)
        self.streams = StandardStreams(*self.descriptors)
        self.addCleanup(self.close)

    def close(self):
        self.streams.close()
        for descriptor in self.reads + self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def printed(self):
        """Return what has come through the pipes, and empty them."""
        found = []
        for read_end in self.reads:
            try:
                found.append(os.read(read_end, 65536).decode())
            except BlockingIOError:
                found.append("")
        return tuple(found)

    def check_after(self, damage):
        """Do damage as a task would, and check that the next one prints as before."""
        sys.stdout.write("before\n")
        damage()
        self.streams.has_output()
        self.streams.put_back_descriptors()
        self.printed()
        sys.stdout.write("out\n")
        sys.stderr.write("err \udcff")
        self.assertTrue(self.streams.has_output())
        self.assertEqual(self.printed(), ("out\n", "err \\udcff"))
        self.assertFalse(self.streams.has_output())

    def test_a_closed_stream_is_opened_again_as_the_same_object(self):
        self.streams.keep()
        handler = logging.StreamHandler(sys.stderr)
        before = sys.stdout, sys.stderr
        for damage in (
            lambda: sys.stdout.close(),
            lambda: sys.stderr.close(),
            lambda: (sys.stdout.close(), sys.stderr.close()),
            lambda: sys.stdout.buffer.close(),
            lambda: sys.stdout.detach(),
            lambda: sys.__stdout__.close(),
        ):
            self.check_after(damage)
            self.assertEqual((sys.stdout, sys.stderr), before)
        handler.emit(logging.LogRecord("app", logging.INFO, "", 1, "still here", None, None))
        self.assertEqual(self.printed(), ("", "still here\n"))

    def test_a_replaced_stream_is_put_back(self):
        self.streams.keep()
        before = sys.stdout, sys.stderr

        def delete():
            del sys.stdout

        def replace(stream):
            sys.stdout = sys.stderr = stream

        for damage in (
            delete,
            lambda: replace(None),
            lambda: replace(io.StringIO()),
            lambda: replace(object()),
            lambda: replace(Unflushable()),
            lambda: contextlib.redirect_stdout(io.StringIO()).__enter__(),
        ):
            self.check_after(damage)
            self.assertEqual((sys.stdout, sys.stderr), before)

    def test_a_stream_has_its_own_encoding_again(self):
        self.streams.keep()

        def settings():
            return sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering

        before = settings()
        for changed in (
            {"encoding": "ascii", "errors": "strict"},
            {"encoding": "utf-16"},
            {"line_buffering": not sys.stdout.line_buffering},
        ):
            sys.stdout.reconfigure(**changed)
            self.streams.put_back_descriptors()
            self.assertEqual(settings(), before)

    def test_text_that_a_replaced_stream_still_holds_is_printed(self):
        self.streams.keep()
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(sys.stdout.buffer.raw), line_buffering=False)
        sys.stdout.write("held back")
        self.assertTrue(self.streams.has_output())
        self.assertEqual(self.printed(), ("held back", ""))

    def test_a_closed_or_redirected_descriptor_is_put_back(self):
        self.streams.keep()

        def redirect(descriptor):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)

        for descriptor in self.descriptors:
            self.check_after(lambda descriptor=descriptor: os.close(descriptor))
            self.check_after(lambda descriptor=descriptor: redirect(descriptor))
        self.check_after(lambda: [os.close(descriptor) for descriptor in self.descriptors])

    def test_a_stream_of_the_start_hook_is_what_every_task_finds(self):
        tee = sys.stdout = Tee(sys.stdout)
        self.streams.keep()
        self.check_after(lambda: setattr(sys, "stdout", None))
        self.assertIs(sys.stdout, tee)
        self.check_after(lambda: tee.stream.close())
        self.assertIs(sys.stdout, tee)

    def test_a_stream_of_the_start_hook_that_is_beyond_help_gives_way_to_pythons_own(self):
        tee = sys.stdout = Tee(sys.stdout)
        self.streams.keep()
        self.check_after(lambda: setattr(tee, "stream", None))
        self.assertIs(sys.stdout, sys.__stdout__)

    def test_a_process_without_streams_has_no_output(self):
        for name in "stdout", "stderr":
            setattr(sys, name, None)
            setattr(sys, f"__{name}__", None)
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.streams.keep()
        self.assertFalse(self.streams.has_output())
        self.assertIsNone(sys.stdout)

    def test_closing_leaves_no_descriptor_open_even_if_a_task_has_closed_them_all(self):
        before = open_descriptors()
        self.streams.keep()
        self.assertEqual(open_descriptors(), before + 2)
        self.streams.close()
        self.assertEqual(open_descriptors(), before)
