"""The store of a drill is one of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.drill.stores import DrillError, Place, place_for, targets_of


class TargetTests(SynchronousTestCase):
    def test_a_store_without_a_server_has_no_link(self) -> None:
        for store in ("memory", "sqlite:x"):
            self.assertEqual(targets_of(store), {"workers", "nodes"})
        self.assertEqual(targets_of("postgresql://host/x"), {"workers", "nodes", "store-link"})


class PlaceTests(SynchronousTestCase):
    def place(self, store: str) -> Place:
        place = place_for(store, 1, frozenset())
        self.addCleanup(shutil.rmtree, place.directory)
        return place

    def test_a_drill_has_a_file_of_its_own_beside_the_one_that_was_named(self) -> None:
        beside = Path(self.mktemp()).absolute()
        beside.mkdir()
        (beside / "tasks.db").write_bytes(b"production")
        for named in (f"sqlite:{beside / 'tasks.db'}", f"sqlite:{beside}"):
            place = self.place(named)
            self.assertEqual(place.directory.parent, beside)
            self.assertEqual(place.store, f"sqlite:{place.directory / 'tasks.db'}")
            self.assertFalse(os.path.exists(place.store.removeprefix("sqlite:")))
        self.assertEqual((beside / "tasks.db").read_bytes(), b"production")

    def test_the_store_in_memory_keeps_its_limits(self) -> None:
        self.assertEqual(self.place("memory:ended=5").store, "memory:ended=5")

    def test_a_store_that_cannot_be_drilled_is_refused_with_the_reason(self) -> None:
        nowhere = self.mktemp()
        for store, nodes, targets, reason in (
            ("sqlite:x", 2, (), "is the store of one node, and not of 2"),
            ("sqlite:x", 1, ("store-link",), "has no link that could be cut"),
            (f"sqlite:{nowhere}/x", 1, (), f"cannot make a directory in .*{nowhere}: No such file"),
            ("sqlite:", 1, (), "a store is memory, .*, not"),
            ("file", 1, (), "a store is memory, .*, not"),
        ):
            with self.assertRaisesRegex(DrillError, reason):
                place_for(store, nodes, frozenset(targets))
