"""A failed start: what the operator reads of it."""

import os
import signal
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.startup import (
    INTERRUPTED,
    Terminal,
    check_log_file,
    check_twistd_options,
    interrupts_end_start,
    interrupts_stop_reactor,
)
from taskd.errors import StartError
from taskd.settings.settings import on_command_line, settle

TWISTD_SHOWS = 100
"""Bytes of an error that twistd in the background shows."""


class TerminalTests(SynchronousTestCase):
    def setUp(self):
        self.read_end, write_end = os.pipe()
        kept = os.dup(2)
        os.dup2(write_end, 2)
        os.close(write_end)
        self.background = Terminal("/var/log/taskd.log", in_background=True)
        self.foreground = Terminal("/var/log/taskd.log", in_background=False)
        os.dup2(kept, 2)
        os.close(kept)
        self.addCleanup(os.close, self.read_end)
        self.addCleanup(self.background.close)
        self.addCleanup(self.foreground.close)

    def fail_with(self, terminal, error, expected):
        def start():
            with terminal.reporting():
                raise error

        return self.assertRaises(expected, start), os.read(self.read_end, 65536).decode()

    def test_in_the_background_the_whole_reason_is_written_with_the_name_of_the_log(self):
        reason = f"taskd: {'x' * 500}\nTraceback é\n"
        error, written = self.fail_with(self.background, StartError(reason), StartError)
        self.assertEqual(written, f"{reason}taskd: not started; the log is /var/log/taskd.log\n")
        shown = f"1 taskd.errors.StartError: {error}"
        self.assertTrue(shown.isascii() and len(shown) <= TWISTD_SHOWS)

    def test_in_the_foreground_the_error_is_raised_as_it_is(self):
        error = StartError("taskd: no")
        raised, written = self.fail_with(self.foreground, error, StartError)
        self.assertIs(raised, error)
        self.assertTrue(written.startswith("taskd: no\n"))

    def test_an_unexpected_error_is_written_too(self):
        _, written = self.fail_with(self.background, OSError(24, "Too many open files"), OSError)
        self.assertTrue(written.startswith("taskd: OSError: [Errno 24] Too many open files\n"))

    def test_the_reason_is_printable(self):
        _, written = self.fail_with(self.background, StartError("\x1b[2J\u202e"), StartError)
        self.assertTrue(written.startswith("\\x1b[2J\\u202e\n"))

    def test_an_exit_because_of_ctrl_c_is_written_too(self):
        _, written = self.fail_with(self.background, SystemExit(INTERRUPTED), StartError)
        self.assertTrue(written.startswith("taskd: interrupted at the start\n"))

    def test_after_it_is_closed_nothing_is_written(self):
        self.background.close()
        self.foreground.close()
        self.assertEqual(os.read(self.read_end, 1), b"")


class InterruptTests(SynchronousTestCase):
    def setUp(self):
        self.addCleanup(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def test_ctrl_c_ends_the_start_with_one_line_even_where_errors_are_caught(self):
        def start():
            try:
                signal.raise_signal(signal.SIGINT)
            except Exception:
                """As Twisted's log does with observers."""

        interrupts_end_start()
        self.assertEqual(self.assertRaises(SystemExit, start).code, INTERRUPTED)

    def test_afterwards_the_reactor_finds_the_handler_that_it_replaces(self):
        interrupts_end_start()
        interrupts_stop_reactor()
        self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)

    def test_an_ignored_signal_stays_ignored(self):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupts_end_start()
        interrupts_stop_reactor()
        self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_IGN)


class TwistdOptionsTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def test_options_that_can_be_used_pass(self):
        for twistd in (
            {},
            {"pidfile": ""},
            {"pidfile": str(self.folder / "a.pid"), "rundir": ".", "uid": None},
        ):
            check_twistd_options(twistd)

    def test_a_pid_file_that_cannot_be_written_is_refused(self):
        for path in self.folder / "nowhere" / "a.pid", self.folder:
            error = self.assertRaises(StartError, check_twistd_options, {"pidfile": str(path)})
            self.assertIn(f"cannot write the pid file {path}: ", str(error))

    def test_a_directory_to_run_in_that_does_not_exist_is_refused(self):
        self.assertRaises(StartError, check_twistd_options, {"rundir": str(self.folder / "nowhere")})

    def test_two_log_files_on_one_command_line_are_refused(self):
        given = settle({"log-file": on_command_line("log-file", ["a.log"])}, {}, str(self.folder))
        error = self.assertRaises(StartError, check_log_file, {"logfile": "b.log"}, given)
        self.assertEqual(str(error), "taskd: --log-file and twistd's own --logfile: leave out one")
        check_log_file({}, given)
        check_log_file({"logfile": "b.log"}, settle({}, {"TASKD_LOG_FILE": "a.log"}, str(self.folder)))

    def test_another_user_is_refused_without_the_privilege(self):
        self.patch(os, "geteuid", lambda: 1000)
        check_twistd_options({"uid": 1000})
        self.assertRaises(StartError, check_twistd_options, {"uid": 1001})
