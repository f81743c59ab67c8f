"""The server's own methods, over connections in memory."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.protocol.methods import MAX_ARGUMENTS, dispatch
from taskd.protocol.requests import parse
from taskd.server.methods import Asker, ServerMethods
from taskd.server.status import STATUS_AGE, STATUS_BURST, RecentStatus
from tests.unit.pools import ServerCase, function

NOT_FOUND, INVALID_PARAMS = -32601, -32602


class OwnMethodsTests(ServerCase):
    def ask(self, method, params=None):
        client = self.connect()
        client.call(f"taskd.{method}", params)
        return client.reply()

    def test_the_servers_own_methods_are_answered_without_a_worker(self):
        self.make(0)
        self.assertEqual(self.ask("ping"), "pong")
        self.assertEqual(self.ask("status")["workers"], [])
        self.assertEqual(self.pool.workers, {})

    def test_the_servers_own_methods_can_be_called_with_bare_requests(self):
        self.make()
        client = self.connect()
        client.send({"function": "taskd.ping"})
        self.assertEqual(client.transport.value(), b'"pong"\n')

    def test_taskd_functions_lists_the_functions_with_their_parameters(self):
        self.make(functions=[function("f", timeout=3.0), function("g", grace=0.5)])
        first, second = self.ask("functions")
        self.assertEqual(
            first,
            {
                "name": "f",
                "signature": "f()",
                "summary": "What f does.",
                "parameters": {},
                "timeout": 3.0,
                "grace": 5.0,
                "durable": None,
                "schedule": None,
                "needs": [],
                "missing": [],
            },
        )
        self.assertEqual((second["name"], second["timeout"], second["grace"]), ("g", None, 0.5))

    def test_requests_for_the_functions_wait_until_the_app_is_imported(self):
        self.make(loaded=False)
        clients = [self.connect(), self.connect()]
        for client in clients:
            client.call("taskd.functions")
            self.assertEqual(client.received(), [])
        self.pool.load(function("f"))
        for client in clients:
            self.assertEqual([each["name"] for each in client.reply()], ["f"])
        self.pool.load(function("f"))
        self.assertEqual(clients[0].received(), [])

    def test_an_unknown_method_of_the_server_is_not_found(self):
        self.make()
        for name in "", "nope", "Ping":
            self.assertEqual(self.ask(name)["code"], NOT_FOUND)
        self.assertLess(len(self.ask("x" * 10_000)["message"]), 1000)

    def test_invalid_parameters_are_refused_with_the_name_of_the_method(self):
        self.make()
        for method, params in ("ping", {"a": 1}), ("status", [1]), ("functions", {"name": "f"}):
            error = self.ask(method, params)
            self.assertEqual(error["code"], INVALID_PARAMS)
            self.assertTrue(error["message"].startswith(f"taskd.{method}: "), error)

    def test_cancel_takes_either_an_id_or_a_task(self):
        self.make()
        for params in (
            None,
            {},
            {"id": 1, "task": 1},
            {"id": None},
            {"task": None},
            [],
            {"task": 1.5},
            {"tasks": 1},
        ):
            error = self.ask("cancel", params)
            self.assertEqual(error["code"], INVALID_PARAMS, params)
            self.assertTrue(error["message"].startswith("taskd.cancel: "), error)

    def test_cancel_takes_a_string_or_a_number_as_id(self):
        self.make()
        for wrong in [1], {}, True, False:
            error = self.ask("cancel", {"id": wrong})
            self.assertEqual((error["code"], error["data"]["argument"]), (INVALID_PARAMS, "id"))

    def test_cancel_takes_its_arguments_by_position_too(self):
        self.make()
        for params in [7], ["x"], {"id": "x"}, {"task": 7}, {"id": 7, "task": None}:
            self.assertEqual(self.ask("cancel", params), {"was": "done"}, params)

    def test_calls_of_the_servers_own_methods_cannot_be_cancelled(self):
        self.make(loaded=False)
        client = self.connect()
        waiting = client.call("taskd.functions")
        client.call("taskd.cancel", {"id": waiting})
        self.assertEqual(client.reply(), {"was": "done"})

    def test_a_request_is_found_by_its_id_as_it_was_sent(self):
        self.make()
        client = self.connect()
        client.protocol.dataReceived(b'{"jsonrpc":"2.0","id":"a","method":"f"}\n')
        client.protocol.dataReceived(b'{"jsonrpc":"2.0","method":"taskd.cancel","params":{"id": "a" }}\n')
        self.turn()
        self.assertEqual(self.pool.orders[0][:2], ("interrupt", 1))

    def test_long_arguments_are_refused_before_they_are_decoded(self):
        self.make()
        for method in "ping", "status", "functions", "cancel":
            error = self.ask(method, {"id": "x" * MAX_ARGUMENTS})
            self.assertEqual((error["code"], error["data"]), (INVALID_PARAMS, {"limit": MAX_ARGUMENTS}))

    def test_many_who_cancel_one_task_are_each_answered_once(self):
        self.make()
        clients = [self.connect(), self.connect()]
        clients[0].call()
        self.turn()
        for client in clients:
            client.send(
                *[
                    {"jsonrpc": "2.0", "id": number, "method": "taskd.cancel", "params": {"task": 1}}
                    for number in range(50, 55)
                ]
            )
        self.pool.stop_task(1)
        for client in clients:
            answers = [reply for reply in client.received() if "result" in reply]
            self.assertEqual([reply["id"] for reply in answers], [50, 51, 52, 53, 54])
            self.assertEqual({reply["result"]["was"] for reply in answers}, {"running"})

    def test_a_task_is_known_by_its_number_until_it_has_its_outcome(self):
        self.make(1)
        client = self.connect()
        client.send(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in range(3)])
        self.turn()
        found = [self.server.find(number) for number in range(1, 4)]
        self.assertEqual([task.number for task in found], [1, 2, 3])
        self.assertEqual(self.server.in_flight(), {"f": 3})
        self.pool.finish(1)
        self.assertIsNone(self.server.find(1))
        self.server.cancel(self.server.find(3))
        self.assertIsNone(self.server.find(3))
        self.assertEqual(self.server.in_flight(), {"f": 1})
        self.assertIsNone(self.server.find(1000))

    def test_the_status_shows_for_how_long_the_oldest_task_has_waited(self):
        self.make(1)
        client = self.connect()
        client.send(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in range(2)])
        self.turn()
        self.clock.advance(3.0)
        client.send({"jsonrpc": "2.0", "id": 2, "method": "f", "options": {"priority": 0}})
        self.assertEqual(self.server.status().oldest_waiting, 3.0)

    def test_nothing_is_computed_for_notifications(self):
        class Server:
            """A server that must not be asked."""

            def status(self):
                raise AssertionError

            functions = property(status)

        methods = ServerMethods(Server(), Clock())
        for name in "status", "functions", "ping":
            request = parse(b'{"jsonrpc":"2.0","method":"taskd.%b"}' % name.encode())
            self.assertEqual(
                bytes(dispatch(methods, None, Asker(None, request), request).value)[:1],
                b'"' if name == "ping" else b"n",
            )


class RecentStatusTests(SynchronousTestCase):
    """The status is collected for each who asks now and then, and for many of those who ask all the time."""

    def make(self, seconds):
        self.clock = Clock()
        self.collected = 0
        return RecentStatus(self.clock, lambda: self.collect(seconds))

    def collect(self, seconds):
        self.collected += 1
        self.clock.advance(seconds)
        return self.collected

    def test_a_caller_that_asks_now_and_then_gets_a_new_status_each_time(self):
        recent = self.make(0.001)
        for number in range(1, 100):
            self.assertEqual(bytes(recent.result().value), b"%d" % number)
            self.clock.advance(0.03)

    def test_a_status_that_many_ask_for_is_collected_seldom(self):
        recent = self.make(0.005)
        for _ in range(1000):
            recent.result()
            self.clock.advance(0.001)
        self.assertLess(self.collected, 20)

    def test_no_status_is_older_than_its_age_allows(self):
        recent = self.make(STATUS_BURST)
        for _ in range(10):
            recent.result()
            self.clock.advance(STATUS_AGE)
        self.assertEqual(self.collected, 10)

    def test_a_clock_that_is_put_back_makes_no_status_last(self):
        recent = self.make(STATUS_BURST * 2)
        recent.result()
        self.clock.rightNow -= 1000
        recent.result()
        self.assertEqual(self.collected, 2)
