"""What is kept about the work of a server: its history, its audit log, and the counts of its queue."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, execute, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.history import MAX_FUNCTIONS
from taskd.durable.operators import OperatorRecords
from taskd.model import Grant
from taskd.scheduler.states import GIVEN, WAITING
from taskd.server.audit import Audit
from taskd.store.base import Changes, StoreError
from taskd.store.history import ALL, HOUR, MINUTE, Figures
from taskd.store.memory import MemoryStore
from taskd.store.records import New
from tests.unit.tasks import make_task

NOON = 1_800_000_000  # which begins an hour


class Samples:
    """What was done, as a test says."""

    def __init__(self):
        self.done = {}

    def look(self):
        return self.done

    def take(self):
        done, self.done = self.done, {}
        return done


class RecordsCase(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.store = MemoryStore()
        self.fails = False
        self.samples = Samples()
        self.bare = []
        self.audit = Audit(self.clock, self.now)
        self.records = self.start()

    def start(self):
        server = SimpleNamespace(audit=self.audit, samples=self.samples, bare_tasks=lambda: self.bare)
        return OperatorRecords(self.clock, server, self.store, self.execute, execute, self.now)

    def now(self):
        return NOON + 30.0 + self.clock.seconds()

    def execute(self, function):
        return fail(StoreError("the disk is full")) if self.fails else execute(function)

    def history(self, seconds=MINUTE, function=ALL, since=0.0):
        rows = self.successResultOf(self.records.history(seconds, function, since))
        return [(row.at - NOON, row.function, row.figures.succeeded) for row in rows]

    def entries(self, after=None, limit=10, owner=None, action=None):
        return self.successResultOf(self.records.audit(after, limit, owner, action))


class HistoryTests(RecordsCase):
    def test_each_minute_is_added_to_its_hour(self):
        for count in 1, 2:
            self.samples.done = {"f": Figures(succeeded=count), "g": Figures(succeeded=10)}
            self.clock.advance(60)
        self.assertEqual(self.history(), [(0, "", 11), (60, "", 12)])
        self.assertEqual(self.history(HOUR), [(0, "", 23)])
        self.assertEqual(self.history(function="f"), [(0, "f", 1), (60, "f", 2)])
        self.assertEqual(self.history(HOUR, None), [(0, "f", 3), (0, "g", 20)])
        self.assertEqual(self.history(since=NOON + 60), [(60, "", 12)])

    def test_a_minute_in_which_nothing_was_done_has_no_row(self):
        self.clock.advance(60)
        self.assertEqual(self.history(), [])

    def test_the_present_minute_is_there_as_far_as_it_has_gone(self):
        self.samples.done = {"f": Figures(succeeded=1)}
        self.assertEqual(self.history(), [(0, "", 1)])
        self.assertEqual(self.history(HOUR, "f"), [(0, "f", 1)])
        self.assertEqual(self.store.history.read(MINUTE, ALL, 0, 10), [])

    def test_the_end_and_the_next_start_share_a_minute(self):
        self.samples.done = {"f": Figures(succeeded=1)}
        self.successResultOf(self.records.close())
        self.records = self.start()
        self.samples.done = {"f": Figures(succeeded=2)}
        self.clock.advance(60)
        self.assertEqual(self.history(), [(0, "", 3)])
        self.assertEqual(self.history(HOUR), [(0, "", 3)])

    def test_a_minute_that_a_store_does_not_take_comes_with_the_next_one(self):
        self.samples.done, self.fails = {"f": Figures(succeeded=1)}, True
        self.clock.advance(60)
        self.assertEqual(self.history(), [(0, "", 1)])
        self.fails = False
        self.clock.advance(60)
        self.assertEqual([row.at - NOON for row in self.store.history.read(MINUTE, ALL, 0, 10)], [0])

    def test_minutes_that_cannot_be_written_are_not_kept_for_ever(self):
        self.fails = True
        for _ in range(100):
            self.samples.done = {"f": Figures(succeeded=1)}
            self.clock.advance(60)
        self.assertTrue(59 <= len(self.history()) <= 61)

    def test_only_the_busiest_functions_are_kept_one_by_one(self):
        self.samples.done = {f"f{number:03}": Figures(succeeded=number) for number in range(200)}
        self.clock.advance(60)
        rows = self.history(function=None)
        self.assertEqual(len(rows), MAX_FUNCTIONS)
        self.assertEqual(min(count for _, _, count in rows), 200 - MAX_FUNCTIONS)
        self.assertEqual(self.history(), [(0, "", sum(range(200)))])


class AuditLogTests(RecordsCase):
    def test_entries_are_in_the_store_after_a_second(self):
        self.audit.note(Grant("ann"), "cancel", task="x")
        self.assertEqual(self.store.audit.read(None, 10), [])
        self.clock.advance(1)
        self.assertEqual([entry.task for entry in self.store.audit.read(None, 10)], ["x"])
        self.assertEqual(list(self.audit.unwritten), [])

    def test_all_entries_are_in_the_answer_the_newest_first(self):
        for task in "abc":
            self.audit.note(Grant("ann"), "cancel", task=task)
        self.audit.submitted(Grant("bob"), "f", 2, "bob")
        first = self.entries(limit=2)
        self.assertEqual([(entry.owner, entry.number) for entry in first], [("bob", 4), ("ann", 3)])
        self.assertEqual([entry.task for entry in self.entries(after=3)], ["b", "a"])
        self.assertEqual([entry.number for entry in self.entries(owner="bob")], [4])
        self.assertEqual([entry.number for entry in self.entries(action="submit")], [4])

    def test_entries_that_a_store_does_not_take_are_written_later(self):
        self.fails = True
        self.audit.note(Grant(), "pause", function="f")
        self.clock.advance(1)
        self.audit.note(Grant(), "resume", function="f")
        self.assertEqual(len(self.audit.unwritten), 2)
        self.fails = False
        self.clock.advance(10)
        self.assertEqual([entry.action for entry in self.store.audit.read(None, 10)], ["resume", "pause"])

    def test_unwritten_entries_are_written_at_the_end(self):
        self.audit.submitted(Grant("ann"), "f", 1, "ann")
        self.successResultOf(self.records.close())
        self.assertEqual([entry.owner for entry in self.store.audit.read(None, 10)], ["ann"])
        self.clock.advance(10)

    def test_entries_from_before_the_store_was_there_are_written(self):
        self.audit = Audit(self.clock, self.now)
        self.audit.note(Grant("ann"), "drain")
        self.records = self.start()
        self.clock.advance(1)
        self.assertEqual([entry.action for entry in self.store.audit.read(None, 10)], ["drain"])


class QueueTests(RecordsCase):
    def queue(self):
        rows = self.successResultOf(self.records.queue())
        return [
            (row.function, row.owner, row.scheduled, row.waiting, row.running, row.oldest) for row in rows
        ]

    def bare_task(self, number, state, received=0.0):
        task = make_task(number)
        task.state, task.received = state, received
        self.bare.append(task)
        return task

    def test_bare_tasks_and_stored_ones_are_counted_together(self):
        self.clock.advance(10)
        name = self.bare_task(1, WAITING, 4.0).stats.name
        self.bare_task(2, WAITING, 6.0)
        self.bare_task(3, GIVEN, 1.0)
        news = [New("1", name), New("2", name, due=self.now() + 60), New("3", name, owner="ann")]
        self.store.write(Changes(submits=news), self.now() - 2)
        self.assertEqual(self.queue(), [(name, "", 1, 3, 1, 6.0), (name, "ann", 0, 1, 0, 2.0)])

    def test_many_who_ask_get_the_counts_of_one_look_at_the_store(self):
        asked = []
        self.records = OperatorRecords(
            self.clock,
            SimpleNamespace(audit=self.audit, samples=self.samples, bare_tasks=list),
            SimpleNamespace(queued=asked.append),
            self.execute,
            lambda function: (function(), asked.append(Deferred()), asked[-1])[-1],
            self.now,
        )
        first, second = self.records.queue(), self.records.queue()
        self.assertEqual(len(asked), 2)
        self.clock.advance(1.0)
        asked.pop().callback([])
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), ([], []))
        self.clock.advance(9.0)  # it has taken a second
        self.assertEqual(self.successResultOf(self.records.queue()), [])
        self.clock.advance(1.5)
        third = self.records.queue()
        asked.pop().errback(StoreError("no"))
        self.failureResultOf(third, StoreError)
        self.records.queue()
        self.assertEqual(len(asked), 4)
