"""The command line of `twistd taskd`, and the configuration that it describes."""

import os
from pathlib import Path

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.config import ServiceConfig, logical_directory
from taskd.daemon.options import DaemonOptions
from taskd.settings.table import WORKERS_PER_CPU


def parsed(*arguments):
    options = DaemonOptions(environ={})
    options.parseOptions(list(arguments))
    return options


def described(*arguments, directory="/srv"):
    return ServiceConfig.of(parsed(*arguments).settings, directory)


class OptionsTests(SynchronousTestCase):
    def test_without_options_there_are_sensible_defaults(self):
        options = parsed()
        cpus = len(os.sched_getaffinity(0))
        self.assertEqual(options["workers"], (WORKERS_PER_CPU * cpus, WORKERS_PER_CPU * cpus))
        self.assertEqual(options["app"], ["taskd.apps.mail"])
        self.assertEqual(options["listen"], ["tcp:12345:interface=127.0.0.1"])
        self.assertEqual(options["websocket"], ["tcp:8080:interface=127.0.0.1"])
        for name in "timeout", "max-tasks", "max-memory", "hard-memory":
            self.assertIsNone(options[name])
        self.assertEqual(
            (options["idle"], options["stop-timeout"], options["link"]), (60.0, 30.0, "per-message")
        )

    def test_given_options_are_taken(self):
        options = parsed(
            *("--workers", "2:8", "--idle", "5", "--timeout", "1.5", "--max-tasks", "100"),
            *("--max-memory", "500M", "--hard-memory", "2G", "--stop-timeout", "0", "--max-queue", "0"),
        )
        self.assertEqual((options["workers"], options["idle"], options["timeout"]), ((2, 8), 5.0, 1.5))
        self.assertEqual((options["max-tasks"], options["max-queue"], options["stop-timeout"]), (100, 0, 0.0))
        self.assertEqual((options["max-memory"], options["hard-memory"]), (500 * 1024**2, 2 * 1024**3))

    def test_an_invalid_value_is_refused_and_its_option_named(self):
        for option, values in {
            "--workers": ["0", "x", "3:2", "0:0", "-1", "-1:2", ":", "1:x", "1:2:3"],
            "--idle": ["0", "-1", "nan", "inf", "soon"],
            "--timeout": ["0", "-1", "nan", "inf", "x", ""],
            "--max-tasks": ["0", "-1", "1.5", "x"],
            "--max-memory": ["0", "x", "5T", "5X", "-1", "-5M", ""],
            "--hard-memory": ["0", "lots", "5T", "0.5"],
            "--stop-timeout": ["-1", "nan", "x"],
            "--max-message": ["1", "63", "x"],
            "--max-queue": ["-1", "x", "1.5"],
            "--max-outstanding": ["0"],
            "--max-unsent": ["0"],
            "--max-buffered": ["0", "x", "99M", "15M"],
            "--link": ["x", "pooled:x"],
        }.items():
            for value in values:
                error = self.assertRaises(usage.UsageError, parsed, option, value)
                self.assertIn(option, str(error))

    def test_error_details_are_one_of_three_and_tracebacks_is_an_older_name(self):
        self.assertEqual(parsed()["error-details"], "message")
        for details in "type", "message", "traceback":
            self.assertEqual(parsed("--error-details", details)["error-details"], details)
        self.assertEqual(parsed("--tracebacks")["error-details"], "traceback")
        self.assertEqual(parsed("--tracebacks", "--error-details", "traceback")["error-details"], "traceback")
        for wrong in ["--error-details", "none"], ["--tracebacks", "--error-details", "type"]:
            error = self.assertRaises(usage.UsageError, parsed, *wrong)
            self.assertIn("--error-details", str(error))

    def test_error_details_are_refused_for_a_gateway_alone_which_has_no_say_in_them(self):
        alone = ("--listen", "none", "--task-server", "tcp:h:1")
        for option in ["--tracebacks"], ["--error-details", "type"]:
            error = self.assertRaises(usage.UsageError, parsed, *alone, *option)
            self.assertIn("give them the option", str(error))

    def test_origins_and_names_are_checked_at_the_start(self):
        for option, value in ("--allow-origin", "example.com"), ("--hostname", "example.com:80"):
            error = self.assertRaises(usage.UsageError, parsed, option, value)
            self.assertTrue(str(error).startswith(f"{option}: {value!r} is no "), error)

    def test_an_unknown_option_is_refused(self):
        self.assertRaises(usage.UsageError, parsed, "--nope")
        self.assertRaises(usage.UsageError, parsed, "argument")

    def test_repeatable_options_are_collected(self):
        options = parsed(
            *("--app", "a", "--app", "b.py", "--listen", "tcp:1", "--listen", "unix:x"),
            *("--websocket", "tcp:2", "--task-server", "tcp:h:3", "--allow-origin", "https://x"),
            *("--label", "gpu", "--label", "zone=eu"),
        )
        self.assertEqual((options["app"], options["listen"]), (["a", "b.py"], ["tcp:1", "unix:x"]))
        self.assertEqual((options["websocket"], options["task-server"]), (["tcp:2"], ["tcp:h:3"]))
        self.assertEqual(options["allow-origin"], ["https://x"])
        self.assertEqual(options["label"], ["gpu", "zone=eu"])

    def test_labels_reach_the_task_server_and_wrong_ones_are_refused(self):
        self.assertEqual(described("--label", "gpu").server.labels, ["gpu"])
        self.assertEqual(described().server.labels, [])
        error = self.assertRaises(usage.UsageError, parsed, "--label", "a b")
        self.assertIn("--label: a label begins with a letter or a digit", str(error))

    def test_either_part_can_be_left_out_but_not_both(self):
        self.assertEqual(parsed("--listen", "none", "--task-server", "tcp:h:1")["listen"], [])
        self.assertEqual(parsed("--websocket", "none")["websocket"], [])
        for wrong in (
            ["--listen", "none", "--websocket", "none"],
            ["--listen", "none"],
            ["--listen", "none", "--listen", "tcp:1"],
            ["--websocket", "none", "--websocket", "none"],
        ):
            self.assertRaises(usage.UsageError, parsed, *wrong)

    def test_every_kind_of_link_is_accepted(self):
        for link in "per-message", "pooled", "local":
            self.assertEqual(parsed("--link", link)["link"], link)

    def test_an_unknown_link_is_refused_with_the_valid_kinds(self):
        error = self.assertRaises(usage.UsageError, parsed, "--link", "x")
        for word in "--link", "per-message", "pooled", "local", "'x'":
            self.assertIn(word, str(error))

    def test_a_local_link_needs_a_task_server_in_the_same_daemon(self):
        for arguments in ["--listen", "none"], ["--listen", "none", "--task-server", "tcp:h:1"]:
            error = self.assertRaises(usage.UsageError, parsed, "--link", "local", *arguments)
            self.assertIn("--link local and --listen none", str(error))

    def test_a_local_link_cannot_name_another_task_server(self):
        error = self.assertRaises(usage.UsageError, parsed, "--link", "local", "--task-server", "tcp:h:1")
        self.assertIn("--link local and --task-server", str(error))

    def test_the_config_says_whether_the_app_is_the_default(self):
        self.assertIs(parsed().settings.is_default_app, True)
        for app in "x", "taskd.apps.mail":
            self.assertIs(parsed("--app", app).settings.is_default_app, False)


class OtherPlacesTests(SynchronousTestCase):
    def test_options_come_from_the_environment_and_the_command_line_wins(self):
        options = DaemonOptions(environ={"TASKD_IDLE": "5", "TASKD_TIMEOUT": "6"})
        options.parseOptions(["--timeout", "7"])
        self.assertEqual((options["idle"], options["timeout"]), (5.0, 7.0))

    def test_a_repeatable_option_on_the_command_line_replaces_all_that_others_say(self):
        options = DaemonOptions(environ={"TASKD_APP": "a b"})
        options.parseOptions(["--app", "c"])
        self.assertEqual(options["app"], ["c"])

    def test_a_wrong_variable_is_an_error_that_names_it(self):
        error = self.assertRaises(usage.UsageError, DaemonOptions({"TASKD_IDLE": "x"}).parseOptions, [])
        self.assertTrue(str(error).startswith("TASKD_IDLE is a number of seconds above 0"))

    def test_an_old_name_on_the_command_line_outdoes_what_the_environment_says(self):
        options = DaemonOptions(environ={"TASKD_ERROR_DETAILS": "type"})
        options.parseOptions(["--tracebacks"])
        self.assertEqual(options["error-details"], "traceback")
        self.assertTrue(ServiceConfig.of(options.settings, "/srv").uses_tracebacks)

    def test_a_flag_takes_no_value(self):
        self.assertIs(parsed()["reload"], False)
        self.assertIs(parsed("--reload")["reload"], True)
        self.assertRaises(usage.UsageError, parsed, "--reload=yes")

    def test_the_reactor_is_an_option_of_twistd_itself(self):
        self.assertRaises(usage.UsageError, parsed, "--reactor", "epoll")


class ServiceConfigTests(SynchronousTestCase):
    def test_the_server_follows_the_options(self):
        config = described(
            *("--workers", "2:8", "--idle", "5", "--timeout", "1.5", "--max-tasks", "100", "--name", "N"),
            *("--max-memory", "500M", "--hard-memory", "2G", "--max-queue", "7", "--tracebacks"),
        )
        server, scheduler, pool = config.server, config.server.scheduler, config.server.pool
        self.assertEqual((scheduler.min_workers, scheduler.max_workers, pool.max_workers), (2, 8, 8))
        self.assertEqual((scheduler.idle_seconds, scheduler.max_tasks, scheduler.max_queue), (5.0, 100, 7))
        self.assertEqual(scheduler.processors, len(os.sched_getaffinity(0)))
        self.assertEqual((server.timeout, pool.config.max_memory), (1.5, 500 * 1024**2))
        self.assertEqual((pool.config.hard_memory, pool.config.name), (2 * 1024**3, "N"))
        self.assertEqual(pool.config.error_details, "traceback")

    def test_no_limit_is_set_by_default(self):
        server = described().server
        pool = server.pool.config
        self.assertEqual((server.timeout, pool.max_memory, pool.hard_memory), (None,) * 3)

    def test_app_files_are_made_absolute_and_modules_keep_their_names(self):
        apps = described(
            "--app", "a.b", "--app", "c.py", "--app", "d/e", "--app", "/f.py"
        ).server.pool.config.apps
        self.assertEqual(apps, ["a.b", "/srv/c.py", "/srv/d/e", "/f.py"])

    def test_the_path_by_which_the_directory_was_entered_is_kept(self):
        release, link = Path(self.mktemp()).absolute(), Path(self.mktemp()).absolute()
        release.mkdir()
        link.symlink_to(release)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(link)
        self.assertEqual(logical_directory({"PWD": str(link)}), str(link))
        for other in ("", ".", "/", str(link / "missing")):
            self.assertEqual(logical_directory({"PWD": other}), os.getcwd())
        self.assertEqual(logical_directory({}), os.getcwd())

    def test_a_websocket_endpoint_makes_a_gateway(self):
        self.assertIsNone(described("--websocket", "none").gateway)
        gateway = described(
            "--task-server", "tcp:h:1", "--allow-origin", "https://x", "--hostname", "y"
        ).gateway
        self.assertEqual((gateway.task_servers, gateway.allow_origins), (["tcp:h:1"], ["https://x"]))
        self.assertEqual((gateway.hostnames, gateway.max_message), (["y"], 10485760))

    def test_the_limits_of_connections_follow_the_options(self):
        limits = described("--max-message", "64", "--max-outstanding", "2", "--max-unsent", "3").limits
        self.assertEqual((limits.max_message, limits.max_outstanding, limits.unsent.max_unsent), (64, 2, 3))


class PrioritiesTests(SynchronousTestCase):
    def test_priorities_are_ones_own_unless_they_are_shared(self):
        self.assertFalse(described().server.scheduler.shared_priorities)
        self.assertFalse(described("--priorities", "own").server.scheduler.shared_priorities)
        self.assertTrue(described("--priorities", "shared").server.scheduler.shared_priorities)

    def test_any_other_word_is_refused(self):
        for word in "", "Own", "all":
            error = self.assertRaises(usage.UsageError, parsed, f"--priorities={word}")
            self.assertIn("--priorities is own or shared", str(error))
