"""The memory of a worker: its peak decides whether to look, and its present memory decides the rest."""

import io
import os
from resource import getrusage
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from taskd.worker import memory
from taskd.worker.memory import MemoryWatch

MIB = 1024 * 1024
PAGE = os.sysconf("SC_PAGE_SIZE")


class MemoryWatchTests(SynchronousTestCase):
    def setUp(self):
        self.peak = self.resident = 0
        self.looks = 0
        self.patch(memory, "getrusage", lambda who: SimpleNamespace(ru_maxrss=self.peak // 1024))
        memory.open = self.open
        self.addCleanup(delattr, memory, "open")

    def open(self, path, mode):
        self.looks += 1
        if self.resident is None:
            raise OSError("no /proc")
        return io.BytesIO(b"99999 %d 1 1 0 1 0\n" % (self.resident // PAGE))

    def excess(self, peak, resident):
        self.peak, self.resident = peak * MIB, None if resident is None else resident * MIB
        return MemoryWatch(100 * MIB).excess()

    def test_a_process_that_never_had_too_much_is_not_looked_at(self):
        self.assertIsNone(self.excess(100, 100))
        self.assertEqual(self.looks, 0)

    def test_a_process_that_keeps_too_much_is_found(self):
        self.assertEqual(self.excess(101, 101), 101 * 1024)

    def test_a_process_that_has_given_it_back_is_not(self):
        self.assertIsNone(self.excess(300, 100))
        self.assertEqual(self.looks, 1)

    def test_a_process_that_cannot_be_looked_at_is_left_alone(self):
        self.assertIsNone(self.excess(300, None))

    def test_this_process_is_measured(self):
        self.patch(memory, "getrusage", getrusage)
        memory.open = open
        self.assertGreater(MemoryWatch(1).excess(), 1024)
        self.assertIsNone(MemoryWatch(1 << 50).excess())
