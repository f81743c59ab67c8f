"""The title of a process: set through setproctitle's extension, or through the package without it."""

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.worker.process_title import title_setter

PACKAGE = """
titles = []
setproctitle = titles.append
"""


class TitleSetterTests(SynchronousTestCase):
    def setUp(self):
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.patch(sys, "path", [str(self.directory), *sys.path])

    def package(self, name, **modules):
        """Write a package like setproctitle."""
        self.addCleanup(sys.modules.pop, name, None)
        package = self.directory / name
        package.mkdir()
        for module, text in {"__init__": PACKAGE, **modules}.items():
            (package / f"{module}.py").write_text(text)

    def test_the_extension_is_used_without_an_import_of_the_package(self):
        self.package("title_one", _setproctitle=PACKAGE)
        title_setter("title_one")("worker")
        self.assertNotIn("title_one", sys.modules)

    def test_the_package_is_used_if_the_extension_is_not_as_expected(self):
        for name, modules in {
            "title_none": {},
            "title_other": {"_setproctitle": "set_title = print"},
            "title_no_function": {"_setproctitle": "setproctitle = 'text'"},
            "title_broken": {"_setproctitle": "raise OSError('cannot be loaded')"},
        }.items():
            self.package(name, **modules)
            title_setter(name)("worker")
            self.assertEqual(sys.modules[name].titles, ["worker"], name)

    def test_a_plain_module_named_setproctitle_is_used(self):
        self.addCleanup(sys.modules.pop, "title_module", None)
        (self.directory / "title_module.py").write_text(PACKAGE)
        title_setter("title_module")("worker")
        self.assertEqual(sys.modules["title_module"].titles, ["worker"])

    def test_without_the_package_importing_fails(self):
        self.assertRaises(ImportError, title_setter, "title_missing")


class InstalledReleaseTests(SynchronousTestCase):
    def run_python(self, *lines):
        """Return the output of a separate process: a title cannot be undone."""
        code = "\n".join(("import sys", *lines))
        root = Path(__file__).parents[3]
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def test_the_installed_release_has_the_extension(self):
        printed = self.run_python(
            "before = set(sys.modules)",
            "import taskd.worker.process_title",
            "print({'setproctitle', 'logging', 'threading'} & (set(sys.modules) - before))",
        )
        self.assertEqual(printed, "set()\n")

    def test_the_name_of_a_process_has_no_space(self):
        for name, expected in (
            ("x", "taskd[x]"),
            ("a pool", "taskd[a_pool]"),
            ("TaskWorker", "taskd[TaskWorke"),
        ):
            printed = self.run_python(
                "from taskd.worker.process_title import setproctitle, title",
                f"setproctitle(title({name!r}, 'fork server'))",
                "print(open('/proc/self/comm').read(), end='')",
            )
            self.assertEqual(printed, expected + "\n")

    def test_the_system_shows_the_title_that_was_set(self):
        printed = self.run_python(
            "from taskd.worker.process_title import setproctitle",
            "setproctitle('taskd[TaskWorker]: idle')",
            "print(open('/proc/self/cmdline', 'rb').read().rstrip(b'\\0').decode())",
        )
        self.assertEqual(printed, "taskd[TaskWorker]: idle\n")
