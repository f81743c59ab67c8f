"""The stack of a crash, found in the output of a worker."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.pool.crash_stacks import MAX_FRAMES, StackCatcher
from taskd.worker import loop

SEGFAULT = """\
Fatal Python error: Segmentation fault

Current thread 0x00007f0e81bdab80 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/user/crash.py", line 4 in inner
  File "/home/user/crash.py", line 7 in <lambda>
  File "/home/user/crash.py", line 7 in method
  File "{ours}/invocation.py", line 84 in call
  File "{ours}/loop.py", line 140 in serve
"""
"""A stack as written by the faulthandler of Python 3.11."""

THREADS = """\
Fatal Python error: Aborted

Thread 0x00007f6ba94566c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run
  File "/usr/lib/python3.11/threading.py", line 1045 in _bootstrap_inner

Current thread 0x00007f6ba9fd8b80 (most recent call first):
  File "/home/user/my app.py", line 4 in inner
  File "/home/user/my app.py", line ??? in deep
  File "<string>", line 1 in <module>

Extension modules: numpy.core (total: 1)
"""

OURS = str(Path(loop.__file__).parent)


class StackCatcherTests(SynchronousTestCase):
    def caught(self, *texts):
        catcher = StackCatcher()
        for text in texts:
            for line in text.format(ours=OURS).splitlines():
                catcher.line(line)
        return catcher.stack

    def test_the_frames_of_the_task_are_kept_innermost_first(self):
        self.assertEqual(
            self.caught(SEGFAULT),
            [
                "__init__.py:519 in string_at",
                "crash.py:4 in inner",
                "crash.py:7 in <lambda>",
                "crash.py:7 in method",
            ],
        )

    def test_the_stack_of_the_thread_that_crashed_is_kept(self):
        self.assertEqual(
            self.caught(THREADS),
            ["my app.py:4 in inner", "my app.py:??? in deep", "<string>:1 in <module>"],
        )

    def test_the_last_stack_is_kept(self):
        self.assertEqual(len(self.caught(SEGFAULT, "more\n", THREADS)), 3)
        self.assertEqual(len(self.caught(THREADS, "more\n", SEGFAULT, "the end\n")), 4)

    def test_other_output_is_not_taken_for_a_stack(self):
        self.assertEqual(self.caught('  File "a.py", line 3 in f\n', "Current thread\n", "\n"), [])
        traceback = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nValueError\n'
        self.assertEqual(self.caught(traceback), [])

    def test_a_heading_may_follow_output_without_a_line_end(self):
        text = 'half a lineCurrent thread 0x0001 (most recent call first):\n  File "a.py", line 3 in f\n'
        self.assertEqual(self.caught(text), ["a.py:3 in f"])

    def test_a_deep_stack_is_cut(self):
        frames = '  File "a.py", line 3 in f\n' * (10 * MAX_FRAMES)
        self.assertEqual(
            self.caught(f"Current thread 0x0001 (most recent call first):\n{frames}"),
            ["a.py:3 in f"] * MAX_FRAMES,
        )
