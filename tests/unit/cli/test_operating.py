"""What the commands for operators show."""

from io import StringIO

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.operating import audit_table, nodes_table, stack_text

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

    def test_nodes_are_shown_with_what_they_have_and_do(self):
        node = {
            "node": 3,
            "name": "far:17\x1b",
            "version": "0.1",
            "labels": ["big", "gpu"],
            "functions": ["f", "g"],
            "workers": 4,
            "running": 2,
            "claimed": 7,
            "started": 1e9,
            "seen_ago": 1.5,
            "draining": True,
            "this": False,
        }
        alone = {**node, "node": None, "labels": [], "draining": False, "this": True, "seen_ago": 0.0}
        console = Console(width=200, file=StringIO())
        console.print(nodes_table([node, alone]))
        _, first, second = (line.split() for line in console.file.getvalue().splitlines())
        self.assertEqual(first[:9], ["3", "far:17\\x1b", "0.1", "big,", "gpu", "4", "2", "7", "2"])
        self.assertEqual(first[-4:], ["1.5", "s", "ago", "drained"])
        self.assertEqual((second[0], second[3:7]), ("-", ["4", "2", "7", "2"]))
        self.assertEqual(second[-2:], ["this", "one"])

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
