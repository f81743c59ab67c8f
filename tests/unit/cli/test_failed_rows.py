"""The file of failed rows: when it is made, and what happens if it cannot be written."""

import os

from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.failed_rows import FailedRows, free_name, write_whole
from taskd.cli.map_run import ranges
from tests.unit.rows.row_cases import as_text, csv_rows


class FullDisk:
    """A file that takes some bytes, and then no more."""

    def __init__(self, path, room):
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115
        self._room = room
        self.fileno, self.seek, self.seekable = self._file.fileno, self._file.seek, self._file.seekable

    def write(self, data):
        if not self._room:
            raise OSError(28, "No space left on device")
        written = self._file.write(data[: self._room])
        self._room -= written
        return written


class FailedRowsTests(SynchronousTestCase):
    def test_the_file_is_made_when_the_first_row_fails(self):
        path = self.mktemp()
        rows = csv_rows(b"a\n1\n2\n")
        failed = FailedRows(path, rows)
        first, second = rows.read(as_text)
        self.assertFalse(os.path.exists(path))
        failed.add(first, "why")
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"taskd_error,a\nline 2: why,1\n", "before it is closed")
        failed.add(second, "why")
        failed.close()
        self.assertEqual(failed.count, 2)

    def test_no_file_is_made_without_failed_rows(self):
        path = self.mktemp()
        failed = FailedRows(path, csv_rows(b"a\n1\n"))
        failed.close()
        self.assertEqual((failed.count, os.path.exists(path)), (0, False))

    def test_rows_that_cannot_be_written_are_counted_and_known(self):
        rows = csv_rows(b'a\n1\n"2\n3\n')
        failed = FailedRows("/dev/full", rows)
        first, *others = rows.read(as_text)
        self.assertRaises(OSError, failed.add, first, "why")
        for row in others:
            failed.add(row, row.problem)
        self.assertRaises(OSError, failed.close)
        self.assertEqual((failed.count, failed.unwritten), (3, [2, 3, 4]))

    def test_half_a_row_is_removed_again_if_the_disk_is_full(self):
        path = self.mktemp()
        full = FullDisk(path, 8)
        write_whole(full, b"12345\n")
        self.assertRaises(OSError, write_whole, full, b"67890\n")
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"12345\n")

    def test_a_name_that_is_taken_is_numbered(self):
        folder = self.mktemp()
        os.mkdir(folder)
        path = os.path.join(folder, "a.failed.csv")
        self.assertEqual(free_name(path), path)
        for number in (2, 3):
            with open(free_name(path), "w"):
                pass
            self.assertEqual(free_name(path), os.path.join(folder, f"a.failed.{number}.csv"))

    def test_lines_are_named_in_runs(self):
        self.assertEqual(ranges([7, 3, 4, 5, 9]), "3-5, 7, 9")
