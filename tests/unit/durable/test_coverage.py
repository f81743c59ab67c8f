"""The stored tasks that a token covers: put back, following a batch, of a paused function."""

import msgspec
from msgspec import Raw

from taskd.errors import Busy, NotAllowed
from taskd.functions.descriptions import ParameterInfo
from taskd.server.fixed_arguments import check_fixed
from tests.unit.durable.test_owners import ANN, OPERATOR, OwnerCase
from tests.unit.durable.test_vault import TEXT, VaultCase
from tests.unit.pools import function

COUNTED = {
    name: ParameterInfo([], required=True) for name in ("batch", "done", "failed", "cancelled", "total")
}
TENANT = {"tenant": ParameterInfo([], required=True), "n": ParameterInfo([])}

ONLY_G = {**ANN, "functions": ["g"]}
NARROW_OPERATOR = {**OPERATOR, "functions": ["g"]}
SEVEN = {**ANN, "args": {"tenant": 7}}


def taking(name, *parameters):
    together = {key: each for some in parameters for key, each in some.items()}
    return msgspec.structs.replace(function(name), parameters=together)


class CoverageCase(OwnerCase):
    def load(self):
        self.pool.load(
            function("g"),
            function("other"),
            taking("tenants", TENANT),
            taking("ends", COUNTED),
            taking("ends_for", COUNTED, TENANT),
            taking("ends_any", {"more": ParameterInfo([], passed="more_names")}),
        )
        self.turn()
        self.pool.ready()
        self.turns()

    def make_fail(self, grant=ANN, function="g", args=()):
        """Submit a task that fails; return its id."""
        answer = self.by(grant, "submit", function=function, args=args)
        [number] = [number for number, worker in self.pool.workers.items() if worker.attempts]
        self.pool.fail(number)
        self.turns()
        return answer["task"]

    def end(self):
        """Let what runs end; return its arguments."""
        [number] = [number for number, worker in self.pool.workers.items() if worker.attempts]
        [attempt] = self.pool.workers[number].attempts
        args = bytes(attempt.args)
        self.pool.finish(number)
        self.turns()
        return msgspec.json.decode(args)

    def runs(self):
        return any(worker.attempts for worker in self.pool.workers.values())

    def assert_fixed(self, answer, argument="tenant"):
        self.assertEqual(
            (answer["code"], answer["data"]), (-32008, {"reason": "argument", "argument": argument})
        )


class RetryTests(CoverageCase):
    def test_a_task_of_a_function_that_is_not_covered_is_not_put_back(self):
        task = self.make_fail(function="other")
        for grant in ONLY_G, NARROW_OPERATOR, {**ANN, "functions": []}:
            answer = self.by(grant, "retry", task)
            self.assert_refused(answer, "function")
            self.assertIn("does not cover the function other", answer["message"])
        self.assertFalse(self.runs())
        self.assertEqual(self.by(ANN, "retry", task), {"was": "failed"})
        self.assertTrue(self.runs())

    def test_a_task_that_is_covered_is_put_back(self):
        for grant in ONLY_G, NARROW_OPERATOR, OPERATOR:
            self.assertEqual(self.by(grant, "retry", self.make_fail()), {"was": "failed"})
            self.end()

    def test_whose_task_it_is_comes_before_what_is_covered(self):
        task = self.make_fail(function="other")
        self.assert_refused(self.by({"owner": "bob", "functions": ["g"]}, "retry", task), "owner")

    def test_a_token_that_fixes_arguments_puts_back_only_what_has_them(self):
        for args in {"tenant": 8}, {"tenant": "7"}, {"tenant": 7.0}, {"tenant": True}, {"tenant": None}, [7]:
            task = self.make_fail(function="tenants", args=args)
            for grant in SEVEN, {**OPERATOR, "args": {"tenant": 7}}:
                self.assert_fixed(self.by(grant, "retry", task))
        self.assertFalse(self.runs())
        task = self.make_fail(SEVEN, "tenants", {"n": 1})
        self.assertEqual(self.by(SEVEN, "retry", task), {"was": "failed"})
        self.assertEqual(self.end(), {"n": 1, "tenant": 7})

    def test_a_function_that_does_not_take_what_is_fixed_is_put_back_with_any_arguments(self):
        task = self.make_fail(function="g", args=[])
        self.assertEqual(self.by(SEVEN, "retry", task), {"was": "failed"})

    def test_a_task_that_others_have_submitted_for_the_owner_is_held_to_the_same(self):
        answer = self.by(OPERATOR, "submit", function="tenants", args={"tenant": 8}, options={"owner": "ann"})
        self.pool.fail(1)
        self.turns()
        self.assert_fixed(self.by(SEVEN, "retry", answer["task"]))

    def test_a_function_that_is_gone_may_come_back_and_take_what_is_fixed(self):
        task = self.make_fail(function="g", args=[])
        self.pool.load(function("other"))
        self.turns()
        self.assert_fixed(self.by(SEVEN, "retry", task))

    def test_unknown_ids_are_answered_as_ever(self):
        for grant in SEVEN, ONLY_G, NARROW_OPERATOR:
            self.assertIn("there is no task", self.by(grant, "retry", "x")["message"])


class FixedTests(OwnerCase):
    def check(self, args, fixed=b"7", functions=None):
        known = {"tenants": taking("tenants", TENANT)} if functions is None else functions
        check_fixed("tenants", args, {"tenant": Raw(fixed)}, lambda: known)

    def test_the_same_value_in_another_text_is_the_same(self):
        for stored, fixed in (
            (b'{"tenant":7}', b"7"),
            (b'{"tenant": "a\\u0062" , "n": 1}', b'"ab"'),
            (b'{"tenant":{"b":[1, 2],"a":null}}', b'{"a":null,"b":[1,2]}'),
            (b'{"tenant":8,"tenant":7}', b"7"),
        ):
            self.check(stored, fixed)

    def test_other_values_are_not(self):
        for stored, fixed in (
            (b'{"tenant":7,"tenant":8}', b"7"),
            (b'{"tenant":1}', b"true"),
            (b'{"tenant":0}', b"false"),
            (b'{"tenant":[2,1]}', b"[1,2]"),
            (b'{"tenant":1e999}', b"7"),
            (b'{"n":7}', b"7"),
            (b"[]", b"7"),
            (b"[7]", b"7"),
            (b"7", b"7"),
            (b"", b"7"),
            (None, b"7"),
        ):
            error = self.assertRaises(NotAllowed, self.check, stored, fixed)
            self.assertEqual(error.data, {"reason": "argument", "argument": "tenant"})
            self.assertNotIn(fixed.decode(), error.message.replace("tenant", ""))

    def test_a_check_before_the_import_is_put_off(self):
        self.assertRaises(Busy, self.check, b'{"tenant":7}', functions={})


class FollowerTests(CoverageCase):
    def batch(self, grant, then, rows=({},), function="g"):
        args = list(rows)
        answer = self.by(grant, "submit_batch", function=function, args=args, then=then)
        for _ in range(len(args) + 4):
            self.turns()
        return answer

    def counts(self, batch, **more):
        return {"batch": batch, "done": 1, "failed": 0, "cancelled": 0, "total": 1, **more}

    def test_a_function_that_follows_must_be_covered(self):
        self.assert_refused(self.batch(ONLY_G, "ends"), "function")
        self.assert_refused(self.batch(NARROW_OPERATOR, "ends"), "function")
        self.assert_refused(self.batch({**ANN, "functions": ["ends"]}, "ends"), "function")
        self.assertEqual(self.by(ANN, "list"), [])
        self.assertIn("batch", self.batch({**ANN, "functions": ["g", "e*"]}, "ends"))

    def test_a_function_that_follows_gets_the_fixed_arguments_beside_the_counts(self):
        for then in "ends_for", "ends_any":
            batch = self.batch(SEVEN, then)["batch"]
            self.end()
            self.assertEqual(self.end(), self.counts(batch, tenant=7))
        shown = self.by(ANN, "get", task=self.by(ANN, "get", batch=batch)["then"]["task"], with_args=True)
        self.assertEqual(shown["args"], self.counts(batch, tenant=7))

    def test_a_function_that_does_not_take_them_gets_the_counts_alone(self):
        batch = self.batch(SEVEN, "ends")["batch"]
        self.end()
        self.assertEqual(self.end(), self.counts(batch))

    def test_without_a_token_that_fixes_them_they_are_missing(self):
        error = self.batch(ANN, "ends_for")
        self.assertEqual(error["code"], -32602)
        self.assertIn(
            "then: ends_for is called with the counts of a batch: argument 'tenant' is missing",
            error["message"],
        )

    def test_counts_are_not_fixed(self):
        answer = self.batch({**ANN, "args": {"total": 100}}, "ends")
        self.assert_fixed(answer, "total")
        self.assertIn("is called with the counts of a batch", answer["message"])

    def test_an_operator_who_submits_for_others_is_held_to_its_own_token(self):
        operator = {**OPERATOR, "args": {"tenant": 7}}
        answer = self.by(
            operator, "submit_batch", function="g", args=[{}], then="ends_for", options={"owner": "ann"}
        )
        self.turns()
        self.end()
        self.assertEqual(self.end(), self.counts(answer["batch"], tenant=7))
        self.assertEqual(self.by(ANN, "get", batch=answer["batch"])["done"], 1)


class SealedFollowerTests(VaultCase):
    def setUp(self):
        super().setUp()
        secret = {"tenant": ParameterInfo(TEXT, required=True, secret=True)}
        counted = {**COUNTED, "total": ParameterInfo([], required=True, secret=True)}
        self.load(function("g"), taking("ends_for", COUNTED, secret), taking("ends_odd", counted, secret))

    def submit(self, then):
        client = self.connect()
        grant = {"owner": "ann", "args": {"tenant": "hunter2"}}
        params = {"function": "g", "args": [{}], "then": then}
        client.call("taskd.submit_batch", params=params, grant=grant)
        self.turns()
        self.turns()
        return client.reply()

    def test_a_fixed_secret_is_sealed_until_it_is_run(self):
        batch = self.submit("ends_for")["batch"]
        self.finish()
        record = self.store.get(self.store.batches.get(batch).then.id)
        self.assertNotIn(b"hunter2", msgspec.msgpack.encode([record, self.store.batches.get(batch)]))
        [attempt] = [each for worker in self.pool.workers.values() for each in worker.attempts]
        args = msgspec.json.decode(bytes(attempt.args))
        self.assertEqual((args["tenant"], args["batch"], args["total"]), ("hunter2", batch, 1))

    def test_a_task_with_a_fixed_secret_is_put_back_by_whoever_has_it(self):
        task = self.store.batches.get(self.submit("ends_for")["batch"]).then.id
        self.finish()
        [number] = [number for number, worker in self.pool.workers.items() if worker.attempts]
        self.pool.fail(number)
        self.turns()
        for tenant, expected in (("hunter3", -32008), ("hunter2", None)):
            client = self.connect()
            client.call("taskd.retry", params=[task], grant={"owner": "ann", "args": {"tenant": tenant}})
            self.turns()
            answer = client.reply()
            self.assertEqual(answer.get("code"), expected)
            self.assertNotIn("hunter", str(answer))

    def test_a_count_that_is_taken_as_a_secret_is_refused(self):
        error = self.submit("ends_odd")
        self.assertEqual(error["data"], {"argument": "then"})
        self.assertIn("takes a count of a batch as a secret argument", error["message"])


class PauseTests(CoverageCase):
    def test_an_operator_pauses_and_resumes_what_its_token_covers(self):
        for method in "pause", "resume":
            self.assert_refused(self.by(NARROW_OPERATOR, method, "other"), "function")
            self.assert_refused(self.by(NARROW_OPERATOR, method, "nothing"), "function")
            self.assertIn("was", self.by(NARROW_OPERATOR, method, "g"))
            self.assertIn("was", self.by(OPERATOR, method, "other"))


class SubmitTests(CoverageCase):
    def test_submits_that_a_gateway_passes_on_are_held_to_the_functions(self):
        for grant in ONLY_G, NARROW_OPERATOR:
            self.assert_refused(self.submit(grant, "other"), "function")
            self.assert_refused(self.submit(grant, "nothing"), "function")
            self.assertIn("task", self.submit(grant, "g"))

    def test_tracked_calls_are_held_to_them_too(self):
        client = self.connect()
        client.call("other", grant=ONLY_G, track=True)
        self.assertEqual(client.reply()["data"], {"reason": "function"})
