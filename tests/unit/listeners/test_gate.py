"""The gate on connections to a task server: which token does what, and the ways around it."""

import json

from msgspec import Raw

from taskd.auth.caller import Rate
from taskd.errors import Busy, NotAllowed
from taskd.functions.descriptions import ParameterInfo
from taskd.listeners.gate import ENDING_SECONDS, MESSAGE_WITHOUT_TOKEN, MOST_REFUSED, TOKEN_SECONDS
from taskd.listeners.rates import SWEEP, Rates
from tests.unit.pools import LoggingCase, function
from tests.unit.tokens import FakeVerifier, caller

NOT_ALLOWED, BUSY = -32008, -32004
SOON = 5_000.0
"""When the token of a test expires: the clock of the tests begins at 1000."""


def rpc(number, method, params=None, options=None):
    message = {"jsonrpc": "2.0", "method": method}
    if number is not None:
        message["id"] = number
    if params is not None:
        message["params"] = params
    if options is not None:
        message["options"] = options
    return message


class GateCase(LoggingCase):
    """A server whose connections need tokens: those of two owners, of one who watches, and of an operator."""

    def setUp(self):
        super().setUp()
        self.verifier = FakeVerifier(
            caller("alice", functions=("f", "report.*"), expires=SOON),
            caller("alice", expires=SOON + 100, name="alice again"),
            caller("bob"),
            caller("watcher", "watch"),
            caller("root", "operate"),
            caller("dora", args={"tenant": Raw(b"7"), "from": Raw(b'"x"')}),
            caller("rated", rate=Rate(3, 60.0)),
            caller("narrow", "operate", functions=("f",)),
            caller("fixed", "operate", args={"tenant": Raw(b"7")}),
        )
        self.make(functions=self.functions(), verifier=self.verifier)

    def functions(self):
        taken = {name: ParameterInfo([]) for name in ("tenant", "n")}
        any_name = {"more": ParameterInfo([], passed="more_names")}
        return [
            *(function("f"), function("g")),
            with_parameters("tenants", taken),
            with_parameters("any", any_name),
        ]

    def let_in(self, token):
        client = self.connect()
        client.call("taskd.auth", {"token": token})
        self.assertIn("owner", client.reply())
        return client

    def reason(self, client):
        error = client.reply()
        self.assertEqual(error["code"], NOT_ALLOWED, error)
        return error["data"]["reason"]

    def nothing_runs(self):
        return not any(worker.attempts for worker in self.pool.workers.values())

    def arguments(self):
        [attempt] = self.pool.workers[1].attempts
        arguments = json.loads(bytes(attempt.args))
        self.pool.finish(1)
        self.turn()
        return arguments


def with_parameters(name, parameters):
    described = function(name)
    return type(described)(described.name, described.signature, described.summary, parameters)


class TokenTests(GateCase):
    def test_nothing_is_answered_before_a_token_was_shown(self):
        client = self.connect()
        for method in ("f", "taskd.ping", "taskd.whoami", "taskd.status", "taskd.get", "nothing", "taskd.x"):
            client.call(method)
            self.assertEqual(self.reason(client), "no token", method)
        self.assertTrue(self.nothing_runs())

    def test_the_answer_to_a_token_says_what_it_is_good_for(self):
        client = self.connect()
        client.call("taskd.auth", {"token": "alice"})
        expected = {
            "owner": "alice",
            "role": "submit",
            "functions": ["f", "report.*"],
            "args": {},
            "expires": SOON,
            "limits": {},
            "anonymous": False,
        }
        self.assertEqual(client.reply(), expected)
        client.call("taskd.whoami")
        self.assertEqual(client.reply(), expected)
        rated = self.let_in("rated")
        rated.call("taskd.whoami")
        self.assertEqual(rated.reply()["limits"], {"rate": "3/min"})

    def test_a_call_sent_behind_a_token_in_one_piece_is_run(self):
        client = self.connect()
        client.send(rpc(1, "taskd.auth", ["alice"]), rpc(2, "f"))
        self.pool.finish(1)
        self.assertEqual([each["id"] for each in client.received() if "result" in each], [1, 2])

    def test_a_call_sent_before_a_token_in_one_piece_is_not_run(self):
        client = self.connect()
        client.send(rpc(1, "f"), rpc(2, "taskd.auth", ["alice"]))
        codes = {each["id"]: each.get("error", {}).get("code") for each in client.received()}
        self.assertEqual(codes, {1: NOT_ALLOWED, 2: None})
        self.assertTrue(self.nothing_runs())

    def test_calls_sent_behind_a_refused_token_are_not_run(self):
        client = self.connect()
        client.send(rpc(1, "taskd.auth", ["mallory"]), rpc(2, "f"), [rpc(3, "f"), rpc(None, "f")])
        reasons = {}
        for each in client.received():
            for reply in each if isinstance(each, list) else [each]:
                reasons[reply["id"]] = reply["error"]["data"]["reason"]
        self.assertEqual(reasons, {1: "unknown", 2: "no token", 3: "no token"})
        self.assertTrue(self.nothing_runs())
        self.assertTrue(self.has_logged("a token of "))
        self.assertFalse(self.has_logged("mallory"))

    def test_members_of_a_batch_and_notifications_need_a_token_too(self):
        client = self.connect()
        client.send([rpc(1, "f"), rpc(None, "f")], rpc(None, "f"), {"function": "f"})
        self.assertTrue(self.nothing_runs())
        self.assertEqual(self.server.unanswered.counts["not_allowed"], 2)

    def test_a_bare_request_and_a_notification_may_show_a_token(self):
        for message in (
            {"function": "taskd.auth", "args": ["bob"]},
            rpc(None, "taskd.auth", {"token": "bob"}),
        ):
            client = self.connect()
            client.send(message)
            client.received()
            client.call("g")
            self.assertEqual(len(self.pool.workers[1].attempts), 1)
            self.pool.finish(1)
            self.turn()

    def test_a_token_must_be_a_text(self):
        client = self.connect()
        for params in (None, {}, {"token": 7}, ["alice", "bob"], {"token": "alice", "owner": "bob"}):
            client.call("taskd.auth", params)
            self.assertEqual(client.reply()["code"], -32602)
        client.call("taskd.ping")
        self.assertEqual(self.reason(client), "no token")

    def test_a_connection_that_shows_no_token_in_time_is_closed(self):
        client, other = self.connect(), self.let_in("bob")
        client.call("taskd.ping")
        client.received()
        self.turn(TOKEN_SECONDS - 1)
        self.assertFalse(client.transport.disconnecting)
        self.turn(1)
        self.assertEqual(self.reason(client), "no token")
        self.assertTrue(client.transport.disconnecting)
        self.assertFalse(other.transport.disconnecting)

    def test_no_address_is_trusted_where_tokens_are_asked_for(self):
        client = self.connect("127.0.0.1")
        client.call("f", caller="192.0.2.1 x", grant={"role": "operate"})
        self.assertEqual(self.reason(client), "no token")

    def test_a_connection_that_is_gone_is_not_waited_for(self):
        client = self.connect()
        client.disconnect()
        self.turn(TOKEN_SECONDS)
        self.assertEqual(client.received(), [])


class RenewalTests(GateCase):
    def test_a_token_that_has_expired_covers_nothing_and_closes_its_connection(self):
        client = self.let_in("alice")
        self.clock.rightNow = SOON  # no timer has run
        client.protocol.dataReceived(b'{"jsonrpc":"2.0","id":9,"method":"f"}\n')
        self.assertEqual(self.reason(client), "expired")
        self.turn(0)
        self.assertEqual(self.reason(client), "expired")
        self.assertTrue(client.transport.disconnecting)
        self.assertTrue(self.nothing_runs())

    def test_a_new_token_of_the_same_owner_keeps_the_connection(self):
        client = self.let_in("alice")
        client.call("taskd.auth", {"token": "alice again"})
        self.assertEqual(client.reply()["expires"], SOON + 100)
        self.turn(SOON - self.clock.seconds())
        client.call("g")
        self.pool.finish(1)
        self.assertEqual(client.reply(), 1)
        self.turn(100)
        self.assertTrue(client.transport.disconnecting)

    def test_a_token_of_another_owner_is_refused_and_changes_nothing(self):
        client = self.let_in("alice")
        for token in "bob", "root":
            client.call("taskd.auth", {"token": token})
            self.assertEqual(self.reason(client), "owner")
        client.call("taskd.whoami")
        self.assertEqual(client.reply()["owner"], "alice")

    def test_a_refused_token_leaves_the_one_that_was_accepted(self):
        client = self.let_in("alice")
        client.call("taskd.auth", {"token": "mallory"})
        self.assertEqual(self.reason(client), "unknown")
        client.call("taskd.whoami")
        self.assertEqual(client.reply()["owner"], "alice")

    def test_a_request_from_before_the_expiry_of_its_token_is_answered_if_it_ends_soon(self):
        client, late = self.let_in("alice"), self.let_in("alice")
        client.call("f")
        late.call("f")
        self.turn(SOON - self.clock.seconds())
        self.pool.finish(1)
        self.turn(0)
        self.assertEqual([each.get("result") for each in client.received()], [None, 1])
        self.assertTrue(client.transport.disconnecting)
        self.assertFalse(late.transport.disconnecting)
        self.turn(ENDING_SECONDS)
        self.assertEqual({each["error"]["data"]["reason"] for each in late.received()}, {"expired"})
        self.assertTrue(late.transport.disconnecting)

    def test_a_connection_whose_token_is_revoked_gets_nothing_more(self):
        client, other = self.let_in("alice"), self.let_in("bob")
        client.call("f")
        del self.verifier.callers["alice"]
        self.gate.tokens_changed()
        self.turn(0)
        self.assertEqual({each["error"]["data"]["reason"] for each in client.received()}, {"unknown"})
        self.assertTrue(client.transport.disconnecting)
        self.assertFalse(other.transport.disconnecting)
        self.assertTrue(self.has_logged("the token alice was revoked: 1 connections closed"))


class StrangerTests(GateCase):
    """What connections may send that have shown no token."""

    TOO_LARGE = -32006

    def line(self, size, method="f"):
        """Return a request of so many bytes, LF included."""
        head, end = f'{{"jsonrpc":"2.0","id":9,"method":"{method}","params":["'.encode(), b'"]}\n'
        return head + b"x" * (size - len(head) - len(end)) + end

    def give(self, client, data):
        """Have the server read data, in pieces as large as those that come from a socket."""
        for at in range(0, len(data), 65536):
            client.protocol.dataReceived(data[at : at + 65536])
            self.turn()

    def test_a_message_as_long_as_one_may_be_without_a_token_is_answered(self):
        client = self.connect()
        self.give(client, self.line(MESSAGE_WITHOUT_TOKEN))
        self.assertEqual(self.reason(client), "no token")
        self.assertFalse(client.transport.disconnecting)

    def test_a_longer_one_is_refused_before_it_is_complete_and_closes_the_connection(self):
        for size in (MESSAGE_WITHOUT_TOKEN + 1, 10 * MESSAGE_WITHOUT_TOKEN):
            client = self.connect()
            self.give(client, self.line(size)[:MESSAGE_WITHOUT_TOKEN])
            error = client.reply()
            self.assertEqual((error["code"], error["data"]["limit"]), (self.TOO_LARGE, MESSAGE_WITHOUT_TOKEN))
            self.assertIn("taskd.auth", error["message"])
            self.assertTrue(client.transport.disconnecting)
            self.assertEqual(client.protocol.unfinished, 0)
        client = self.connect()
        client.protocol.dataReceived(self.line(MESSAGE_WITHOUT_TOKEN + 1))
        self.assertEqual(client.reply()["code"], self.TOO_LARGE)

    def test_a_message_behind_the_token_is_as_long_as_any(self):
        client = self.connect()
        auth = json.dumps(rpc(1, "taskd.auth", ["bob"])).encode() + b"\n"
        self.give(client, auth + self.line(5 * MESSAGE_WITHOUT_TOKEN, "taskd.whoami"))
        self.assertEqual([each["id"] for each in client.received()], [1, 9])

    def test_so_is_one_behind_a_token_that_waits_for_its_turn(self):
        client = self.connect()
        auth = json.dumps(rpc(1, "taskd.auth", ["bob"])).encode() + b"\n"
        self.factory.peers.turns.used = 1.0
        data = auth + self.line(5 * MESSAGE_WITHOUT_TOKEN, "taskd.whoami")
        client.protocol.dataReceived(data[:65536])
        client.protocol.dataReceived(data[65536:131072])
        self.assertEqual(client.received(), [])
        self.turn()
        self.give(client, data[131072:])
        self.assertEqual([each["id"] for each in client.received()], [1, 9])

    def test_a_connection_whose_tokens_are_refused_is_closed_and_no_more_of_them_are_looked_at(self):
        client = self.connect()
        client.send(rpc(1, "taskd.auth", ["mallory"]), rpc(2, "taskd.auth", ["alice"]))
        client.received()
        auths = [rpc(number, "taskd.auth", [f"guess {number}"]) for number in range(3, 50)]
        client.send(*auths, rpc(50, "taskd.auth", ["bob"]))
        reasons = {each["id"]: each["error"]["data"]["reason"] for each in client.received()}
        self.assertEqual(reasons.pop(None), "refused")
        self.assertEqual(list(reasons.values()), ["unknown"] * (MOST_REFUSED - 1) + ["refused"] * 46)
        self.assertTrue(client.transport.disconnecting)
        self.assertEqual(len(self.verifier.asked), MOST_REFUSED + 1)

    def test_members_of_a_batch_count_as_well(self):
        client = self.connect()
        client.send([rpc(number, "taskd.auth", [f"guess {number}"]) for number in range(30)])
        self.assertEqual(len(self.verifier.asked), MOST_REFUSED)
        self.assertTrue(client.transport.disconnecting)


class CoverTests(GateCase):
    def test_a_function_that_the_token_does_not_cover_is_not_called(self):
        client = self.let_in("alice")
        for name in ("g", "F", "f ", "xf", "report", "nothing"):
            client.call(name)
            self.assertEqual(self.reason(client), "function", name)
        client.call("report.year")
        self.assertEqual(client.reply()["code"], -32601)
        self.assertTrue(self.nothing_runs())

    def test_submits_are_held_to_the_functions_too(self):
        client = self.let_in("alice")
        for method, params in (
            ("taskd.submit", {"function": "g"}),
            ("taskd.submit", ["g"]),
            ("taskd.submit_batch", {"function": "g", "args": [[]]}),
            ("taskd.submit_batch", ["g", [[]]]),
            ("taskd.submit_batch", {"function": "f", "args": [[]], "then": "g"}),
            ("taskd.submit_batch", ["f", [[]], {}, "g"]),
        ):
            client.call(method, params)
            self.assertEqual(self.reason(client), "function", params)

    def test_of_a_member_that_is_there_twice_the_gate_and_the_server_see_the_same(self):
        client = self.let_in("alice")
        for first, last in (("f", "g"), ("g", "f")):
            params = f'{{"function":"{first}","function":"{last}"}}'
            text = f'{{"jsonrpc":"2.0","id":1,"method":"taskd.submit","params":{params}}}\n'
            client.protocol.dataReceived(text.encode())
            error = client.reply()
            # This server has no store: what comes through is refused for that.
            self.assertEqual("store" in error["message"], last == "f", error)

    def test_a_request_beyond_the_token_is_logged_with_its_owner(self):
        client = self.let_in("alice")
        client.call("g")
        self.assertEqual(self.reason(client), "function")
        client.call("taskd.pause", ["f"])
        self.assertEqual(self.reason(client), "role")
        lines = [line for line in self.logged if line.startswith("a request of alice from ")]
        self.assertEqual(len(lines), 2)
        self.assertIn("the token does not cover the function", lines[0])

    def test_a_watcher_calls_submits_and_cancels_nothing(self):
        client = self.let_in("watcher")
        for method, params in (
            ("f", None),
            ("taskd.submit", {"function": "f"}),
            ("taskd.submit_batch", {"function": "f", "args": []}),
            ("taskd.cancel", {"task": "x"}),
            ("taskd.cancel", {"id": 1}),
            ("taskd.retry", {"task": "x"}),
            ("taskd.pause", {"function": "f"}),
            ("taskd.status", None),
        ):
            client.call(method, params)
            self.assertEqual(self.reason(client), "role", method)
        client.call("taskd.ping")
        self.assertEqual(client.reply(), "pong")

    def test_only_an_operator_cancels_by_number_and_sees_the_status(self):
        bob, root = self.let_in("bob"), self.let_in("root")
        bob.call("taskd.cancel", {"task": 1})
        self.assertEqual(self.reason(bob), "role")
        root.call("taskd.cancel", {"task": 1})
        self.assertEqual(root.reply(), {"was": "done"})
        root.call("taskd.status")
        self.assertIn("workers", root.reply())

    def test_an_operators_token_is_held_to_its_functions(self):
        client = self.let_in("narrow")
        client.call("g", grant={"role": "operate"}, caller="a b")
        self.assertEqual(self.reason(client), "function")

    def test_an_operator_who_is_held_to_anything_passes_on_no_other_rights(self):
        for token in ("narrow", "fixed"):
            client = self.let_in(token)
            for method, params in (("f", None), ("taskd.retry", ["x"]), ("taskd.functions", None)):
                client.call(method, params, caller="owner bob 1", grant={"owner": "bob", "role": "operate"})
                error = client.reply()
                self.assertEqual(
                    (error["code"], error["data"]), (NOT_ALLOWED, {"reason": "function"}), method
                )
                self.assertIn("options.grant", error["message"])
        self.assertTrue(self.nothing_runs())

    def test_a_call_that_a_gateway_passes_on_is_held_to_the_functions_of_its_caller(self):
        root = self.let_in("root")
        for functions, reason in ((["g"], "function"), ([], "function")):
            root.call("f", caller="owner bob 1", grant={"owner": "bob", "functions": functions})
            self.assertEqual(self.reason(root), reason)
        self.assertTrue(self.nothing_runs())
        root.call("f", caller="owner bob 1", grant={"owner": "bob", "functions": ["f*"]})
        self.pool.finish(1)
        self.assertEqual(root.reply(), 1)


class PretendingTests(GateCase):
    def test_the_options_of_gateways_mean_nothing_from_others(self):
        client = self.let_in("alice")
        client.call("f", caller="owner bob x", grant={"owner": "bob", "role": "operate"})
        [task] = self.server.in_flight()
        self.assertEqual(task, "f")
        self.assertEqual(self.parties(), {"owner alice"})

    def parties(self):
        return {task.lane.party.key for task in self.tasks()}

    def tasks(self):
        return [task for number in range(1, 20) if (task := self.server.find(number)) is not None]

    def test_only_an_operator_speaks_for_another_owner(self):
        client = self.let_in("alice")
        for method, params, options in (
            ("f", None, {"owner": "bob"}),
            ("f", None, {"owner": "bob", "track": True}),
            ("taskd.submit", {"function": "f", "options": {"owner": "bob"}}, {}),
            ("taskd.submit_batch", {"function": "f", "args": [], "options": {"owner": "bob"}}, {}),
        ):
            client.call(method, params, **options)
            self.assertEqual(self.reason(client), "role")
        self.assertTrue(self.nothing_runs())
        root = self.let_in("root")
        root.call("f", owner="bob")
        self.pool.finish(1)
        self.assertEqual(root.reply(), 1)

    def test_an_operator_passes_on_whose_call_it_is(self):
        root = self.let_in("root")
        root.call("f", caller="owner bob 1", grant={"owner": "bob"})
        self.assertEqual(self.parties(), {"owner bob"})
        root.call("taskd.status", grant={"owner": "bob"})
        self.assertEqual(self.reason(root), "role")
        root.call("f", grant={"owner": "bob", "role": "watch"})
        self.assertEqual(self.reason(root), "role")

    def test_a_gateway_that_asks_for_no_tokens_is_no_way_around(self):
        client = self.connect()
        client.protocol._may_name_callers = True
        client.call("f", caller="192.0.2.1 1")
        self.assertEqual(self.reason(client), "no token")
        client.call("taskd.auth", {"token": "root"}, caller="192.0.2.1 1")
        self.assertEqual(self.reason(client), "role")
        root = self.let_in("root")
        root.call("f", caller="192.0.2.1 1")
        self.assertEqual(self.reason(root), "no token")
        self.assertTrue(self.nothing_runs())

    def test_the_tasks_of_an_owner_wait_together_whatever_their_connections_and_addresses(self):
        for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
            client = self.connect(address)
            client.send(rpc(1, "taskd.auth", ["bob"]), rpc(2, "f"))
        self.assertEqual(self.parties(), {"owner bob"})


class FixedArgumentTests(GateCase):
    def test_a_fixed_argument_is_added_where_the_function_takes_it(self):
        client = self.let_in("dora")
        for function_, given, expected in (
            ("tenants", None, {"tenant": 7}),
            ("tenants", {}, {"tenant": 7}),
            ("tenants", {"n": 1}, {"n": 1, "tenant": 7}),
            ("tenants", {"tenant": 7}, {"tenant": 7}),
            ("any", {"n": "}"}, {"n": "}", "tenant": 7, "from": "x"}),
            ("g", {"n": 1}, {"n": 1}),
            ("g", [1], [1]),
        ):
            client.call(function_, given)
            self.assertEqual(self.arguments(), expected)

    def test_no_other_value_comes_through_in_its_place(self):
        client = self.let_in("dora")
        for params in (
            b'{"tenant":8}',
            b'{"tenant":"7"}',
            b'{"tenant":7.0}',
            b'{"tenant":null}',
            b'{"ten\\u0061nt":8}',
            b'{"tenant":7,"tenant":8}',
            b' { "n" : 1 , "tenant" : 8 } ',
            b"[8]",
            b"[]",
        ):
            client.protocol.dataReceived(
                b'{"jsonrpc":"2.0","id":1,"method":"tenants","params":%b}\n' % params
            )
            self.assertEqual(self.reason(client), "argument", params)
        self.assertTrue(self.nothing_runs())

    def test_of_an_argument_that_is_there_twice_the_fixed_one_counts(self):
        client = self.let_in("dora")
        client.protocol.dataReceived(
            b'{"jsonrpc":"2.0","id":1,"method":"tenants","params":{"tenant":8, "tenant":7 } }\n'
        )
        self.turn()
        [attempt] = self.pool.workers[1].attempts
        self.assertTrue(bytes(attempt.args).rstrip(b" }").endswith(b'"tenant":7'), bytes(attempt.args))

    def test_batches_and_submits_are_held_to_it_in_every_row(self):
        client = self.let_in("dora")
        for method, params in (
            ("taskd.submit", {"function": "tenants", "args": {"tenant": 8}}),
            ("taskd.submit", {"function": "tenants", "args": [8]}),
            ("taskd.submit_batch", {"function": "tenants", "args": [{}, {"tenant": 8}]}),
            ("taskd.submit_batch", {"function": "tenants", "args": [{}, []]}),
            ("taskd.submit_batch", ["any", [{"from": "y"}]]),
        ):
            client.call(method, params)
            self.assertEqual(self.reason(client), "argument", params)

    def test_a_gateways_grant_fixes_arguments_as_well(self):
        root = self.let_in("root")
        grant = {"owner": "bob", "args": {"tenant": 9}}
        root.call("tenants", {"tenant": 8}, caller="owner bob 1", grant=grant)
        self.assertEqual(self.reason(root), "argument")
        root.call("tenants", {"n": 1}, caller="owner bob 1", grant=grant)
        self.assertEqual(self.arguments(), {"n": 1, "tenant": 9})

    def test_nothing_is_called_before_it_is_known_what_the_function_takes(self):
        self.make(loaded=False, verifier=self.verifier)
        client = self.let_in("dora")
        client.call("tenants", {"tenant": 8})
        error = client.reply()
        self.assertEqual((error["code"], error["data"]), (BUSY, {"retry_after": 1.0}))


class RateTests(GateCase):
    def test_calls_over_the_rate_are_refused_with_the_exact_time_to_wait(self):
        client, other = self.let_in("rated"), self.let_in("rated")
        for each in (client, other, client):
            each.call("f")
            self.turn(1)
        other.call("f")
        error = other.reply()
        self.assertEqual((error["code"], error["data"]["retry_after"]), (BUSY, 57.0))
        for seconds, is_refused in ((56.999, True), (0.001, False), (0.0, True)):
            self.turn(seconds)
            other.call("f")
            refused = [each for each in other.received() if each.get("error", {}).get("code") == BUSY]
            self.assertEqual(bool(refused), is_refused)

    def test_each_task_of_a_batch_counts_and_reading_does_not(self):
        client = self.let_in("rated")
        for _ in range(9):
            client.call("taskd.ping")
        client.received()
        client.call("taskd.submit_batch", {"function": "f", "args": [[], [], [], []]})
        error = client.reply()
        self.assertEqual((error["code"], error["data"]), (NOT_ALLOWED, {"reason": "rate", "limit": 3}))
        client.call("taskd.submit_batch", {"function": "f", "args": [[], []]})
        self.assertIn("store", client.reply()["message"])
        client.send([rpc(number, "f") for number in range(3)])
        self.turn()
        self.assertEqual(len(self.pool.workers[1].attempts), 1)

    def test_a_clock_that_is_set_back_locks_nobody_out(self):
        rates, rate = Rates(), Rate(1, 60.0)
        rates.take("a", rate, 1, 1000.0)
        rates.take("a", rate, 1, 500.0)
        self.assertRaises(Busy, rates.take, "a", rate, 1, 501.0)

    def test_never_more_than_the_rate_in_any_time_however_they_come(self):
        rates, rate = Rates(), Rate(5000, 10.0)
        taken = []
        for step in range(60000):
            now = step * 0.0007
            try:
                rates.take("a", rate, 1, now)
            except Busy:
                continue
            taken.append(now)
        for first, last in zip(taken, taken[5000:], strict=False):
            self.assertGreaterEqual(last - first, 10.0 - 1e-9)
        self.assertGreater(len(taken), 19_000)

    def test_owners_are_forgotten_when_nothing_counts_any_more(self):
        rates, rate = Rates(), Rate(1, 1.0)
        for number in range(10 * SWEEP):
            rates.take(str(number), rate, 1, number / 10)
        self.assertLess(len(rates), 2 * SWEEP)
        self.assertRaises(NotAllowed, rates.take, "x", rate, 2, 0.0)


class UrgentTests(LoggingCase):
    def test_only_operators_overtake_others_if_priorities_are_shared(self):
        verifier = FakeVerifier(caller("bob"), caller("root", "operate"))
        for shared in (True, False):
            self.make(verifier=verifier, shared_priorities=shared)
            bob, root = self.connect(), self.connect()
            bob.call("taskd.auth", ["bob"])
            root.call("taskd.auth", ["root"])
            bob.received(), root.received()
            bob.call("f", priority=4)
            self.assertEqual([each["error"]["data"]["reason"] for each in bob.received()], ["role"] * shared)
            root.call("f", priority=0)
            self.assertEqual(root.received(), [])
            root.call("f", priority=1, caller="owner bob 1", grant={"owner": "bob"})
            self.assertEqual([each["error"]["data"]["reason"] for each in root.received()], ["role"] * shared)
            bob.call("taskd.submit", {"function": "f", "options": {"priority": 1}})
            self.assertEqual("store" in bob.reply()["message"], not shared)


class AnonymousTests(LoggingCase):
    def test_without_tokens_a_caller_may_ask_who_it_is(self):
        self.make()
        for address, role in (("127.0.0.1", "operate"), ("192.0.2.1", "submit")):
            client = self.connect(address)
            for method, params in (("taskd.whoami", None), ("taskd.auth", ["anything"])):
                client.call(method, params)
                expected = {
                    "owner": "",
                    "role": role,
                    "functions": ["*"],
                    "args": {},
                    "expires": None,
                    "limits": {},
                    "anonymous": role == "submit",
                }
                self.assertEqual(client.reply(), expected)

    def test_an_anonymous_caller_speaks_for_nobody_and_cancels_no_numbers(self):
        self.make()
        client = self.connect("192.0.2.1")
        client.call("taskd.cancel", {"task": 1})
        self.assertEqual(client.reply()["data"], {"reason": "role"})
        client.call("f", owner="bob")
        self.assertEqual(client.reply()["data"], {"reason": "role"})
        client.call("f", grant={"role": "operate"}, owner="bob")
        self.assertEqual(client.reply()["data"], {"reason": "role"})
