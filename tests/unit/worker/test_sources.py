"""The folders of an app's own code."""

import json
from pathlib import Path
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

import taskd
from taskd.worker.sources import source_folders


def modules(**files):
    """Return modules by name, loaded from these files; a file called __init__.py makes a package."""
    made = {}
    for name, file in files.items():
        name = name.replace("__", ".")
        made[name] = module = ModuleType(name)
        module.__file__ = file
        if file is not None and file.endswith("/__init__.py"):
            module.__path__ = [str(Path(file).parent)]
    return made


class SourceFoldersTests(SynchronousTestCase):
    def test_modules_in_the_directory_and_its_packages_count(self):
        loaded = modules(
            tasks="/srv/tasks.py",
            shop="/srv/shop/__init__.py",
            shop__db="/srv/shop/db/__init__.py",
            shop__db__fast="/srv/shop/fast/fast.so",
            elsewhere="/opt/elsewhere.py",
            builtin=None,
        )
        self.assertEqual(source_folders(["tasks"], "/srv", loaded), ["/srv", "/srv/shop", "/srv/shop/db"])

    def test_installed_packages_do_not_count_even_below_the_directory(self):
        loaded = modules(
            tasks="/srv/tasks.py", installed="/srv/.venv/lib/python3/site-packages/installed/__init__.py"
        )
        self.assertEqual(source_folders(["tasks"], "/srv", loaded), ["/srv"])

    def test_neither_pythons_nor_taskds_own_modules_count_even_below_the_directory(self):
        loaded = modules(tasks="/tasks.py", json=json.__file__, taskd=taskd.__file__)
        self.assertEqual(source_folders(["tasks"], "/", loaded), ["/"])

    def test_a_package_that_is_an_app_counts_wherever_it_is(self):
        for folder in "/opt/shop", "/venv/lib/python3/site-packages/shop":
            loaded = modules(shop=f"{folder}/__init__.py", shop__tasks=f"{folder}/jobs/tasks.py")
            loaded |= modules(other=f"{Path(folder).parent}/other.py")
            self.assertEqual(source_folders(["shop.tasks"], "/srv", loaded), [folder, f"{folder}/jobs"])

    def test_a_single_module_that_is_an_app_counts_with_its_folder_unless_it_was_installed(self):
        self.assertEqual(source_folders(["jobs"], "/srv", modules(jobs="/opt/jobs.py")), ["/opt"])
        installed = modules(jobs="/venv/site-packages/jobs.py")
        self.assertEqual(source_folders(["jobs"], "/srv", installed), [])

    def test_the_folder_of_an_app_that_is_a_file_counts(self):
        loaded = modules(tasks="/opt/a/tasks.py", helper="/opt/a/helper.py")
        self.assertEqual(source_folders(["../opt/a/tasks.py"], "/srv", loaded), ["/opt/a"])

    def test_code_that_cannot_be_compiled_counts(self):
        folder = str(Path(__file__).parent)
        try:
            compile("def f(:", f"{folder}/shop/__init__.py", "exec")
        except SyntaxError as error:
            failure = RuntimeError("cannot be imported")
            failure.__cause__ = error
        # The test's own file is in the traceback.
        self.assertEqual(source_folders([], folder, {}, failure), [folder, f"{folder}/shop"])

    def test_an_error_that_is_its_own_cause_ends_the_search(self):
        failure = ValueError()
        failure.__cause__ = other = ValueError()
        other.__cause__ = failure
        self.assertEqual(source_folders([], "/srv", {}, failure), [])
