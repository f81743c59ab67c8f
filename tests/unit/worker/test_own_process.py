"""A copy of the worker that a task has forked leaves as it meant to. Nothing is forked here."""

import io
import sys

from twisted.trial.unittest import SynchronousTestCase

from taskd.worker import own_process
from taskd.worker.own_process import OwnProcess


class Left(BaseException):
    """The process has ended, with this status."""


class Broken(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class OwnProcessTests(SynchronousTestCase):
    def setUp(self):
        self.pid = 100
        self.patch(own_process, "getpid", lambda: self.pid)
        self.patch(own_process.os, "_exit", self.exit)
        self.printed = io.StringIO()
        self.patch(sys, "stderr", self.printed)
        self.patch(sys, "stdout", io.StringIO())
        self.process = OwnProcess()
        self.process.enter()

    def exit(self, status):
        raise Left(status)

    def status(self, error=None):
        """Return the exit status of a child that comes back with this exception, or without one."""
        self.pid = 101
        return self.assertRaises(Left, self.process.leave_if_forked, error).args[0]

    def test_the_worker_stays(self):
        for error in None, ValueError(), SystemExit(3):
            self.process.leave_if_forked(error)
        self.assertTrue(self.process.is_ours)

    def test_a_fork_by_python_is_known_in_the_child(self):
        hooks = []
        self.patch(own_process.os, "register_at_fork", lambda after_in_child: hooks.append(after_in_child))
        self.process.enter()
        self.assertFalse(self.process.was_forked)
        for hook in hooks:
            hook()
        self.assertTrue(self.process.was_forked)

    def test_a_process_that_was_forked_on_purpose_enters(self):
        self.pid = 101
        self.assertFalse(self.process.is_ours)
        self.process.enter()
        self.process.leave_if_forked()
        self.assertTrue(self.process.is_ours)

    def test_a_child_that_returns_leaves_with_0(self):
        self.assertEqual((self.status(), self.printed.getvalue()), (0, ""))

    def test_a_child_that_exits_leaves_as_it_said(self):
        for code, status in (None, 0), (0, 0), (7, 7), (-1, 255), (2**40 + 3, 3), (True, 1):
            self.assertEqual(self.status(SystemExit(code)), status, code)
        self.assertEqual(self.printed.getvalue(), "")

    def test_a_child_that_exits_with_a_text_prints_it(self):
        self.assertEqual((self.status(SystemExit("no disk")), self.printed.getvalue()), (1, "no disk\n"))

    def test_a_child_that_raises_prints_its_traceback(self):
        try:
            raise ValueError("in the child")
        except ValueError as error:
            self.assertEqual(self.status(error), 1)
        self.assertIn("Traceback", self.printed.getvalue())
        self.assertIn("ValueError: in the child", self.printed.getvalue())
        self.assertEqual(self.status(Broken()), 1)
        self.assertIn("Broken", self.printed.getvalue())

    def test_a_child_leaves_though_it_cannot_print(self):
        self.assertEqual(self.status(SystemExit(Broken())), 1)
        for stream in io.StringIO(), None, object():
            self.patch(sys, "stderr", stream)
            if stream:
                getattr(stream, "close", int)()
            for error, status in (None, 0), (SystemExit(4), 4), (ValueError(), 1), (SystemExit("x"), 1):
                self.assertEqual(self.status(error), status, (stream, error))
