"""The file with the runs of a drill."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.drill.runs import BEGUN, ENDED, RUNS, Run, mark_line, open_marks, runs_of


def lines(*marks: tuple[str, Run, float]) -> list[str]:
    return [mark_line(what, run, at).decode() for what, run, at in marks]


class RunTests(SynchronousTestCase):
    def run_named(self, name: str, task: str = "t", life: str = "1.1") -> Run:
        return Run(7, task, 2, life, 71, name, 5.25)

    def test_a_run_is_read_as_it_was_written(self) -> None:
        run = self.run_named("a")
        (read,) = runs_of(lines((BEGUN, run, 5.25), (ENDED, run, 6.5)))["t"]
        self.assertEqual(
            (read.number, read.task, read.attempt, read.life, read.pid, read.name, read.begun, read.ended),
            (7, "t", 2, "1.1", 71, "a", 5.25, 6.5),
        )

    def test_a_run_without_an_end_was_cut_off(self) -> None:
        (read,) = runs_of(lines((BEGUN, self.run_named("a"), 5.25)))["t"]
        self.assertIsNone(read.ended)

    def test_the_order_is_that_of_the_lines_whatever_the_times(self) -> None:
        first, second, other = self.run_named("a"), self.run_named("b"), self.run_named("c", "u")
        found = runs_of(lines((BEGUN, first, 9.0), (BEGUN, other, 8.0), (BEGUN, second, 7.0)))
        self.assertEqual([(run.name, run.order) for run in found["t"]], [("a", 0), ("b", 2)])

    def test_a_line_that_was_cut_short_is_left_out(self) -> None:
        (line,) = lines((BEGUN, self.run_named("a"), 5.25))
        self.assertEqual(runs_of([line[:20], "\n"]), {})
        self.assertEqual(list(runs_of([line[:20], "\n", line])), ["t"])

    def test_marks_are_appended_to_the_file_that_the_environment_names(self) -> None:
        path = Path(self.mktemp())
        self.patch(os, "environ", {RUNS: str(path)})
        for text in (b"a\n", b"b\n"):
            descriptor = open_marks()
            os.write(descriptor, text)
            os.close(descriptor)
        self.assertEqual(path.read_bytes(), b"a\nb\n")
