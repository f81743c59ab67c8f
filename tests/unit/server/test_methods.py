"""The server's own methods, over connections in memory."""

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
            {"task": "1"},
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
