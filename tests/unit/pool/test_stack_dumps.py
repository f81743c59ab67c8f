"""The stacks of a worker's threads, taken out of what it prints."""

import os

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.pool.output_lines import OutputLines
from taskd.pool.stack_dumps import MAX_LINES, QUIET_SECONDS, WAIT_SECONDS, StackDump
from taskd.worker import loop

LOOP = os.path.abspath(loop.__file__)

THREAD = ["Thread 0x00007f1 (most recent call first):", '  File "/app/threads.py", line 7 in wait']
INNERMOST = ["Current thread 0x00007f2 (most recent call first):", '  File "/app/app.py", line ??? in f']
OUTERMOST = [f'  File "{LOOP}", line 9 in run', '  File "<frozen runpy>", line 8 in _run_module_as_main']


class StackDumpTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.dumps = []
        self.logged = []
        self.output = OutputLines(self.clock.seconds, lambda level, line: self.logged.append(line))
        self.ask()

    def ask(self):
        self.output.dump = StackDump(self.clock, self.dumps.append)

    def print(self, *lines):
        self.output.receive("".join(f"{line}\n" for line in lines).encode())

    def test_the_stacks_are_taken_out_of_the_output_without_the_frames_of_taskd(self):
        self.print("before", *THREAD, "", *INNERMOST, *OUTERMOST, "after")
        self.assertEqual(self.dumps, ["\n".join([*THREAD, "", *INNERMOST])])
        self.assertEqual(self.logged, ["before", "after"])
        self.assertEqual(self.output.stack, [])

    def test_a_worker_without_a_task_does_nothing(self):
        self.print(INNERMOST[0], *OUTERMOST)
        self.assertEqual(self.dumps, [""])

    def test_a_stack_that_was_cut_ends_when_nothing_follows(self):
        self.print(*INNERMOST, "  ...")
        self.clock.advance(QUIET_SECONDS / 2)
        self.print(*THREAD)
        self.clock.advance(QUIET_SECONDS / 2)
        self.assertEqual(self.dumps, [])
        self.clock.pump([QUIET_SECONDS] * 2 + [WAIT_SECONDS])
        self.assertEqual(self.dumps, ["\n".join([*INNERMOST, "  ...", "", *THREAD])])

    def test_a_dump_ends_with_a_line_of_something_else(self):
        self.print(*THREAD, "printed")
        self.assertEqual((self.dumps, self.logged), (["\n".join(THREAD)], ["printed"]))

    def test_a_worker_that_prints_none_in_time_has_none(self):
        self.print("printed")
        self.clock.advance(WAIT_SECONDS)
        self.assertEqual(self.dumps, [None])
        self.print(*INNERMOST)
        self.assertEqual(len(self.logged), 3)

    def test_a_dump_has_no_more_than_so_many_lines(self):
        self.print(*INNERMOST, *[INNERMOST[1]] * 2 * MAX_LINES)
        self.assertEqual(self.dumps[0].count("\n"), MAX_LINES - 1)

    def test_an_end_comes_once(self):
        self.print(*THREAD)
        self.output.dump.end()
        self.output.dump.end()
        self.clock.advance(WAIT_SECONDS)
        self.assertEqual(self.dumps, ["\n".join(THREAD)])
