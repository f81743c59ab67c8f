"""The log file: appended to, reopened, put aside when it is large."""

import os
import shutil
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.log_file import KEPT_FILES, ROTATE_BYTES, LogFile


class LogFileTests(SynchronousTestCase):
    def setUp(self):
        self.path = Path(self.mktemp()).absolute() / "taskd.log"
        self.path.parent.mkdir()

    def opened(self):
        file = LogFile(self.path)
        self.addCleanup(file.close)
        return file

    def fill(self, file):
        """Make the next line too much for the file."""
        file.write(b"x" * ROTATE_BYTES)

    def beside(self):
        return sorted(path.name for path in self.path.parent.iterdir())

    def test_an_existing_log_file_is_appended_to(self):
        self.path.write_text("old\n")
        self.opened().write(b"new\n")
        self.assertEqual(self.path.read_text(), "old\nnew\n")

    def test_a_moved_file_is_written_to_until_it_is_reopened(self):
        file = self.opened()
        moved = self.path.rename(f"{self.path}.1")
        file.write(b"one\n")
        file.reopen()
        file.write(b"two\n")
        self.assertEqual((moved.read_text(), self.path.read_text()), ("one\n", "two\n"))

    def test_a_file_that_somebody_has_created_in_its_place_is_used_with_its_mode(self):
        file = self.opened()
        self.path.rename(f"{self.path}.1")
        self.path.touch()
        self.path.chmod(0o640)
        file.reopen()
        file.write(b"two\n")
        self.assertEqual((self.path.read_text(), self.path.stat().st_mode & 0o777), ("two\n", 0o640))

    def test_a_new_file_has_the_mode_of_the_old_one_whatever_the_umask(self):
        file = self.opened()
        self.path.chmod(0o664)
        self.path.rename(f"{self.path}.1")
        umask = os.umask(0o077)
        self.addCleanup(os.umask, umask)
        file.reopen()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o664)

    def test_reopening_a_file_that_is_where_it_was_changes_nothing(self):
        file = self.opened()
        file.write(b"one\n")
        file.reopen()
        file.write(b"two\n")
        self.assertEqual((self.path.read_text(), self.beside()), ("one\ntwo\n", ["taskd.log"]))

    def test_a_truncated_file_begins_anew_without_a_gap(self):
        file = self.opened()
        file.write(b"one\n")
        shutil.copy(self.path, f"{self.path}.1")
        os.truncate(self.path, 0)
        file.write(b"two\n")
        self.assertEqual(self.path.read_bytes(), b"two\n")

    def test_if_the_path_cannot_be_reopened_the_old_file_stays_in_use(self):
        file = self.opened()
        moved = self.path.rename(f"{self.path}.1")
        self.path.mkdir()
        self.assertRaises(OSError, file.reopen)
        file.write(b"one\n")
        self.assertEqual(moved.read_text(), "one\n")

    def test_a_large_file_is_put_aside_and_so_many_are_kept(self):
        file = self.opened()
        for number in range(KEPT_FILES + 3):
            file.write(b"file %d\n" % number)
            self.fill(file)
        file.write(b"last\n")
        old = [f"taskd.log.{number}" for number in range(1, KEPT_FILES + 1)]
        self.assertEqual(self.beside(), ["taskd.log", *old])
        self.assertEqual(self.path.read_text(), "last\n")
        with open(f"{self.path}.1") as newest:
            self.assertEqual(newest.readline(), f"file {KEPT_FILES + 2}\n")

    def test_a_file_that_somebody_else_moves_is_not_put_aside_any_more(self):
        file = self.opened()
        self.path.rename(f"{self.path}-20270101")
        file.reopen()
        self.fill(file)
        file.write(b"more\n")
        self.assertEqual(self.beside(), ["taskd.log", "taskd.log-20270101"])

    def test_a_file_that_was_moved_and_not_reopened_is_not_put_aside(self):
        file = self.opened()
        self.fill(file)
        self.path.rename(f"{self.path}.1")
        file.write(b"more\n")
        self.assertEqual(self.beside(), ["taskd.log.1"])

    def test_a_file_that_somebody_else_truncates_is_not_put_aside_any_more(self):
        file = self.opened()
        self.fill(file)
        os.truncate(self.path, 0)
        file.write(b"more\n")
        self.fill(file)
        file.write(b"more\n")
        self.assertEqual(self.beside(), ["taskd.log"])

    def test_old_files_with_other_names_mean_that_somebody_else_rotates(self):
        for name in "taskd.log.2.gz", "taskd.log-20270101", "taskd.log.10":
            (self.path.parent / name).touch()
            file = self.opened()
            self.fill(file)
            file.write(b"more\n")
            self.assertEqual(self.beside(), ["taskd.log", name])
            (self.path.parent / name).unlink()
            self.path.unlink()

    def test_a_device_is_not_put_aside(self):
        file = LogFile("/dev/null")
        self.fill(file)
        file.write(b"more\n")
        file.close()
        self.assertFalse(Path("/dev/null.1").exists())

    def test_a_large_file_that_cannot_be_put_aside_is_still_appended_to(self):
        file = self.opened()
        self.fill(file)
        Path(f"{self.path}.{KEPT_FILES}").mkdir()
        Path(f"{self.path}.{KEPT_FILES - 1}").touch()
        file.write(b"more\n")
        self.assertTrue(self.path.read_text().endswith("xmore\n"))

    def test_a_file_that_cannot_be_opened_is_an_error(self):
        self.assertRaises(OSError, LogFile, self.path / "below" / "a file")
