"""The rules of a copy. Every pair of stores is copied in `tests/contracts/test_store.py`."""

from io import BytesIO
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from taskd.store import copying
from taskd.store.audit import AuditEntry
from taskd.store.base import Changes, Filter, StoreError
from taskd.store.batches import NewBatch, Rows
from taskd.store.copying import CopiedTask, CopiedTick, Copying, NotCopied, missing, pages
from taskd.store.lines import LinesTarget, line_of, read_lines
from taskd.store.memory import MemoryStore
from taskd.store.records import Event, LastTick, New, Start, State, Tick, last_seq
from taskd.store.sqlite import SqliteStore

NOW = 1000.0


def run(source, target, **how):
    copying = Copying(target.copies, NOW, **how)
    copying.run(pages(source.copies, whole=how.get("whole", False)))
    return copying


def submit(store, *news):
    store.write(Changes(submits=news), NOW)


def start(store, task):
    store.write(Changes(want={"f": 10}, starts=[Start(task, 1)]), NOW)


class CopyingTests(SynchronousTestCase):
    def setUp(self):
        self.source, self.target = MemoryStore(), MemoryStore()

    def test_a_running_task_waits_with_a_loss_unless_it_is_run_once(self):
        submit(self.source, New("a", "f"), New("b", "f"))
        start(self.source, "a")
        copied = run(self.source, self.target)
        self.assertEqual(copied.copied, {"task": 2})
        record = self.target.get("a")
        self.assertEqual((record.state, record.losses, record.attempt), (State.WAITING, 1, 1))
        [*_, event] = self.target.events("a", 0, 10)
        self.assertEqual((event.event, event.seq), ("lost", last_seq(1)))
        other = MemoryStore()
        copied = run(self.source, other, once={"f"})
        self.assertEqual(copied.failed, [NotCopied("task", "a", copied.failed[0].reason)])
        self.assertIsNone(other.get("a"))
        self.assertEqual(other.get("b").state, State.WAITING)

    def test_a_batch_whose_token_is_taken_is_left_with_its_tasks(self):
        task = New("", "f", batch="b", owner="ann")
        parts = [Rows(["b1"], [b"[1]"]), Rows(["b2"], [b"[2]"])]
        for store, name in ((self.source, "b"), (self.target, "c")):
            store.batches.add(NewBatch(name, task, parts, "token", keep=9.0), NOW)
        self.source.batches.unpack("b", NOW)
        copied = run(self.source, self.target)
        self.assertEqual([(each.kind, each.id) for each in copied.failed], [("batch", "b"), ("task", "b1")])
        self.assertIsNone(self.target.get("b1"))

    def test_keys_and_tokens_of_others_are_respected_in_every_store(self):
        submit(self.source, New("a", "f", key="k"), New("b", "f", token="t"), New("c", "g", key="k"))
        file = SqliteStore(self.mktemp())
        self.addCleanup(file.close)
        for target in (self.target, file):
            submit(target, New("x", "f", key="k"), New("y", "f", token="t"))
            copied = run(self.source, target)
            self.assertEqual([each.id for each in copied.failed], ["a", "b"])
            self.assertEqual(copied.copied, {"task": 1})

    def test_the_later_tick_of_a_schedule_stays(self):
        for store, at in ((self.source, 5.0), (self.target, 7.0)):
            store.write(Changes(ticks=[Tick("s", "line", at)]), NOW)
        self.assertEqual(run(self.source, self.target).known, {"schedule": 1})
        self.assertEqual(run(self.target, self.source).copied, {"schedule": 1})
        self.assertEqual(self.source.last_ticks(), {"s": LastTick("line", 7.0)})
        self.target.write(Changes(ticks=[Tick("s", "other", 8.0)]), NOW)
        self.assertEqual(run(self.target, self.source).known, {"schedule": 1})

    def test_pages_end_with_what_reaches_their_bytes(self):
        submit(self.source, *(New(f"{n}", "f", b"[1]") for n in range(5)))
        with mock.patch.object(copying, "PAGE_BYTES", 4):
            found = [len(page) for page in pages(self.source.copies, whole=False)]
        self.assertEqual(found, [0, 2, 2, 1])

    def test_a_copy_that_is_broken_off_goes_on_where_it_was(self):
        submit(self.source, *(New(f"{n}", "f", b"[1]", key=f"{n}", token=f"{n}") for n in range(5)))
        file = SqliteStore(self.mktemp())
        self.addCleanup(file.close)
        with mock.patch.object(copying, "PAGE_BYTES", 4):
            first = Copying(file.copies, NOW)
            given = pages(self.source.copies, whole=False)
            self.assertRaises(
                KeyboardInterrupt, first.run, given, mock.Mock(side_effect=[0, 0, KeyboardInterrupt])
            )
            second = run(self.source, file)
        self.assertEqual((first.copied, second.known, second.copied), ({"task": 4}, {"task": 4}, {"task": 1}))
        self.assertEqual(second.failed, [])
        self.assertEqual(file.find(Filter(), "", 10), self.source.find(Filter(), "", 10))

    def test_of_equal_entries_as_many_are_known_as_there_are(self):
        entry = AuditEntry(1.0, "", "operate", "pause", number=4)
        self.assertEqual(missing([entry, entry], [AuditEntry(1.0, "", "operate", "pause")]), [False, True])


class LinesTests(SynchronousTestCase):
    def test_a_line_is_one_line_whatever_the_arguments(self):
        store, file = MemoryStore(), BytesIO()
        submit(store, New("a", "f", b'{"x":\r\n"\\n\xff"}'))
        Copying(LinesTarget(file), NOW).run(pages(store.copies, whole=False))
        [line] = file.getvalue().splitlines()
        [[task]] = read_lines([line], "file")
        self.assertEqual(task.record.new.args, b'{"x":  "\\n\xff"}')

    def test_no_arguments_and_no_outcome_are_not_null(self):
        submit(store := MemoryStore(), New("a", "f"), New("b", "f", b"null"))
        found = list(store.copies.tasks("", whole=True))
        [read] = read_lines(map(line_of, found), "file")
        self.assertEqual(read, found)

    def test_a_line_that_cannot_be_read_is_named_by_its_number(self):
        tick = CopiedTick("s", LastTick("line", 1.0))
        log = [Event("a", 1, "queued", 1.0)]
        submit(store := MemoryStore(), New("a", "f"))
        task = line_of(CopiedTask(store.get("a"), log))
        for wrong in (
            b"",
            b'{"kind":"other"}',
            task.replace(b'"waiting"', b'"elsewhere"'),
            task.replace(b'"waiting"', b'"failed"'),
            line_of(CopiedTask(store.get("a"), [])),
        ):
            error = self.assertRaises(StoreError, list, read_lines([line_of(tick), wrong], "some.lines"))
            self.assertIn("some.lines, line 2: ", str(error))
