"""Whose stored task may be seen, changed and joined by whom."""

import msgspec
from twisted.internet.defer import Deferred, fail

from taskd.functions.descriptions import ParameterInfo
from taskd.functions.durability import Durability
from taskd.functions.kinds import Kind
from taskd.store.base import StoreError
from tests.unit.durable import test_methods
from tests.unit.durable.test_methods import StoredCase, durable
from tests.unit.pools import function

ANY = ParameterInfo([Kind("integer"), Kind("string")], passed="more_names")

ANN = {"owner": "ann"}
BOB = {"owner": "bob"}
WATCHER = {"owner": "ann", "role": "watch"}
OPERATOR = {"owner": "root", "role": "operate"}
NOBODY: dict[str, str] = {}
"""A caller that has no token, where none are asked for."""


class OwnerCase(StoredCase):
    def setUp(self):
        super().setUp()
        self.make(least=1)
        self.load()

    def by(self, grant, method, *params, **named):
        """Call a method for whoever has a grant, as a gateway does; return its answer."""
        client = self.connect()
        client.call(f"taskd.{method}", params=named or list(params), grant=grant)
        self.turns()
        return client.reply()

    def submit(self, grant, function="g", args=(), token=None, **options):
        return self.by(grant, "submit", function=function, args=list(args), options=options, token=token)

    def submit_batch(self, grant, rows=2, token=None, **options):
        args = [[row] for row in range(rows)]
        return self.by(grant, "submit_batch", function="g", args=args, options=options, token=token)

    def listed(self, grant, **wanted):
        return [each["task"] for each in self.by(grant, "list", **(wanted or {"limit": 100}))]

    def assert_refused(self, answer, reason="owner"):
        self.assertEqual((answer["code"], answer["data"]), (-32008, {"reason": reason}), answer)


class OwnTaskTests(OwnerCase):
    def test_a_task_belongs_to_whoever_has_submitted_it(self):
        task = self.submit(ANN)["task"]
        self.assertEqual(self.by(ANN, "get", task)["owner"], "ann")
        self.assertEqual(self.by(OPERATOR, "get", task)["owner"], "ann")
        nobodys = self.submit(NOBODY)["task"]
        self.assertNotIn("owner", self.by(NOBODY, "get", nobodys))

    def test_calls_that_are_stored_have_owners_too(self):
        for name, options in ("f", {}), ("g", {"track": True}):
            self.connect().call(name, grant=ANN, **options)
            self.turns()
        self.assertEqual([each["owner"] for each in self.by(ANN, "list")], ["ann", "ann"])

    def test_a_call_that_came_before_the_import_and_whose_caller_is_gone_has_its_owner(self):
        self.make()
        client = self.connect()
        client.call("f", grant=ANN)
        client.disconnect()
        self.load()
        self.assertEqual([each["owner"] for each in self.by(OPERATOR, "list")], ["ann"])

    def test_a_task_is_seen_and_changed_by_its_owner_and_operators_alone(self):
        task = self.submit(ANN, delay=60)["task"]
        for method, params in (
            ("get", {"task": task}),
            ("wait", {"task": task, "timeout": 5}),
            ("why", {"task": task}),
            ("attach", {"task": task}),
            ("events", {"task": task}),
            ("cancel", {"task": task}),
            ("retry", {"task": task}),
        ):
            self.assert_refused(self.by(BOB, method, **params))
            self.assert_refused(self.by(NOBODY, method, **params))
        self.assertEqual(self.by(OPERATOR, "get", task)["state"], "scheduled")
        self.assertEqual(self.by(OPERATOR, "cancel", task=task), {"was": "scheduled"})

    def test_a_claimed_task_is_cancelled_by_its_owner_alone(self):
        self.submit(BOB)
        task = self.submit(ANN)["task"]
        self.assert_refused(self.by(BOB, "cancel", task=task))
        self.assertEqual(self.by(ANN, "cancel", task=task), {"was": "waiting"})

    def test_a_wait_that_is_refused_is_answered_once(self):
        task = self.submit(ANN, delay=60)["task"]
        clients = [self.connect() for _ in range(2)]
        clients[0].call("taskd.wait", params=[task, 5], grant=BOB)
        clients[1].call("taskd.wait", params=["unknown", 5], grant=BOB)
        self.turns()
        self.turns(6.0)
        self.assertEqual([client.reply()["code"] for client in clients], [-32008, -32602])

    def waits_while_the_store_is_read_slowly(self, client, *waits, at_last=None):
        """Send waits, let their time pass, and have the store answer only then."""
        execute, readings = self.tasks.get, []
        batches = self.tasks.batches.get

        def slowly(read):
            def reading(*args):
                answer = Deferred()
                readings.append(lambda: (at_last or read)(*args).chainDeferred(answer))
                return answer

            return reading

        self.patch(self.tasks, "get", slowly(execute))
        self.patch(self.tasks.batches, "get", slowly(batches))
        for named in waits:
            client.call("taskd.wait", params=named, grant=BOB)
        self.turns()
        self.turns(1.0)
        while readings:
            readings.pop(0)()
        self.turns()

    def test_a_wait_whose_time_is_over_before_it_is_refused_is_answered_once(self):
        task = self.submit(ANN, delay=60)["task"]
        batch = self.submit_batch(ANN, delay=60)["batch"]
        client = self.connect()
        self.waits_while_the_store_is_read_slowly(
            client,
            {"task": task, "timeout": 0.5},
            {"task": "unknown", "timeout": 0.5},
            {"batch": batch, "timeout": 0.5},
            {"batch": "unknown", "timeout": 0.5},
        )
        codes = [reply["error"]["code"] for reply in client.received()]
        self.assertEqual(sorted(codes), [-32602, -32602, -32008, -32008])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_wait_whose_time_is_over_before_the_store_fails_is_answered_once(self):
        client = self.connect()
        self.waits_while_the_store_is_read_slowly(
            client,
            {"task": "any", "timeout": 0.5},
            {"batch": "any", "timeout": 5},
            at_last=lambda _: fail(StoreError("the disk is gone")),
        )
        self.turns(5.0)
        self.assertEqual(len(client.received()), 2)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_wait_whose_time_is_over_before_it_is_allowed_is_answered_once(self):
        task = self.submit(BOB, delay=60)["task"]
        batch = self.submit_batch(BOB, delay=60)["batch"]
        client = self.connect()
        self.waits_while_the_store_is_read_slowly(
            client, {"task": task, "timeout": 0.5}, {"batch": batch, "timeout": 0.5}
        )
        states = [reply["result"]["state"] for reply in client.received()]
        self.assertEqual(states, ["scheduled", "running"])

    def test_a_connection_whose_attach_is_refused_gets_no_events(self):
        task = self.submit(ANN, delay=60)["task"]
        client = self.connect()
        client.call("taskd.attach", params=[task], grant=BOB)
        self.turns()
        self.assert_refused(client.reply())
        self.by(ANN, "cancel", task=task)
        self.assertEqual(client.received(), [])
        self.assertEqual(self.tasks.hub.watched, 0)

    def test_whose_tasks_have_the_places_is_shown_to_operators_alone(self):
        limits = msgspec.structs.replace(function("h"), durable=Durability(concurrency=1))
        self.pool.load(limits)
        self.turns()
        first = self.submit(ANN, "h")["task"]
        second = self.submit(BOB, "h")["task"]
        shown = self.by(BOB, "why", second)
        self.assertEqual(shown["concurrency"]["running"], [])
        self.assertIn("tasks of others of h have the places", shown["reason"])
        self.assertEqual(self.by(OPERATOR, "why", second)["concurrency"]["running"], [first])

    def test_a_watcher_changes_nothing(self):
        task = self.submit(ANN)["task"]
        self.assertEqual(self.by(WATCHER, "get", task)["task"], task)
        for method in "cancel", "retry":
            self.assert_refused(self.by(WATCHER, method, task=task), "role")

    def test_an_owner_puts_back_what_has_failed(self):
        task = self.submit(ANN, deadline=1)
        self.by(ANN, "pause", "g")
        answer = self.by(ANN, "retry", task["task"])
        self.assertIn("is running", answer["message"])

    def test_arguments_are_shown_to_the_owner_and_to_operators(self):
        task = self.submit(ANN, args=["mine"])["task"]
        for grant in ANN, OPERATOR:
            self.assertEqual(self.by(grant, "get", task=task, with_args=True)["args"], ["mine"])
        self.assert_refused(self.by(BOB, "get", task=task, with_args=True))
        nobodys = self.submit(NOBODY)["task"]
        error = self.by(NOBODY, "get", task=nobodys, with_args=True)
        self.assert_refused(error)
        self.assertIn("shown to its owner", error["message"])

    def test_an_operator_submits_for_others(self):
        task = self.submit(OPERATOR, owner="ann")["task"]
        self.assertEqual(self.by(ANN, "get", task)["owner"], "ann")
        self.assertEqual(self.submit(ANN, owner="ann")["joined"], False)
        for refused in (
            self.submit(BOB, owner="ann"),
            self.submit_batch(BOB, owner="ann"),
            self.submit(NOBODY, owner="ann"),
        ):
            self.assert_refused(refused)


class ListTests(OwnerCase):
    def setUp(self):
        super().setUp()
        self.anns = [self.submit(ANN, delay=60)["task"] for _ in range(3)]
        self.bobs = self.submit(BOB, delay=60)["task"]
        self.nobodys = self.submit(NOBODY, delay=60)["task"]

    def test_everybody_finds_their_own_and_operators_all(self):
        self.assertEqual(self.listed(ANN), self.anns)
        self.assertEqual(self.listed(BOB, owner="bob"), [self.bobs])
        self.assertEqual(self.listed(NOBODY), [self.nobodys])
        self.assertEqual(self.listed(OPERATOR), [*self.anns, self.bobs, self.nobodys])
        self.assertEqual(self.listed(OPERATOR, owner="bob"), [self.bobs])
        self.assertEqual(self.listed(OPERATOR, owner=""), [self.nobodys])
        self.assert_refused(self.by(BOB, "list", owner="ann"))

    def test_the_newest_come_first_if_that_is_wanted(self):
        newest = self.listed(ANN, newest=True, limit=2)
        self.assertEqual(newest, self.anns[:0:-1])
        self.assertEqual(self.listed(ANN, newest=True, before=newest[-1]), self.anns[:1])

    def test_tasks_are_found_by_a_text_in_their_error(self):
        self.submit(BOB)
        late = self.submit(ANN, deadline=1)["task"]
        self.submit(ANN, deadline=1, delay=30)
        self.by(ANN, "cancel", task=self.anns[0])
        self.turns(2.0)
        [failed] = self.by(ANN, "list", state="expired")
        self.assertEqual(failed["task"], late)
        text = failed["error"]["message"][3:12]
        self.assertEqual(self.listed(ANN, error=text), [late])
        self.assertEqual(self.listed(ANN, error=text + '"'), [])
        self.assertEqual(self.listed(BOB, error=text), [])
        self.assertEqual(self.by(ANN, "list", error="")["code"], -32602)


class BatchTests(OwnerCase):
    def test_a_batch_and_its_tasks_belong_to_its_owner(self):
        answer = self.submit_batch(ANN, delay=60)
        batch = answer["batch"]
        self.assertEqual(self.listed(ANN, batch=batch), answer["tasks"])
        for method, params in (
            ("get", {"batch": batch}),
            ("wait", {"batch": batch, "timeout": 5}),
            ("attach", {"batch": batch}),
            ("events", {"batch": batch}),
            ("cancel", {"task": batch}),
            ("get", {"task": answer["tasks"][0]}),
        ):
            self.assert_refused(self.by(BOB, method, **params))
        self.assertIn("there is no task", self.by(BOB, "get", task=batch)["message"])
        self.assertIn("is a batch, not a task", self.by(ANN, "get", task=batch)["message"])
        self.assertEqual(self.by(ANN, "cancel", task=batch), {"was": "running"})
        self.assertEqual(self.by(OPERATOR, "get", batch=batch)["state"], "cancelled")

    def test_batches_are_listed_for_their_owner(self):
        batch = self.submit_batch(ANN)["batch"]
        for grant, expected in (ANN, [batch]), (BOB, []), (OPERATOR, [batch]):
            found = [each["batch"] for each in self.by(grant, "list", batches=True)]
            self.assertEqual(found, expected)

    def test_the_task_that_follows_a_batch_has_its_owner(self):
        self.pool.load(msgspec.structs.replace(durable("f"), parameters={"more": ANY}), function("g"))
        self.by(ANN, "submit_batch", function="g", args=[], then="f")
        self.turns()
        self.assertEqual([each["owner"] for each in self.by(ANN, "list")], ["ann"])


class LimitTests(OwnerCase):
    def assert_busy(self, answer, text):
        self.assertEqual(answer["code"], -32004, answer)
        self.assertIn(text, answer["message"])
        self.assertEqual(answer["data"], {"retry_after": 1.0})

    def test_no_more_stored_tasks_wait_than_may(self):
        two = {**ANN, "waiting": 2}
        first = self.submit(two, delay=60)
        self.submit(two, delay=60, key="k")
        self.assert_busy(self.submit(two), "2 tasks of ann are waiting, with 4 bytes")
        self.assertEqual(self.submit(two, delay=60, key="k")["joined"], True)
        self.assertEqual(self.submit(BOB, delay=60)["joined"], False)
        self.by(two, "cancel", task=first["task"])
        self.submit(two)
        self.assertEqual(len(self.by(ANN, "list", state="scheduled")), 1)

    def test_the_tasks_of_a_batch_wait_all_together(self):
        three = {**ANN, "waiting": 3}
        self.submit_batch(three, rows=2, delay=60)
        self.assert_busy(self.submit_batch(three, rows=2), "there is no room for what was asked for")
        self.submit_batch(three, rows=1, delay=60)
        error = self.submit_batch(three, rows=4)
        self.assertEqual((error["code"], error["data"]["limit"]), (-32602, 3))

    def test_no_more_bytes_wait_than_may(self):
        ten = {**ANN, "bytes": 10}
        self.submit(ten, args=["1234"], delay=60)
        self.assert_busy(self.submit(ten, args=[123]), "of 10 bytes that may")
        self.assertEqual(self.submit(ten, args=["123456789"])["code"], -32602)
        both = {**ten, "waiting": 1}
        self.assert_busy(self.submit(both), "of 1 tasks with 10 bytes that may")

    def test_calls_of_durable_functions_are_limited_too(self):
        one = {**ANN, "waiting": 1}
        self.submit(one, delay=60)
        client = self.connect()
        client.call("f", grant=one)
        self.turns()
        self.assert_busy(client.reply(), "1 tasks of ann are waiting")

    def test_no_more_stored_tasks_run_than_may_and_a_new_start_knows_that(self):
        self.make(least=3)
        self.load()
        one = {**ANN, "running": 1}
        tasks = [self.submit(one)["task"] for _ in range(2)]
        self.assertEqual([self.by(ANN, "get", task)["state"] for task in tasks], ["running", "waiting"])
        self.assertIn("1 tasks of ann are running, as many as may", self.by(ANN, "why", tasks[1])["reason"])
        store = self.store
        self.patch(test_methods, "MemoryStore", lambda: store)
        self.make(least=3)
        self.load()
        self.assertEqual(sorted(self.by(ANN, "get", task)["state"] for task in tasks), ["running", "waiting"])


class JoinTests(OwnerCase):
    def test_keys_and_tokens_join_no_task_of_another_owner(self):
        for option in {"key": "k"}, {"token": "t"}:
            first, again = (self.submit(ANN, delay=60, **option) for _ in range(2))
            self.assertEqual((again["task"], again["joined"]), (first["task"], True))
            for other in BOB, NOBODY:
                self.assertEqual(self.submit(other, delay=60, **option)["joined"], False)

    def test_tokens_join_no_batch_of_another_owner(self):
        first, again = (self.submit_batch(ANN, token="t") for _ in range(2))
        self.assertEqual((again["batch"], again["joined"]), (first["batch"], True))
        self.assertEqual(self.submit_batch(BOB, token="t")["joined"], False)
