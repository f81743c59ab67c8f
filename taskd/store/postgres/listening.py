"""The hints of a node to others, and theirs to it, by LISTEN and NOTIFY on a connection of its own.

A notification is sent after the commit that it is about, in a transaction of its own: within that one, all
commits with notifications would wait for each other. It may be lost, or be about nothing: nodes
look for themselves as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from threading import Thread
from time import monotonic

import psycopg

from taskd.store.nodes import Hint
from taskd.store.postgres.asking import Asking, can_read
from taskd.store.postgres.connection import Database, is_pooled
from taskd.store.postgres.errors import explained
from taskd.store.postgres.literals import texts
from taskd.store.postgres.nodes import ALIVE
from taskd.store.postgres.outbox import Outbox
from taskd.store.postgres.wakes import ALL, WAKE, Notice, channel_of, hint_of, task_notices

__all__ = ["Listening"]

PACE_SECONDS = 0.002
"""Seconds between two notifications: each takes the server some 0.1 ms, and all other nodes as long."""

EVENTS_PACE_SECONDS = 0.01
"""Seconds between two notifications about events, for which the table of watches is asked, and between two
changes of that."""

CHECK_SECONDS = 10.0
"""Seconds between two checks of whether notifications come: a connection may be dead in silence."""

ANSWER_SECONDS = 5.0
"""Seconds in which the server must answer anything."""

RECONNECT_SECONDS = 1.0
"""Seconds before a lost connection is made again."""

CLOSE_SECONDS = 2.0
"""Seconds in which the last notifications are sent; without them, others look for themselves."""

NOT_YET = "it has not connected yet"
POOLED = "a pooler such as PgBouncer passes on no notifications in transaction mode"

_NOTIFY = "SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS n(channel, payload)"
_WATCHERS = "SELECT node, task FROM taskd.watch WHERE task = ANY($1::text[]) AND node <> $2::int"
_WATCH = """
INSERT INTO taskd.watch SELECT task, $2::int FROM unnest($1::text[]) AS t(task) ON CONFLICT DO NOTHING
"""
_UNWATCH = "DELETE FROM taskd.watch WHERE task = ANY($1::text[]) AND node = $2::int"
_FORGET = "DELETE FROM taskd.watch WHERE node = $1::int"
_COUNT = "SELECT count(*) FROM taskd.watch WHERE node = $1::int"
_SWEEP = f"""
DELETE FROM taskd.watch AS w
WHERE NOT EXISTS (SELECT FROM taskd.node AS n WHERE n.id = w.node AND {ALIVE})
"""


class Listening:
    """Sends and receives hints in a thread, once `listen` was called.

    `number` returns that of the node.
    """

    def __init__(self, database: Database, number: Callable[[], int]) -> None:
        self._database = database
        self._number = number
        self._hint: Callable[[Hint], object] = bool  # which does nothing
        self._thread: Thread | None = None
        self._is_closed = False
        self.outbox = Outbox()
        self.fault: str | None = NOT_YET
        """Why no hints come, None if they do."""

    def listen(self, hint: Callable[[Hint], object]) -> None:
        """Begin; `hint` is called in the thread."""
        self._hint = hint
        self.outbox.open()
        self._thread = Thread(target=self._run, name="taskd listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what is left, and end."""
        thread, self._is_closed, self._thread = self._thread, True, None
        if thread is not None:
            self.outbox.poke()
            thread.join(CLOSE_SECONDS)
            if not thread.is_alive():  # else it waits for a server that does not answer
                self.outbox.close()

    def _run(self) -> None:
        while not self._is_closed:
            try:
                with closing(self._database.connect("listener")) as connection:
                    self._serve(connection)
            except Exception as error:
                self.outbox.is_sent = False
                fault = explained(error) if isinstance(error, psycopg.Error) else f"a bug in taskd: {error!r}"
                self._say(fault)
                self._wait(RECONNECT_SECONDS)

    def _serve(self, connection: psycopg.Connection[object]) -> None:
        """Send and receive until the connection is lost, the node has a new number, or at the end."""
        node = self._number()
        listens = not is_pooled(connection)
        session = _Session(connection, node, self.outbox, self._hint, listens=listens)
        session.begin()
        self._say(None if listens else POOLED)
        self._hint(Hint(everything=True))
        while not self._is_closed and self._number() == node:
            session.wait(session.turn())
        self.outbox.is_sent = False
        with suppress(psycopg.Error):
            session.end()

    def _say(self, fault: str | None) -> None:
        """Show why no hints come."""
        if fault != self.fault:
            self.fault = fault
            self._hint(Hint())

    def _wait(self, seconds: float) -> None:
        until = monotonic() + seconds
        while not self._is_closed and (left := until - monotonic()) > 0:
            if can_read([self.outbox.wake_end], left):
                self.outbox.unpoke()


@dataclass(slots=True)
class _Chore:
    """What is done when it `is_wanted`, but not before `due`, and each time `pace` seconds later."""

    is_wanted: Callable[[], bool]
    do: Callable[[], None]
    pace: float
    due: float = 0.0


class _Session:
    """One connection of a node, with what is done by it. Raises `psycopg.Error`."""

    def __init__(
        self,
        connection: psycopg.Connection[object],
        node: int,
        outbox: Outbox,
        hint: Callable[[Hint], object],
        *,
        listens: bool,
    ) -> None:
        self._asking = Asking(connection, ANSWER_SECONDS, self._received)
        self._node = node
        self._outbox = outbox
        self._hint = hint
        self._listens = listens
        self._written: set[str] = set()  # what the table has of what this node watches
        self._is_unanswered = False
        self._chores = [
            _Chore(lambda: outbox.has_notices, self._send, PACE_SECONDS),
            _Chore(lambda: outbox.has_changed, self._send_events, EVENTS_PACE_SECONDS),
            _Chore(self._has_new_watches, self._write_watches, EVENTS_PACE_SECONDS),
            _Chore(lambda: listens, self._check, CHECK_SECONDS, monotonic() + CHECK_SECONDS),
        ]

    def begin(self) -> None:
        """Listen, unless there is a pooler."""
        if self._listens:
            for channel in (WAKE, ALL, channel_of(self._node)):
                self._asking.ask(f"LISTEN {channel}")
            self._asking.ask(_FORGET, str(self._node))
        self._outbox.begin()

    def turn(self) -> float:
        """Do what is due; return the seconds after which there may be more."""
        now = monotonic()
        for chore in self._chores:
            if now >= chore.due and chore.is_wanted():
                chore.due = now + chore.pace
                chore.do()
        dues = [chore.due for chore in self._chores if chore.is_wanted()]
        return min(dues, default=now + CHECK_SECONDS) - monotonic()

    def wait(self, seconds: float) -> None:
        """Wait for notifications, or for anything to be sent."""
        if self._asking.wait(self._outbox.wake_end, seconds):
            self._outbox.unpoke()

    def end(self) -> None:
        """Send what is left."""
        self._send()
        self._asking.ask(_FORGET, str(self._node))

    # --- out ---

    def _notify(self, notices: list[Notice]) -> None:
        if notices:
            channels, payloads = zip(*notices, strict=True)
            self._asking.ask(_NOTIFY, texts(channels), texts(payloads))

    def _send(self) -> None:
        self._notify(self._outbox.take_notices())

    def _send_events(self) -> None:
        """Hint at events for the nodes that follow their tasks."""
        changed = texts(sorted(self._outbox.take_changed()))
        followed: dict[int, list[str]] = {}
        for number, task in self._asking.ask(_WATCHERS, changed, str(self._node)):
            followed.setdefault(int(number), []).append(task)
        self._notify([each for number, tasks in followed.items() for each in task_notices(number, tasks)])

    # --- the table of watches ---

    def _has_new_watches(self) -> bool:
        return self._listens and self._outbox.has_others and self._outbox.has_new_watches

    def _write_watches(self) -> None:
        """Bring the table to what the node watches; then look at what is new, which may have changed."""
        watched, had_any = self._outbox.take_watched(), bool(self._written)
        added, removed = watched - self._written, self._written - watched
        if added:
            self._asking.ask(_WATCH, texts(sorted(added)), str(self._node))
        if removed:
            self._asking.ask(_UNWATCH, texts(sorted(removed)), str(self._node))
        self._written = watched
        if added:
            if not had_any:
                self._notify([(ALL, "watch")])
            self._hint(Hint(tasks=sorted(added)))

    def _check(self) -> None:
        """Send this node a notification, and see that the table of watches is right."""
        if self._is_unanswered:
            raise psycopg.OperationalError("its own notifications do not come back")
        self._is_unanswered = True
        self._notify([(channel_of(self._node), "check")])
        self._asking.ask(_SWEEP)
        [[count]] = self._asking.ask(_COUNT, str(self._node))
        if int(count) != len(self._written):  # a server that has crashed has lost it
            self._asking.ask(_FORGET, str(self._node))
            self._written = set()
            self._outbox.watch(())

    # --- in ---

    def _received(self, channel: str, payload: str, *, is_own: bool) -> None:
        if is_own:
            if payload == "check":
                self._is_unanswered = False
        elif (channel, payload) == (ALL, "watch"):
            self._outbox.others_watch()
        else:
            self._hint(hint_of(channel, payload))
