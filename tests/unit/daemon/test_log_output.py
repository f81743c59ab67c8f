"""Where the daemon's log goes, by twistd's options, and what SIGUSR1 does."""

import json
import os
import signal
import sys
import syslog
from pathlib import Path
from unittest import SkipTest

from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from taskd.daemon.log_output import STANDARD_OUTPUT, open_log, reopen_at_usr1
from taskd.errors import StartError


class FakeReactor:
    """Calls at once what should be called from its thread."""

    def callFromThread(self, function, *args, **named):
        function(*args, **named)


class OpenLogTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def log_to(self, output, **event):
        """Publish an event to an observer."""
        verifyObject(ILogObserver, output.observer)
        Logger(namespace="test", observer=output.observer).emit(event.pop("level", LogLevel.info), **event)

    def standard_output(self, encoding="utf-8"):
        """Make standard output a file; return its path."""
        path = Path(self.mktemp())
        stdout = path.open("w", encoding=encoding)
        self.addCleanup(stdout.close)
        self.patch(sys, "stdout", stdout)
        return path

    def test_the_log_of_a_foreground_start_is_standard_output(self):
        path = self.standard_output()
        for options in {"nodaemon": True}, {"nodaemon": True, "logfile": "-"}, {"debug": True}:
            self.log_to(output := open_log(options), format="hello")
            self.assertEqual((output.name, output.file), (STANDARD_OUTPUT, None))
        self.assertEqual(path.read_text().count("[test#info] hello\n"), 3)

    def test_a_character_that_standard_output_cannot_encode_is_escaped(self):
        path = self.standard_output("ascii")
        self.log_to(open_log({"nodaemon": True}), format="café")
        self.assertIn(b"caf\\xe9\n", path.read_bytes())

    def test_the_log_is_json_if_that_is_asked_for_in_utf_8_whatever_standard_output_is(self):
        path = self.standard_output("ascii")
        self.log_to(open_log({"nodaemon": True}, {"log-format": "json"}), format="café")
        self.assertEqual(json.loads(path.read_bytes())["message"], "café")
        file = self.folder / "json"
        output = open_log({"logfile": str(file)}, {"log-format": "json"})
        self.addCleanup(output.file.close)
        self.log_to(output, format="hello")
        self.assertEqual(json.loads(file.read_text())["namespace"], "test")

    def test_a_standard_output_that_is_closed_is_no_error(self):
        self.patch(sys, "stdout", None)
        output = open_log({"nodaemon": True})
        self.log_to(output, format="hello")
        self.assertEqual(output.lines_lost(), 0)

    def test_lines_that_were_lost_are_reported_like_any_other_line(self):
        if not os.path.exists("/dev/full"):
            raise SkipTest("this system has no /dev/full")
        path = self.folder / "log"
        path.symlink_to("/dev/full")
        output = open_log({"logfile": str(path)})
        self.addCleanup(output.file.close)
        while not output.lines_lost():
            self.log_to(output, format="x" * 16384)
        path.unlink()
        output.file.reopen()
        self.log_to(output, format="hello")
        last = path.read_text().splitlines()[-1]
        self.assertIn("[taskd#warn] 2 lines of the log were lost: No space left on device", last)

    def test_the_log_of_a_background_start_is_a_file(self):
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        output = open_log({"logfile": ""})
        self.addCleanup(output.file.close)
        self.assertEqual(output.name, str(self.folder / "twistd.log"))
        self.assertRaises(StartError, open_log, {"logfile": "-"})

    def test_a_file_that_cannot_be_written_is_named_with_the_reason(self):
        path = self.folder / "nowhere" / "taskd.log"
        error = self.assertRaises(StartError, open_log, {"logfile": str(path), "nodaemon": True})
        self.assertIn(f"{path}: No such file or directory", str(error))

    def test_an_observer_of_the_operators_own_is_left_to_twistd(self):
        self.assertIsNone(open_log({"logger": object()}))

    def test_a_logged_event_is_printable_and_its_further_lines_are_indented(self):
        output = open_log({"logfile": str(self.folder / "log")})
        self.addCleanup(output.file.close)
        self.log_to(output, format="a\x1b[2J\rb\n2027-01-01 forged", level=LogLevel.warn)
        text = (self.folder / "log").read_text()
        self.assertTrue(text.endswith(" [test#warn] a\\x1b[2J\\x0db\n\t2027-01-01 forged\n"), text)

    def test_a_plugin_cache_that_may_not_be_written_is_not_mentioned_but_a_full_disk_is(self):
        output = open_log({"logfile": str(self.folder / "log")})
        self.addCleanup(output.file.close)
        complaint = "Unable to write to plugin cache %(path)s: error number %(errno)d"
        for number in 13, 30, 28:
            output.observer(
                {"format": complaint, "path": "/x", "errno": number, "log_format": f"errno {number}"}
            )
        text = (self.folder / "log").read_text()
        self.assertEqual([number for number in (13, 30, 28) if f"errno {number}" in text], [28])

    def test_syslog_gets_the_level_as_its_priority_and_a_message_for_each_line(self):
        sent = []
        self.patch(syslog, "openlog", lambda *args: sent.append(args))
        self.patch(syslog, "syslog", lambda *args: sent.append(args))
        output = open_log({"syslog": True, "prefix": "shop"})
        self.log_to(output, format="one\x00\ntwo", level=LogLevel.warn)
        self.log_to(output, format="three", level=LogLevel.critical)
        self.assertEqual(sent[0][0], "shop")
        self.assertEqual(
            sent[1:],
            [
                (syslog.LOG_WARNING, "[test#warn] one\\x00"),
                (syslog.LOG_WARNING, "\ttwo"),
                (syslog.LOG_CRIT, "[test#critical] three"),
            ],
        )


class ReopenTests(SynchronousTestCase):
    def setUp(self):
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    def test_the_signal_begins_a_new_file_after_the_old_one_was_moved(self):
        path = Path(self.mktemp()).absolute()
        output = open_log({"logfile": str(path)})
        self.addCleanup(output.file.close)
        reopen_at_usr1(FakeReactor(), output)
        path.rename(f"{path}.1")
        os.kill(os.getpid(), signal.SIGUSR1)
        self.assertTrue(path.exists())

    def test_a_file_that_cannot_be_reopened_is_no_catastrophe(self):
        path = Path(self.mktemp()).absolute()
        output = open_log({"logfile": str(path)})
        self.addCleanup(output.file.close)
        reopen_at_usr1(FakeReactor(), output)
        path.rename(f"{path}.1")
        path.mkdir()
        os.kill(os.getpid(), signal.SIGUSR1)

    def test_without_a_file_the_signal_does_not_end_the_process(self):
        self.patch(sys, "stdout", None)
        for output in None, open_log({"nodaemon": True}):
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            reopen_at_usr1(FakeReactor(), output)
            os.kill(os.getpid(), signal.SIGUSR1)

    def test_a_handler_that_is_there_already_stays(self):
        def handler(*_):
            """Do nothing."""

        signal.signal(signal.SIGUSR1, handler)
        reopen_at_usr1(FakeReactor(), None)
        self.assertIs(signal.getsignal(signal.SIGUSR1), handler)
