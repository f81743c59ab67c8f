"""Stored tasks, their ends and their logs, as the commands print them."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.cli import console
from taskd.cli.show import event_lines, task_lines
from taskd.cli.stored_view import error_text, moment, tasks_table
from taskd.cli.wait import NOT_YET, print_end
from taskd.errors import exception_for

TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\nValueError: no \x1b[2Jpaper\n'
ERROR = {
    "code": -32000,
    "message": "ValueError: no paper",
    "data": {"type": "ValueError", "message": "no paper"},
}


def task(**more):
    """A task as `taskd.get` shows it."""
    return {
        "task": "01a21e49-e532-7bc6-b50c-b60ac1ede97d",
        "function": "f",
        "state": "waiting",
        "created": 1795804489.0,
        "attempts": 0,
        "errors": 0,
        "losses": 0,
        "due": 1795804489.0,
        **more,
    }


class TableTests(SynchronousTestCase):
    def row(self, **more):
        with console.out.capture() as capture:
            console.out.print(tasks_table([task(**more)]))
        return capture.get().splitlines()[1]

    def test_a_task_is_a_row_with_the_end_of_its_id(self):
        row = self.row()
        self.assertTrue(row.startswith("b60ac1ede97d  f "), row)
        self.assertIn(moment(1795804489.0), row)

    def test_the_key_the_time_and_the_error_of_a_task_are_remarked(self):
        self.assertIn("key \\x1b[2J", self.row(key="\x1b[2J"))
        self.assertIn(f"due {moment(1795808089.0)}", self.row(state="scheduled", due=1795808089.0))
        self.assertNotIn("due", self.row(state="waiting", due=1795808089.0))
        self.assertIn("ValueError: no paper", self.row(state="failed", error=ERROR))
        self.assertIn("set aside", self.row(state="set_aside"))

    def test_a_long_error_is_cut(self):
        row = self.row(state="failed", error={"code": 1, "message": "x" * 500})
        self.assertIn("x" * 99 + "…", row)
        self.assertNotIn("x" * 100, row)

    def test_an_error_has_its_type_once(self):
        self.assertEqual(error_text(ERROR), "ValueError: no paper")
        self.assertEqual(error_text({"message": "a\nb", "data": {"type": "T"}}), "T: a b")
        self.assertEqual(error_text({"message": "a", "data": None}), "a")
        self.assertEqual(error_text(None), "")


class EndTests(SynchronousTestCase):
    def setUp(self):
        self.printed = []
        self.patch(console.err, "print", lambda text, **_: self.printed.append(text))

    def end(self, *, as_json=False, **more):
        return self.assertRaises(SystemExit, print_end, task(**more), as_json=as_json).code

    def test_a_failure_is_printed_as_by_a_call(self):
        self.assertEqual(self.end(state="failed", error=ERROR), 1)
        expected = exception_for(ERROR["code"], ERROR["message"], None)
        self.assertEqual(self.printed, [f"taskd: {expected.name}: ValueError: no paper"])

    def test_a_task_without_an_outcome_is_described_by_its_state(self):
        self.assertEqual(self.end(state="cancelled"), 1)
        self.assertEqual(self.printed, ["taskd: the task is cancelled"])

    def test_a_task_that_was_set_aside_is_not_taken_for_one_that_failed(self):
        self.assertEqual(self.end(state="set_aside", error={"code": -32003, "message": "killed"}), 1)
        self.assertIn("the task is set aside: ", self.printed[0])

    def test_a_task_that_goes_on_has_a_status_of_its_own(self):
        self.assertEqual(self.end(state="running"), NOT_YET)
        self.assertIn("it is running", self.printed[0])


class ShowTests(SynchronousTestCase):
    def test_a_task_is_shown_with_what_it_has(self):
        lines = list(
            task_lines(task(state="succeeded", ended=1795804491.5, attempts=2, errors=1, key="k", result=[1]))
        )
        self.assertEqual(lines[0], "01a21e49-e532-7bc6-b50c-b60ac1ede97d  f: succeeded")
        for line in ("2 attempts, 1 error", "key k", "result [\n  1\n]"):
            self.assertIn(line, lines)
        self.assertIn("after 2.5 s", lines[2])
        self.assertIn("due", " ".join(task_lines(task(state="scheduled"))))

    def line(self, event, **data):
        [line, *_] = event_lines({"seq": 1, "event": event, "at": 1795804489.25, **data})
        time, _, rest = line.partition("  ")
        self.assertTrue(time.endswith(".250"), time)
        return rest

    def test_every_event_is_a_line(self):
        for line, expected in (
            (self.line("queued"), "queued"),
            (self.line("started", attempt=2), "started: attempt 2"),
            (self.line("started", attempt=2, worker=7), "started: attempt 2, worker 7"),
            (self.line("progress", done=1, total=4, message="a"), "progress: 1 of 4 (25 %): a"),
            (self.line("partial", value="x"), 'partial: "x"'),
            (self.line("set_aside", error={"message": "killed"}), "set aside: killed"),
            (self.line("gap"), "gap"),
        ):
            self.assertEqual(line, expected)

    def test_the_log_has_tracebacks_that_callers_do_not_get(self):
        error = {"code": -32000, "message": "ValueError: no paper"}
        lines = list(event_lines({"event": "failed", "at": 1.0, "error": error, "traceback": TRACEBACK}))
        self.assertEqual(len(lines), 4)
        self.assertTrue(lines[0].endswith("failed: ValueError: no paper"))

    def test_the_traceback_of_an_attempt_follows_its_line(self):
        _, *rest = event_lines(
            {"seq": 1, "event": "retrying", "at": 1.0, "error": ERROR, "traceback": TRACEBACK}
        )
        self.assertEqual(rest[0], "    Traceback (most recent call last):")
        self.assertEqual(rest[-1], "    ValueError: no \\x1b[2Jpaper")
