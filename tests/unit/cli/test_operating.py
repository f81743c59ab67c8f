"""What the commands for operators show."""

from io import StringIO

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.operating import audit_table, stack_text

STACK = {"worker": 2, "pid": 17, "function": "f", "task": 5, "seconds": 2.0, "stack": "Thread 1:\n  File\x1b"}


class OperatingTests(SynchronousTestCase):
    def test_a_stack_is_shown_below_the_task_of_its_worker(self):
        lines = stack_text(STACK).splitlines()
        self.assertTrue(lines[0].startswith("worker 2 (process 17): f #5, for "), lines)
        self.assertEqual(lines[1:], ["  Thread 1:", "    File\\x1b"])

    def test_a_worker_without_a_task_or_a_stack_is_shown_as_such(self):
        nothing = {**STACK, "function": None, "task": None, "seconds": None}
        self.assertEqual(stack_text({**nothing, "stack": ""}), "worker 2 (process 17): no task")
        self.assertIn("has not printed its stacks in time", stack_text({**nothing, "stack": None}))

    def test_an_entry_of_the_audit_log_names_who_did_what(self):
        entries = [
            {"at": 1e9, "owner": "ann", "role": "submit", "action": "submit", "function": "f", "count": 7},
            {"at": 1e9, "owner": "", "role": "operate", "action": "cancel", "task": "abc", "text": "why"},
            {"at": 1e9, "owner": "", "role": "operate", "action": "drain"},
        ]
        console = Console(width=200, file=StringIO())
        console.print(audit_table(entries))
        _, first, second, third = (line.split()[2:] for line in console.file.getvalue().splitlines())
        self.assertEqual(first, ["ann", "submit", "submit", "7", "f"])
        self.assertEqual(second, ["-", "operate", "cancel", "1", "abc", "why"])
        self.assertEqual(third, ["-", "operate", "drain"])
