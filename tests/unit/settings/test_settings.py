"""The options that hold: which place counts, what is refused, and what is filled in."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.settings.given import SettingError, Source
from taskd.settings.settings import on_command_line, settle, settle_gateway
from taskd.settings.table import SETTINGS, nearest


class SettleTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def settle(self, file="", environ=None, **command_line):
        if file:
            (self.folder / "taskd.toml").write_text(file)
        given = {}
        for key, value in command_line.items():
            name = key.replace("_", "-")
            given[name] = on_command_line(name, [value] if isinstance(value, str) else value)
        return settle(given, environ or {}, str(self.folder))

    def reason(self, *arguments, **keywords):
        return str(self.assertRaises(SettingError, self.settle, *arguments, **keywords))

    def test_the_command_line_counts_before_the_environment_and_that_before_the_file(self):
        file, environ = "idle = 1\ntimeout = 1\nmax-tasks = 1\n", {"TASKD_IDLE": "2", "TASKD_TIMEOUT": "2"}
        settings = self.settle(file, environ, idle="3")
        self.assertEqual((settings["idle"], settings["timeout"], settings["max-tasks"]), (3.0, 2.0, 1))
        self.assertEqual(
            [settings.source(name) for name in ("idle", "timeout", "max-tasks", "name")],
            [Source.COMMAND_LINE, Source.ENVIRONMENT, Source.FILE, Source.DEFAULT],
        )
        self.assertEqual(settings.file, "taskd.toml")

    def test_lists_are_replaced_and_not_joined(self):
        settings = self.settle('app = ["a", "b"]\n', {"TASKD_APP": "c"})
        self.assertEqual(settings["app"], ["c"])

    def test_a_wrong_value_is_named_by_its_place(self):
        self.assertTrue(self.reason(workers="x").startswith("--workers is a number of at least 1"))
        self.assertTrue(self.reason("", {"TASKD_WORKERS": "x"}).startswith("TASKD_WORKERS is a number"))
        self.assertTrue(self.reason("\nworkers = 'x'\n").startswith("taskd.toml:2: workers is a number"))

    def test_a_wrong_value_in_a_place_that_does_not_count_is_no_matter(self):
        self.assertEqual(self.settle("workers = 'x'\n", workers="3")["workers"], (3, 3))

    def test_a_conflict_says_where_options_were_set_that_are_not_on_the_command_line(self):
        self.assertEqual(
            self.reason("websocket = 'none'\n", {"TASKD_LISTEN": "none"}),
            "--listen none and --websocket none: there is nothing left to run "
            "[set by TASKD_LISTEN, taskd.toml:1: websocket]",
        )
        self.assertIn("[set by taskd.toml:1: link]", self.reason("link = 'local'\n", task_server="h:1"))
        self.assertNotIn("[", self.reason("# nothing\n", listen="none", websocket="none"))

    def test_an_endpoint_and_none_cannot_be_combined(self):
        self.assertEqual(
            self.reason(listen=["none", "tcp:1"]), "--listen none cannot be combined with another --listen"
        )

    def test_a_file_can_be_named_on_the_command_line_or_by_a_variable(self):
        (self.folder / "other.toml").write_text("idle = 9\n")
        self.assertEqual(self.settle("idle = 1\n", config="other.toml")["idle"], 9.0)
        self.assertEqual(self.settle("", {"TASKD_CONFIG": "other.toml"})["idle"], 9.0)
        self.assertIn(
            "TASKD_CONFIG no.toml: there is no such file", self.reason("", {"TASKD_CONFIG": "no.toml"})
        )

    def test_an_empty_array_of_what_has_no_default_is_the_default(self):
        self.assertEqual(self.settle("allow-origin = []\n").source("allow-origin"), Source.DEFAULT)

    def test_a_gateway_alone_has_no_code_to_reload(self):
        self.assertIn(
            "--reload and --listen none", self.reason("reload = true\n", listen="none", task_server="h:1")
        )

    def test_the_memory_for_clients_grows_with_the_longest_message(self):
        self.assertEqual(self.settle()["max-buffered"], 256 * 1024**2)
        self.assertEqual(self.settle(max_message="100000000")["max-buffered"], 1_000_000_000)

    def test_a_gateway_of_another_server_reads_its_own_variables_alone(self):
        settings = settle_gateway({"TASKD_LINK": "pooled", "TASKD_LISTEN": "none", "TASKD_WORKERS": "x"})
        self.assertEqual((settings["link"], len(settings)), ("pooled", len(SETTINGS)))
        self.assertRaises(SettingError, settle_gateway, {"TASKD_LNIK": "pooled"})


class TableTests(SynchronousTestCase):
    def test_every_default_is_a_value_of_its_kind(self):
        for setting in SETTINGS:
            if setting.default is not None:
                self.assertEqual(setting.kind.convert(str(setting.default)), setting.default, setting.name)

    def test_every_help_is_a_sentence(self):
        for setting in SETTINGS:
            self.assertTrue(setting.help.endswith("."), setting.name)

    def test_no_variable_of_an_option_is_one_that_others_set(self):
        environ = {setting.variable: str(setting.default or "") for setting in SETTINGS}
        self.assertEqual(len(environ), len(SETTINGS))
        settle({}, environ, os.path.dirname(__file__))

    def test_the_nearest_name_is_found_whatever_the_dashes(self):
        self.assertEqual(nearest("MAX_QUUE", ["max-queue", "app"]), "max-queue")
        self.assertIsNone(nearest("zzz", ["max-queue", "app"]))
