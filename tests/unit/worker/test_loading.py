"""Importing what `--app` names."""

import importlib
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.registry import Registry
from taskd.worker.loading import AppError, check_hard_memory, check_version, load_apps

registry_module = importlib.import_module("taskd.functions.registry")

TASK = """
from taskd import task

@task
def {name}(a: int) -> int:
    return a
"""


class LoadingTests(SynchronousTestCase):
    def setUp(self):
        self.registry = Registry()
        self.patch(registry_module, "registry", self.registry)
        self.patch(sys, "path", list(sys.path))
        self.patch(sys, "dont_write_bytecode", True)
        modules = dict(sys.modules)
        self.addCleanup(self.restore, modules)
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    @staticmethod
    def restore(modules):
        for name in set(sys.modules) - set(modules):
            del sys.modules[name]
        sys.modules.update(modules)

    def write(self, path, text=None):
        target = self.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(TASK.format(name=target.stem + "_task") if text is None else text)

    def load(self, *apps):
        self.files = load_apps(list(apps), str(self.directory), self.registry)
        return sorted(entry.name for entry in self.registry)

    def test_the_files_of_the_apps_are_known_with_links_followed(self):
        self.write("releases/1/one.py")
        self.write("package/__init__.py")
        (self.directory / "space").mkdir()
        (self.directory / "current").symlink_to("releases/1")
        self.load("current/one.py", "package", "space")
        root = self.directory.resolve()
        self.assertEqual(
            self.files,
            {
                "current/one.py": str(root / "releases/1/one.py"),
                "package": str(root / "package/__init__.py"),
                "space": str(root / "space"),
            },
        )

    def test_another_release_of_taskd_than_the_daemons_is_refused(self):
        check_version("1.0", "1.0")
        check_version("", "1.0")
        error = self.assertRaises(AppError, check_version, "1.0", "1.1")
        self.assertEqual(
            str(error), "taskd 1.1 is installed here, but the daemon is taskd 1.0: restart the daemon"
        )

    def refusal(self, *apps):
        return str(self.assertRaises(AppError, self.load, *apps))

    def test_an_app_can_be_a_module(self):
        self.write("shop.py")
        self.assertEqual(self.load("shop"), ["shop_task"])

    def test_an_app_under_two_names_is_no_mistake(self):
        self.write("pack/__init__.py", "")
        self.write("pack/shop.py", "import pack.shop\n" + TASK.format(name="shop_task"))
        self.assertEqual(self.load("pack/shop.py"), ["shop_task"])

    def test_two_functions_of_one_name_are_refused_with_their_lines(self):
        plain = "def plain(function):\n    def wrapper(): pass\n    return wrapper\n"
        registered = "from taskd import task\n@task\n@plain\ndef {}(): pass\n"
        self.write("shop.py", plain + registered.format("first") + registered.format("second"))
        reason = self.refusal("shop")
        for words in "'wrapper'", "shop.py:5", "shop.py:9", "functools.wraps":
            self.assertIn(words, reason)

    def test_an_app_can_be_a_module_in_a_package(self):
        self.write("pack/__init__.py", "")
        self.write("pack/shop.py")
        self.assertEqual(self.load("pack.shop"), ["shop_task"])

    def test_an_app_can_be_a_file(self):
        self.write("shop.py")
        self.assertEqual(self.load("shop.py"), ["shop_task"])

    def test_an_app_can_be_a_file_in_any_directory(self):
        self.write("some/where/shop.py", "import beside\n" + TASK.format(name="shop_task"))
        self.write("some/where/beside.py", "")
        self.assertEqual(self.load("some/where/shop.py"), ["shop_task"])
        elsewhere = Path(self.mktemp()).absolute()
        elsewhere.mkdir()
        (elsewhere / "office.py").write_text(TASK.format(name="office_task"))
        self.assertEqual(self.load(str(elsewhere / "office.py")), ["office_task", "shop_task"])

    def test_the_load_hooks_of_an_app_run_once_after_its_import_and_before_the_next_app(self):
        hook = "from taskd.functions.registry import registry\nregistry.load_hooks.append(lambda: {})\n"
        self.write("shop.py", hook.format('__import__("helper")') + TASK.format(name="shop_task"))
        self.write("helper.py", TASK.format(name="helper_task"))
        check = "import sys\nassert 'helper' in sys.modules\n"
        self.write("office.py", check + TASK.format(name="office_task"))
        self.assertEqual(self.load("shop", "office"), ["helper_task", "office_task", "shop_task"])
        self.assertEqual(self.registry.load_hooks, [])

    def test_a_load_hook_that_raises_is_an_error_of_its_app(self):
        hook = "from taskd.functions.registry import registry\nregistry.load_hooks.append(lambda: 1 / 0)\n"
        self.write("shop.py", hook + TASK.format(name="shop_task"))
        reason = self.refusal("shop")
        self.assertIn("--app shop cannot be imported:", reason)
        self.assertIn("ZeroDivisionError", reason)

    def test_several_apps_can_be_loaded(self):
        self.write("shop.py")
        self.write("some/office.py")
        self.write("idle.py", "")
        self.assertEqual(self.load("shop", "idle", "some/office.py"), ["office_task", "shop_task"])

    def test_an_app_can_import_modules_of_its_directory(self):
        self.write("helper.py", "VALUE = 3\n")
        self.write("apps/shop.py", "from helper import VALUE\n" + TASK.format(name="shop_task"))
        self.assertEqual(self.load("apps/shop.py"), ["shop_task"])
        self.assertIn(str(self.directory), sys.path)

    def test_two_files_of_the_same_name_are_two_apps_or_an_error(self):
        self.write("shop/tasks.py", TASK.format(name="shop_task"))
        self.write("office/tasks.py", TASK.format(name="office_task"))
        try:
            names = self.load("shop/tasks.py", "office/tasks.py")
        except AppError:
            return
        self.assertEqual(names, ["office_task", "shop_task"])

    def test_a_file_named_like_another_module_is_loaded_or_refused_with_the_reason(self):
        """Otherwise one of two apps would be ignored silently."""
        self.write("shop.py")
        for name in "json", "time", "zipimport":  # of Python, of C, and frozen
            self.write(f"{name}.py", TASK.format(name=name + "_task"))
            try:
                names = self.load("shop.py", f"{name}.py")
            except AppError as error:
                self.assertIn(f"--app {name}.py: a module {name!r} is there already", str(error))
            else:
                self.assertIn(f"{name}_task", names)

    # --- what cannot be used ---

    def test_a_missing_file_is_reported(self):
        for app in "missing.py", "some/missing.py", "some/missing":
            message = self.refusal(app)
            self.assertIn(f"--app {app}: there is no such file", message)
            self.assertIn(str(self.directory), message)

    def test_a_misspelt_app_is_answered_with_the_nearest(self):
        for path in "reports.py", "shop/__init__.py", "shop/tasks.py":
            self.write(path, "")
        for app, meant in (
            ("report", "reports"),
            ("repotrs", "reports"),
            ("shp", "shop"),
            ("shop.tsks", "shop.tasks"),
            ("reports:app", "reports"),
            ("repotrs.py", "reports.py"),
            ("shop/task.py", "tasks.py"),
        ):
            self.assertTrue(self.refusal(app).endswith(f"; did you mean {meant}?"), app)
        self.assertNotIn("did you mean", self.refusal("quite_another"))

    def test_a_directory_is_refused_as_an_app(self):
        self.write("shop.py/x", "")
        self.assertIn("there is no such file", self.refusal("shop.py"))

    def test_a_file_that_is_not_a_valid_module_name_is_reported(self):
        self.write("my-app.py")
        self.assertIn("'my-app' cannot be a module's name", self.refusal("my-app.py"))

    def test_a_missing_module_is_reported_without_a_traceback(self):
        for app, name in ("missing", "missing"), ("missing.part", "missing"):
            message = self.refusal(app)
            self.assertIn(f"there is no module '{name}'", message)
            self.assertNotIn("Traceback", message)
        self.write("pack/__init__.py", "")
        self.assertIn("there is no module 'pack.missing'", self.refusal("pack.missing"))

    def test_a_failed_import_in_the_app_is_reported_with_its_traceback(self):
        self.write("shop.py", "import missing_helper\n")
        message = self.refusal("shop")
        self.assertIn("--app shop cannot be imported", message)
        self.assertIn("Traceback", message)
        self.assertIn("import missing_helper", message)
        self.assertIn("No module named 'missing_helper'", message)

    def test_the_traceback_of_an_app_begins_at_its_own_first_line(self):
        self.write("shop.py", "def fail():\n    1 / 0\n\nfail()\n")
        message = self.refusal("shop")
        self.assertIn("shop.py", message)
        self.assertIn("ZeroDivisionError", message)
        self.assertNotIn("loading.py", message)
        self.assertNotIn("importlib", message)

    def test_a_syntax_error_is_reported_with_its_line(self):
        self.write("shop.py", "def (:\n")
        message = self.refusal("shop")
        self.assertIn("SyntaxError", message)
        self.assertIn("def (:", message)

    def test_an_app_that_calls_sys_exit_is_reported(self):
        statements = {
            "one": "raise SystemExit(0)",
            "two": "import sys; sys.exit()",
            "three": "raise KeyboardInterrupt",
        }
        for app, statement in statements.items():
            self.write(f"shop_{app}.py", statement)
            self.assertIn(f"--app shop_{app} cannot be imported", self.refusal(f"shop_{app}"))

    def test_a_name_that_cannot_be_imported_is_reported(self):
        for app in "", ".shop", "..":
            self.assertIn(f"--app {app}", self.refusal(app))

    def test_apps_without_a_task_are_reported(self):
        self.write("shop.py", "")
        self.write("office.py", "")
        message = self.refusal("shop", "office")
        self.assertIn("--app shop, office: no function is registered", message)
        self.assertIn("@task", message)

    def test_a_signature_that_cannot_be_resolved_is_reported_with_its_task(self):
        self.write("shop.py", "from taskd import task\n\n@task\ndef sell(a: 'Missing'):\n    pass\n")
        message = self.refusal("shop")
        self.assertIn("'sell'", message)
        self.assertIn("shop.py:3", message)
        self.assertIn("Missing", message)

    def test_an_invalid_task_is_reported_with_the_traceback_of_the_app(self):
        self.write("shop.py", "from taskd import task\n\n@task(name='taskd.ping')\ndef ping():\n    pass\n")
        message = self.refusal("shop")
        self.assertIn("taskd.ping", message)
        self.assertIn("shop.py", message)


class HardMemoryTests(SynchronousTestCase):
    def test_a_hard_limit_below_the_memory_in_use_is_refused_with_both_figures(self):
        status = Path(self.mktemp())
        status.write_text("Name:\tpython\nVmData:\t   14000 kB\nVmStk:\t     132 kB\n")
        check_hard_memory(None, status)
        check_hard_memory(14000 * 1024 + 1, status)
        error = self.assertRaises(AppError, check_hard_memory, 14000 * 1024, status)
        self.assertEqual(str(error).count(str(14000 * 1024)), 2)

    def test_a_hard_limit_of_one_byte_is_too_little_for_this_process(self):
        self.assertRaises(AppError, check_hard_memory, 1)
