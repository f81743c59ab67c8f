"""Whether the kernel has killed a process for lack of memory."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.worker.oom import OomWatch


class OomWatchTests(SynchronousTestCase):
    def setUp(self):
        self.file = Path(self.mktemp())

    def count(self, kills):
        self.file.write_text(f"nr_free_pages 1\noom_kill {kills}\noom_kill_disable 0\n")

    def watch(self, kills=0):
        self.count(kills)
        return OomWatch(self.file)

    def test_the_oom_killer_has_not_struck_while_the_count_is_unchanged(self):
        watch = self.watch(3)
        self.assertIs(watch.has_struck(), False)

    def test_each_kill_is_reported_once(self):
        watch = self.watch(3)
        self.count(5)
        self.assertEqual([watch.has_struck() for _ in range(3)], [True, True, False])
        self.count(6)
        self.assertEqual([watch.has_struck() for _ in range(2)], [True, False])

    def test_without_a_readable_count_the_answer_is_unknown(self):
        for text in "nr_free_pages 1\n", "oom_kill x\n", "":
            self.file.write_text(text)
            self.assertIsNone(OomWatch(self.file).has_struck())
        self.assertIsNone(OomWatch(self.file / "none").has_struck())

    def test_the_answer_is_unknown_when_the_count_disappears(self):
        watch = self.watch()
        self.file.unlink()
        self.assertIsNone(watch.has_struck())

    def test_this_machine_reports_no_kill(self):
        self.assertIsNot(OomWatch().has_struck(), True)
