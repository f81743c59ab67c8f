"""What the workflows on GitHub rely on: the notes of a release, the versions of Python, pinned actions."""

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.pythons import promised
from tools.github import ROOT, tested_pythons
from tools.release import notes

CODE = '"""taskd."""\n\n__version__ = "0.2.0"\n'

CHANGELOG = """# Changelog

## [Unreleased]

## [0.2.0] - 2027-01-31

### Added

- Everything.

## [0.1.0] - 2026-12-01

- Nothing.
"""


class NotesTests(SynchronousTestCase):
    def test_the_notes_are_the_section_of_the_version(self):
        self.assertEqual(notes("v0.2.0", CODE, CHANGELOG), "### Added\n\n- Everything.")

    def test_a_tag_that_is_not_the_version_is_refused(self):
        error = self.assertRaises(ValueError, notes, "v0.3.0", CODE, CHANGELOG)
        self.assertEqual(str(error), "the tag is v0.3.0, but __version__ in taskd/__init__.py is 0.2.0")

    def test_a_version_without_a_dated_section_is_refused(self):
        error = self.assertRaises(ValueError, notes, "v0.2.0", CODE, "## [Unreleased]\n\n- Everything.\n")
        self.assertEqual(
            str(error), "CHANGELOG.md has no section ## [0.2.0] - YYYY-MM-DD; rename [Unreleased]"
        )


class WorkflowTests(SynchronousTestCase):
    def test_the_tests_run_on_every_promised_python(self):
        self.assertEqual(tested_pythons(), promised())

    def test_actions_are_pinned_by_commit(self):
        for workflow in (ROOT / ".github/workflows").glob("*.yml"):
            for action in re.findall(r"uses: (\S+)", workflow.read_text()):
                self.assertRegex(action, r"^\./|@[0-9a-f]{40}$", workflow.name)


class VersionTests(SynchronousTestCase):
    def test_the_clients_have_the_version_of_the_package(self):
        import taskd

        package = (ROOT / "clients/js/package.json").read_text()
        self.assertIn(f'"version": "{taskd.__version__}"', package)
