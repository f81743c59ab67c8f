"""The bounds of the history and of the audit log in memory; what they answer, the suite of stores tests."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.store.audit import AuditEntry
from taskd.store.history import ALL, HOUR, MINUTE, Figures, HistoryRow
from taskd.store.memory_audit import MemoryAudit
from taskd.store.memory_history import MemoryHistory

NOON = 1_800_000_000


class BoundTests(SynchronousTestCase):
    def test_with_too_many_rows_the_oldest_of_the_period_with_most_go_first(self):
        history = MemoryHistory(max_rows=6)
        for number in range(5):
            at = NOON + 60 * number
            rows = [HistoryRow(MINUTE, at, name, Figures(1)) for name in (ALL, "f")]
            history.add([*rows, HistoryRow(HOUR, NOON, ALL, Figures(1))], at)
        minutes = [row.at - NOON for row in history.read(MINUTE, ALL, 0, 100)]
        self.assertEqual(minutes, [180, 240])
        self.assertEqual([row.figures.submitted for row in history.read(HOUR, ALL, 0, 100)], [5])

    def test_the_newest_entries_are_kept(self):
        audit = MemoryAudit(3)
        audit.add([AuditEntry(float(at), "ann", "submit", "cancel") for at in range(5)], 5.0)
        self.assertEqual([entry.number for entry in audit.read(None, 10)], [5, 4, 3])
