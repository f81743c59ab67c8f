"""Notices that wait to be sent to other nodes: added by any thread, sent by the one that listens."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from threading import Lock
from time import monotonic

from taskd.store.postgres.nodes import ALIVE
from taskd.store.postgres.transaction import Transaction
from taskd.store.postgres.wakes import Notice, Wakes

__all__ = ["Outbox"]

_SURROUNDINGS = f"""
SELECT EXISTS (SELECT FROM taskd.node WHERE id <> $1::int AND {ALIVE}),
    EXISTS (SELECT FROM taskd.watch WHERE node <> $1::int)
"""


class Outbox:
    """Collects notices for other nodes, and what this one follows.

    `wake_end` can be read when there is something new. Nothing is collected while nobody
    sends it, or nobody could get it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._pending = Wakes()
        self._watched: set[str] = set()
        self._watched_at = 0.0
        self._is_watched = self._is_poked = False
        self.is_sent = False
        """Whether there is a connection by which it is sent."""
        self.has_others = False
        """Whether other nodes live."""
        self.has_new_watches = False
        """Whether this node follows something else than before."""
        self.wake_end, self._poke_end = -1, -1

    # --- from any thread ---

    def open(self) -> None:
        """Let `poke` wake a thread."""
        self.wake_end, self._poke_end = os.pipe()

    def close(self) -> None:
        """Let it wake none."""
        with self._lock:
            ends, self.wake_end, self._poke_end = (self.wake_end, self._poke_end), -1, -1
        for end in ends:
            os.close(end)

    def poke(self) -> None:
        """Wake the thread."""
        with self._lock:
            if not self._is_poked and self._poke_end >= 0:
                self._is_poked = True
                os.write(self._poke_end, b".")

    def committed(self, transaction: Transaction) -> None:
        """Collect what a transaction has for others, now that it is committed."""
        if not (self.is_sent and self.has_others):
            return
        wakes = transaction.wakes
        changed: Iterable[str] = ()
        if self._is_watched:
            changed = {event.task for event in transaction.logged} | wakes.changed
        if changed or wakes.waiting or wakes.has_notices:
            with self._lock:
                self._pending.add(wakes, changed)
            self.poke()

    def surroundings(self, transaction: Transaction) -> None:
        """Note whether there are other nodes, and whether they follow anything."""
        began = monotonic()
        [[has_others, is_watched]] = transaction.rows(_SURROUNDINGS, transaction.node)
        if self._watched_at < began:  # else others have begun to, maybe after that
            self._is_watched = is_watched
        if has_others is not self.has_others:
            self.has_others = has_others
            self.poke()

    def watch(self, ids: Collection[str]) -> None:
        """Follow these tasks and batches too."""
        with self._lock:
            self._watched |= set(ids)
            self.has_new_watches = True
        self.poke()

    def unwatch(self, ids: Collection[str]) -> None:
        """Follow these no more."""
        with self._lock:
            self._watched -= set(ids)
            self.has_new_watches = True
        self.poke()

    # --- for the thread ---

    def begin(self) -> None:
        """Forget what could not be sent; collect from now on, beginning with that this node has come."""
        with self._lock:
            self._pending = Wakes(to_all={"node"})
            self.has_new_watches = True
        self.is_sent = True

    def unpoke(self) -> None:
        """Note that the thread is awake."""
        with self._lock:
            if self._is_poked:
                os.read(self.wake_end, 1)
                self._is_poked = False

    def others_watch(self) -> None:
        """Note that others have begun to follow something."""
        self._watched_at, self._is_watched = monotonic(), True

    @property
    def has_notices(self) -> bool:
        """Whether anything waits to be sent, besides events."""
        return self._pending.has_notices

    @property
    def has_changed(self) -> bool:
        """Whether events wait to be sent."""
        return bool(self._pending.changed)

    def take_notices(self) -> list[Notice]:
        """Return what waits to be sent, besides events."""
        with self._lock:
            taken, self._pending = self._pending, Wakes(changed=self._pending.changed)
        return list(taken.notices())

    def take_changed(self) -> set[str]:
        """Return the tasks and batches with new events."""
        with self._lock:
            taken, self._pending.changed = self._pending.changed, set()
        return taken

    def take_watched(self) -> set[str]:
        """Return what this node follows, all of it."""
        with self._lock:
            self.has_new_watches = False
            return set(self._watched)
