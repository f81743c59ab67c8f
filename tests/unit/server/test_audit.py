"""Tests of the audit log."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.model import Grant
from taskd.server.audit import Audit
from taskd.store.audit import AuditEntry


class AuditTests(SynchronousTestCase):
    def test_an_entry_has_who_did_what_and_when(self):
        audit = Audit(Clock(), lambda: 17.0)
        audit.note(Grant("alice"), "cancel", task="abc")
        self.assertEqual(list(audit.unwritten), [AuditEntry(17.0, "alice", "submit", "cancel", None, "abc")])
