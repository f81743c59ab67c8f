"""The watch on an app's files."""

import os
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.source_watch import LOOK_SECONDS, SourceWatch


class SourceWatchTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.file = self.folder / "tasks.py"
        self.file.write_text("X = 1\n")
        self.clock = Clock()
        self.reloads = 0
        self.watch = SourceWatch(self.clock)
        self.watch.add([str(self.folder)])
        self.watch.start(self.reload)

    def reload(self):
        self.reloads += 1

    def look(self, times=1):
        for _ in range(times):
            self.clock.advance(LOOK_SECONDS)

    def test_files_that_stay_as_they_are_cause_nothing(self):
        self.look(10)
        self.assertEqual(self.reloads, 0)

    def test_a_change_causes_one_reload_once_nothing_more_happens(self):
        self.file.write_text("X = 22\n")
        self.look()
        self.file.write_text("X = 333\n")
        self.look()
        self.assertEqual(self.reloads, 0)
        self.look(5)
        self.assertEqual(self.reloads, 1)

    def test_a_new_file_and_one_that_goes_are_changes(self):
        (self.folder / "new.py").write_text("")
        self.look(2)
        self.assertEqual(self.reloads, 1)
        self.file.unlink()
        self.look(2)
        self.assertEqual(self.reloads, 2)

    def test_a_file_that_is_replaced_by_one_of_the_same_size_and_time_has_changed(self):
        other, stat = self.folder / "x", self.file.stat()
        other.write_text("X = 2\n")
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        other.rename(self.file)
        self.look(2)
        self.assertEqual(self.reloads, 1)

    def test_other_files_do_not_count(self):
        for name in "taskd.db", "notes.txt", ".#tasks.py", "tasks.pyc":
            (self.folder / name).write_text("x")
        self.look(3)
        self.assertEqual(self.reloads, 0)

    def test_a_folder_is_watched_from_when_it_was_added(self):
        more = self.folder / "more"
        more.mkdir()
        (more / "a.py").write_text("")
        self.look(2)
        self.watch.add([str(more), str(self.folder)])
        self.look(2)
        self.assertEqual(self.reloads, 0)
        (more / "a.py").write_text("X = 1\n")
        self.look(2)
        self.assertEqual(self.reloads, 1)

    def test_a_change_before_a_folder_is_added_again_is_still_seen(self):
        self.file.write_text("X = 22\n")
        self.watch.add([str(self.folder)])
        self.look(2)
        self.assertEqual(self.reloads, 1)

    def test_a_folder_that_is_gone_is_no_error(self):
        self.file.unlink()
        self.folder.rmdir()
        self.look(2)
        self.assertEqual(self.reloads, 1)

    def test_once_stopped_it_looks_no_more(self):
        self.watch.stop()
        self.watch.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
