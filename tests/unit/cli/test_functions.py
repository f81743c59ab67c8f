"""What `taskd functions` prints."""

from io import StringIO

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.functions import functions_table


class FunctionsTableTests(SynchronousTestCase):
    def printed(self, *functions):
        console = Console(width=100, file=StringIO())
        console.print(functions_table([{"summary": "What it does.", **each} for each in functions]))
        return [line.split() for line in console.file.getvalue().splitlines()]

    def test_labels_are_shown_if_any_function_needs_one(self):
        send = {"signature": "send()", "needs": [], "missing": []}
        render = {"signature": "render()", "needs": ["gpu", "big"], "missing": ["big"]}
        heads, first, second = self.printed(send, render)
        self.assertEqual((heads, first[0], first[1:]), (["function", "needs"], "send()", ["What", "it", "does."]))
        self.assertEqual(second[4:], ["gpu,", "big", "not", "run", "here"])

    def test_an_older_server_knows_of_no_labels(self):
        heads, line = self.printed({"signature": "send()"})
        self.assertEqual((heads, line[0]), (["function"], "send()"))
