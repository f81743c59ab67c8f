"""How many connections a limit of open files leaves room for."""

import os
import resource

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.net.descriptors import NO_FILES, FileNeeds, connection_limits, open_files


class ConnectionLimitsTests(SynchronousTestCase):
    def test_the_usual_limit_leaves_room_for_hundreds_of_connections(self):
        limits = connection_limits(1024, 12, FileNeeds(56, 148), 3)
        self.assertGreater(limits.accepted, 500)
        self.assertGreater(limits.links, 50)

    def test_without_links_all_are_for_clients(self):
        self.assertEqual(connection_limits(1024, 12, NO_FILES, 0).links, 0)
        self.assertGreater(connection_limits(1024, 12, NO_FILES, 0).accepted, 900)

    def test_workers_that_want_more_than_half_get_half_unless_they_need_more(self):
        self.assertGreater(connection_limits(1024, 12, FileNeeds(216, 800), 0).accepted, 450)
        self.assertLess(connection_limits(1024, 12, FileNeeds(900, 3000), 0).accepted, 110)

    def test_any_limit_leaves_room_for_a_few_connections(self):
        for ends in 0, 1, 3:
            limits = connection_limits(20, 12, FileNeeds(56, 148), ends)
            self.assertGreaterEqual(limits.accepted, 1)
            self.assertEqual(limits.links, min(ends, 1))

    @given(
        limit=st.integers(120, 10**6),
        least=st.integers(0, 60),
        more=st.integers(0, 500),
        ends=st.sampled_from([0, 1, 3]),
    )
    def test_all_together_never_take_more_than_the_limit(self, limit, least, more, ends):
        limits = connection_limits(limit, 20, FileNeeds(least, least + more), ends)
        used = 20 + least + limits.accepted + limits.lingering + limits.links * ends
        self.assertLessEqual(used, limit)


class OpenFilesTests(SynchronousTestCase):
    def test_open_files_are_counted(self):
        limit, before = open_files()
        self.assertGreater(limit, 0)
        descriptor = os.open("/", os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        self.assertEqual(open_files()[1], before + 1)

    def test_no_limit_is_a_large_one(self):
        self.patch(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.assertEqual(open_files()[0], 1_000_000)
