"""A wrong command line: one line, with what was probably meant."""

from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.wrong_options import TwistdOptions


class WrongOptionsTests(SynchronousTestCase):
    def line(self, *arguments):
        options = TwistdOptions()
        options.parent = ServerOptions()
        error = self.assertRaises(SystemExit, options.parseOptions, list(arguments))
        line = str(error.code)
        self.assertNotIn("\n", line)
        self.assertTrue(line.startswith("twistd taskd: "))
        return line

    def test_a_misspelt_option_is_answered_with_the_nearest(self):
        for given, meant in ("wrokers", "workers"), ("time-out", "timeout"), ("alow-origin", "allow-origin"):
            self.assertIn(f"no option --{given}; did you mean --{meant}?", self.line(f"--{given}", "3"))

    def test_a_long_option_with_one_dash_is_answered_with_its_name(self):
        for given, meant in ("-app", "--app"), ("-name", "--name"), ("-worker=3", "--workers"):
            self.assertIn(f"no option {given}; did you mean {meant}?", self.line(given, "x"))

    def test_an_option_like_no_other_has_no_hint(self):
        self.assertIn("there is no option --zzzz (", self.line("--zzzz"))

    def test_an_option_of_twistd_belongs_before_the_word_taskd(self):
        for option in "--logfile", "--pidfile", "--nodaemon", "-n", "-l":
            self.assertIn(f"{option} is an option of twistd itself", self.line(option, "x"))
        self.assertIn("twistd's own --logfile, before the word taskd", self.line("--logfle=x"))

    def test_without_twistd_around_it_there_is_no_word_of_its_options(self):
        error = self.assertRaises(SystemExit, TwistdOptions().parseOptions, ["--logfile=x"])
        self.assertIn("there is no option --logfile", str(error.code))

    def test_a_missing_or_superfluous_value_is_named(self):
        self.assertIn("option --workers needs a value", self.line("--workers"))
        self.assertIn("option --tracebacks takes no value", self.line("--tracebacks=1"))

    def test_a_beginning_that_several_options_have_in_common_names_them(self):
        self.assertIn("short for several: --max-tasks, --max-memory,", self.line("--max", "3"))

    def test_words_that_belong_to_no_option_are_named(self):
        self.assertIn("what is workers 3 for?", line := self.line("--idle", "3", "workers", "3"))
        self.assertIn("did you mean --workers?", line)
        self.assertNotIn("did you mean", self.line("qqq"))

    def test_a_wrong_value_is_explained_by_its_option(self):
        self.assertIn("--workers is a number of at least 1", self.line("--workers", "x"))
        self.assertIn("--idle is a number of seconds above 0", self.line("--idle=-1"))

    def test_right_options_pass(self):
        options = TwistdOptions()
        options.parseOptions(["--workers", "3"])
        self.assertEqual(options["workers"], (3, 3))
