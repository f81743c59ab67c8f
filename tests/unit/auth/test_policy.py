"""Tests of what each method needs."""

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.policy import NEEDS, check_function, check_role, check_urgent
from taskd.errors import NotAllowed
from taskd.model import ANONYMOUS, OPERATOR, Grant
from taskd.protocol.methods import method_parameters


def may(grant: Grant, method: str) -> bool:
    try:
        check_role(grant, f"taskd.{method}")
    except NotAllowed as error:
        return error.data != {"reason": "role"}
    return True


class PolicyTests(SynchronousTestCase):
    def test_every_method_of_a_server_has_its_needs(self):
        for method in ("status", "submit", "cancel", "pause", "get", "list"):
            self.assertIn(method, NEEDS)
            method_parameters(f"taskd.{method}")

    def test_an_operator_may_use_every_method(self):
        self.assertTrue(all(may(OPERATOR, method) for method in NEEDS))

    def test_a_token_that_watches_neither_submits_nor_cancels(self):
        watcher = Grant("alice", "watch")
        self.assertTrue(may(watcher, "get"))
        for method in "submit", "submit_batch", "cancel", "retry", "status", "pause":
            self.assertFalse(may(watcher, method), method)

    def test_anonymous_callers_see_the_status_but_pause_nothing(self):
        self.assertTrue(may(ANONYMOUS, "status"))
        self.assertFalse(may(Grant("alice"), "status"))
        self.assertFalse(may(ANONYMOUS, "pause"))

    def test_unknown_methods_are_left_to_whoever_knows_them(self):
        self.assertTrue(may(ANONYMOUS, "nothing"))


class FunctionTests(SynchronousTestCase):
    def reason(self, grant: Grant, function: str) -> str:
        reason: str = self.assertRaises(NotAllowed, check_function, grant, function).data["reason"]
        return reason

    def test_a_grant_without_patterns_covers_every_function(self):
        for grant in ANONYMOUS, OPERATOR, Grant("alice"):
            check_function(grant, "anything")
            self.assertFalse(grant.is_narrow)

    def test_patterns_cover_what_they_match_and_no_patterns_nothing(self):
        grant = Grant("alice", functions=("f", "mail.*"))
        self.assertTrue(grant.is_narrow)
        check_function(grant, "f")
        check_function(grant, "mail.send")
        for name in "g", "F", "mail", "xf", "f\n":
            self.assertEqual(self.reason(grant, name), "function")
        self.assertEqual(self.reason(Grant("alice", functions=()), "f"), "function")

    def test_operators_are_held_to_their_functions_and_watchers_have_none_run(self):
        self.assertEqual(self.reason(Grant("root", "operate", functions=("f",)), "g"), "function")
        self.assertEqual(self.reason(Grant("alice", "watch"), "f"), "role")

    def test_a_grant_goes_over_the_wire_and_one_without_functions_covers_all(self):
        for functions in None, (), ("f", "mail.*"):
            grant = Grant("alice", functions=functions)
            self.assertEqual(msgspec.json.decode(msgspec.json.encode(grant), type=Grant), grant)
        self.assertTrue(msgspec.json.decode(b'{"owner":"alice"}', type=Grant).covers("f"))
        self.assertNotIn(b"functions", msgspec.json.encode(Grant("alice")))


class GrantTests(SynchronousTestCase):
    def test_an_owner_sees_its_own_tasks_and_an_operator_everybodys(self):
        self.assertTrue(Grant("alice").sees("alice"))
        self.assertFalse(Grant("alice").sees("bob"))
        self.assertFalse(Grant("alice").sees(""))
        self.assertTrue(OPERATOR.sees("alice"))
        self.assertFalse(ANONYMOUS.sees("alice"))
        self.assertTrue(ANONYMOUS.sees(""))

    def test_a_token_that_only_watches_changes_no_task(self):
        self.assertFalse(Grant("alice", "watch").changes("alice"))
        self.assertTrue(Grant("alice").changes("alice"))
        self.assertFalse(Grant("alice").changes("bob"))


class UrgencyTests(SynchronousTestCase):
    def test_only_an_operator_overtakes_everybody(self):
        check_urgent(OPERATOR)
        error = self.assertRaises(NotAllowed, check_urgent, Grant("alice"))
        self.assertEqual(error.data, {"reason": "role"})
