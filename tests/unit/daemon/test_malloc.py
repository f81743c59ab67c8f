"""The allocator's threshold."""

import ctypes
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.malloc import LONG_BLOCK, M_MMAP_THRESHOLD, give_back_long_blocks


class MallocTests(SynchronousTestCase):
    def test_the_threshold_is_fixed_in_glibc_and_left_alone_elsewhere(self):
        calls = []
        for library in (SimpleNamespace(mallopt=lambda *args: calls.append(args)), SimpleNamespace()):
            self.patch(ctypes, "CDLL", lambda name, library=library: library)
            give_back_long_blocks()
        self.assertEqual(calls, [(M_MMAP_THRESHOLD, LONG_BLOCK)])
