"""The command lines of `taskd serve` and `taskd config`: what is refused, and what is printed."""

import json
import os
import tomllib
from pathlib import Path

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli import console
from taskd.cli.main import main
from taskd.daemon import foreground
from taskd.settings.settings import settle


class DaemonCommandCase(SynchronousTestCase):
    def setUp(self):
        self.printed = []
        self.patch(console.err, "print", lambda text, **_: self.printed.append(text))
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        others = {name: text for name, text in os.environ.items() if not name.startswith("TASKD_")}
        self.patch(os, "environ", others)

    def run_command(self, *arguments):
        """Run a command that must succeed, and return what it prints."""
        outcome = CliRunner().invoke(main, arguments)
        self.assertEqual((outcome.exit_code, self.printed), (0, []))
        return outcome.stdout

    def refusal(self, *arguments):
        """Run a command that must be refused with one line and status 1, and return the line."""
        self.printed.clear()
        outcome = CliRunner().invoke(main, arguments)
        self.assertEqual((outcome.exit_code, outcome.stdout), (1, ""))
        (line,) = self.printed
        return line


class ServeTests(DaemonCommandCase):
    def setUp(self):
        super().setUp()
        self.started = []
        self.patch(foreground, "run_in_foreground", self.started.append)

    def test_options_of_a_server_are_taken(self):
        (self.folder / "taskd.toml").write_text("idle = 5\n")
        self.run_command("serve", "--app", "a", "--app=b", "--workers", "2:8", "--reload")
        (settings,) = self.started
        self.assertEqual((settings["app"], settings["workers"]), (["a", "b"], (2, 8)))
        self.assertEqual((settings["reload"], settings["idle"]), (True, 5.0))

    def test_a_misspelt_option_is_answered_with_the_nearest(self):
        for given, meant in ("--wrokers", "--workers"), ("--logfile", "--log-file"), ("-app", "--app"):
            line = f"taskd: there is no option {given}; did you mean {meant}?"
            self.assertEqual(
                self.refusal("serve", given, "x"), f"{line} (taskd serve --help lists the options)"
            )
        self.assertIn("no option --zzzz (", self.refusal("serve", "--zzzz"))
        self.assertEqual(self.started, [])

    def test_options_of_twistd_are_answered_with_what_holds_anyway(self):
        for option in "-n", "--nodaemon", "--pidfile=":
            self.assertIn("stays in the foreground, and writes no pid file", self.refusal("serve", option))

    def test_a_missing_or_superfluous_value_is_named(self):
        self.assertIn("option --workers needs a value: --workers=VALUE", self.refusal("serve", "--workers"))
        self.assertIn("option --reload takes no value", self.refusal("serve", "--reload=1"))

    def test_words_that_belong_to_no_option_are_named(self):
        line = self.refusal("serve", "--idle", "3", "app", "tasks")
        self.assertIn("what is app tasks for? Only options follow the word serve; did you mean --app?", line)
        self.assertIn("what is zzzz for?", self.refusal("serve", "zzzz"))

    def test_a_wrong_value_is_explained_by_its_option(self):
        self.assertIn("taskd: --workers is a number of at least 1", self.refusal("serve", "--workers", "0"))


class ConfigTests(DaemonCommandCase):
    def test_the_output_says_where_each_value_comes_from(self):
        (self.folder / "taskd.toml").write_text('# ours\napp = "tasks"\nmax-memory = "500M"\n')
        lines = [" ".join(line.split()) for line in self.run_command("config", "--idle", "5").splitlines()]
        for line in (
            "# the configuration file is taskd.toml",
            'app = ["tasks"] # taskd.toml:2',
            'max-memory = "500M" # taskd.toml:3',
            "idle = 5.0 # --idle",
            '# link = "per-message" # default',
            "# timeout is not set",
        ):
            self.assertIn(line, lines)

    def test_the_output_is_itself_a_file_with_the_same_options(self):
        given = [
            "--app",
            "a",
            "--app",
            'b"c.py',
            "--listen",
            "none",
            "--task-server",
            "h:1",
            "--workers",
            "2:8",
        ]
        printed = self.run_command("config", *given, "--max-buffered", "1G", "--reactor", "epoll")
        tomllib.loads(printed)
        (self.folder / "other.toml").write_text(printed)
        again = self.run_command("config", "--config", "other.toml", "--json")
        for name, value in {
            "app": ["a", 'b"c.py'],
            "listen": ["none"],
            "workers": "2:8",
            "max-buffered": "1G",
            "reactor": "epoll",
        }.items():
            self.assertEqual(json.loads(again)["options"][name]["value"], value)
            self.assertEqual(json.loads(again)["options"][name]["source"], "file")

    def test_json_has_every_option(self):
        found = json.loads(self.run_command("config", "--json"))
        self.assertIsNone(found["file"])
        self.assertEqual(found["options"].keys(), dict(settle({}, {}, str(self.folder))).keys())
        self.assertEqual(found["options"]["idle"], {"value": 60.0, "source": "default", "where": "default"})

    def test_a_check_finds_endpoints_and_a_store_that_cannot_be_used(self):
        self.assertIn("nothing is wrong: 0 options are set", self.run_command("config", "--check"))
        for arguments, reason in {
            ("--listen", "tcp:x"): "--listen: 'tcp:x' is no server endpoint",
            ("--task-server", "a:b:c"): "--task-server: 'a:b:c' is no client endpoint",
            ("--store", "redis"): "--store: a store is memory, memory:LIMITS, sqlite:PATH or postgres:DATABASE, not 'redis'",
            ("--store", "memory:x=1"): "--store: limits of memory are like ",
            ("--store", "sqlite:no/such/file"): "--store: there is no directory ",
        }.items():
            self.assertIn(reason, self.refusal("config", "--check", *arguments))
        self.printed.clear()
        for store in "memory", "memory:ended=5", "sqlite:taskd.db", "postgres:dbname=tasks":
            self.run_command("config", "--check", "--store", store)

    def test_a_wrong_file_is_refused_with_or_without_a_check(self):
        (self.folder / "taskd.toml").write_text("idel = 5\n")
        for more in [], ["--check"], ["--json"]:
            self.assertEqual(
                self.refusal("config", *more),
                "taskd: taskd.toml:1: there is no option idel; did you mean idle?",
            )
