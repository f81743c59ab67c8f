"""The memory that the daemon shares with its workers."""

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.worker.board import KEPT_BYTES, Board


def board(places=1):
    """Make a board; return it as the daemon and as a worker see it."""
    descriptor = Board.create(places)
    try:
        return Board(descriptor), Board(descriptor)
    finally:
        os.close(descriptor)


class BoardTests(SynchronousTestCase):
    def test_a_new_place_is_clear(self):
        daemon, _ = board(3)
        for place in range(3):
            self.assertEqual((daemon.begun(place), daemon.kept(place)), (0, b""))

    def test_the_daemon_sees_what_a_worker_begins_and_keeps(self):
        daemon, worker = board(3)
        worker.begin(1, 2**63)
        self.assertTrue(worker.keep(1, b"one\n"))
        self.assertTrue(worker.keep(1, b"two\n"))
        self.assertEqual((daemon.begun(1), daemon.kept(1)), (2**63, b"one\ntwo\n"))
        for other in 0, 2:
            self.assertEqual((daemon.begun(other), daemon.kept(other)), (0, b""))

    def test_sent_outcomes_are_no_longer_kept(self):
        daemon, worker = board()
        worker.begin(0, 7)
        worker.keep(0, b"one\n")
        worker.sent(0)
        self.assertEqual((daemon.begun(0), daemon.kept(0)), (7, b""))
        worker.keep(0, b"x\n")
        self.assertEqual(daemon.kept(0), b"x\n")

    def test_a_cleared_place_is_as_new_for_the_next_worker(self):
        daemon, worker = board(2)
        worker.begin(1, 7)
        worker.keep(1, b"one\n")
        daemon.clear(1)
        self.assertEqual((daemon.begun(1), daemon.kept(1)), (0, b""))

    def test_lines_without_room_are_not_kept_and_nothing_else_is_lost(self):
        daemon, worker = board(2)
        lines = b"x" * (KEPT_BYTES - 1)
        self.assertTrue(worker.keep(0, lines))
        self.assertFalse(worker.keep(0, b"yz"))
        self.assertTrue(worker.keep(0, b"y"))
        self.assertFalse(worker.keep(0, b"z"))
        self.assertEqual(daemon.kept(0), lines + b"y")
        self.assertEqual((daemon.begun(1), daemon.kept(1)), (0, b""))

    @given(
        st.lists(st.tuples(st.integers(0, 2), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=3000))))
    )
    def test_places_on_the_board_are_independent(self, steps):
        daemon, worker = board(3)
        begun, kept = [0, 0, 0], [b"", b"", b""]
        for place, what in steps:
            if isinstance(what, int):
                worker.begin(place, what)
                begun[place] = what
            elif worker.keep(place, what):
                kept[place] += what
            else:
                self.assertGreater(len(kept[place]) + len(what), KEPT_BYTES)
                worker.sent(place)
                kept[place] = b""
        for place in range(3):
            self.assertEqual((daemon.begun(place), daemon.kept(place)), (begun[place], kept[place]))
