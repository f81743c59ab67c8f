"""What the allocator is asked for."""

import ctypes
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from taskd.net.malloc import LONG_BLOCK, M_MMAP_THRESHOLD, give_back_free_memory, map_long_blocks_alone


class MallocTests(SynchronousTestCase):
    def test_glibc_is_asked_and_any_other_library_left_alone(self):
        calls = []
        glibc = SimpleNamespace(
            mallopt=lambda *args: calls.append(args), malloc_trim=lambda *args: calls.append(args)
        )
        for library in (glibc, SimpleNamespace()):
            self.patch(ctypes, "CDLL", lambda name, library=library: library)
            map_long_blocks_alone()
            give_back_free_memory()
        self.assertEqual(calls, [(M_MMAP_THRESHOLD, LONG_BLOCK), (0,)])
