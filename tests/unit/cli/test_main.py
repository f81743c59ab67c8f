"""The subcommands of `taskd`, and one that does not exist."""

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli import console
from taskd.cli.main import main
from taskd.cli.running import USAGE, fail


class CommandTests(SynchronousTestCase):
    def setUp(self):
        self.printed = []
        self.patch(console.err, "print", lambda text, **_: self.printed.append(text))

    def status(self, *arguments):
        return CliRunner().invoke(main, arguments).exit_code

    def test_a_misspelt_command_is_answered_with_the_nearest(self):
        self.assertEqual(self.status("statsu"), USAGE)
        self.assertEqual(self.printed, ["taskd: no such command: 'statsu'; did you mean status?"])

    def test_a_command_like_no_other_is_answered_with_all(self):
        self.assertEqual(self.status("zzz"), USAGE)
        self.assertIn("there are attach, audit, call, cancel, ", self.printed[0])

    def test_a_command_that_exists_is_run(self):
        self.assertEqual(self.status("status", "--help"), 0)
        self.assertEqual(self.printed, [])

    def test_an_error_is_printable(self):
        self.assertRaises(SystemExit, fail, "a\x1b[2J\x00b")
        self.assertEqual(self.printed, ["taskd: a\\x1b[2J\\x00b"])
