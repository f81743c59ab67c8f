"""Who may use JSON-RPC and the API over HTTP: by the Host header, and by the origin of a page."""

from tests.unit.web.gateways import GatewayCase, http

MESSAGE = {"jsonrpc": "2.0", "id": 1, "method": "a"}


class HostTests(GatewayCase):
    def test_a_host_that_may_be_an_attackers_name_is_refused_and_named(self):
        for path, body in (("/rpc", MESSAGE), ("/api/v1/tasks", None)):
            answer = self.asked("POST" if body else "GET", path, body, host="evil.example:8080")
            self.assertEqual(answer.status, 421)
            text = "evil.example:8080 is not known as a name of this gateway: see --hostname"
            self.assertEqual(answer.body["detail"], text)
        self.assertEqual(self.backend.asked, [])

    def test_own_names_and_addresses_are_known(self):
        hosts = (
            *("localhost", "localhost:8080", "a.localhost", "127.0.0.1:1", "192.0.2.1", "[::1]:80"),
            *("tasks.example", "TASKS.example.:8080"),
        )
        for host in hosts:
            client = self.connect()
            client.send(http("GET", "/api/v1/status", host=host))
            self.backend.reply({})
            self.assertEqual(client.answer.status, 200, host)

    def test_a_host_that_is_none_is_refused(self):
        for host in ("a b", "user@localhost", "localhost/x", "x" * 5000):
            self.assertEqual(self.asked("GET", "/api/v1/status", host=host).status, 421, host)

    def test_an_old_client_names_no_host(self):
        self.client.send(http("GET", "/api/v1/status", host=None, version="1.0"))
        self.backend.reply({})
        self.assertEqual(self.client.answer.status, 200)

    def test_the_page_is_shown_under_every_name(self):
        self.assertEqual(self.asked("GET", "/", host="evil.example").status, 200)


class OriginTests(GatewayCase):
    def test_a_page_that_is_not_allowed_gets_the_reason_and_no_leave_to_read_it(self):
        for origin in ("https://evil.example", "null", "http://tasks.example:81"):
            answer = self.asked("POST", "/rpc", MESSAGE, f"Origin: {origin}")
            self.assertEqual(answer.status, 403, origin)
            self.assertIn("--allow-origin" if "tasks" not in origin else "--", answer.body["detail"])
            self.assertNotIn("access-control-allow-origin", answer.headers)
        self.assertEqual(self.backend.asked, [])

    def test_a_page_whose_own_name_is_unknown_is_refused(self):
        answer = self.asked("POST", "/rpc", MESSAGE, "Origin: http://evil.example", host="evil.example")
        self.assertEqual(answer.status, 403)
        self.assertIn("--hostname", answer.body["detail"])

    def test_an_allowed_page_may_read_the_answer_whatever_it_is(self):
        for path, status in (("/api/v1/status", 200), ("/api/v1/nothing", 404)):
            client = self.connect()
            client.send(http("GET", path, None, "Origin: https://app.example"))
            if self.backend.waiting:
                self.backend.reply({})
            self.assertEqual(client.answer.status, status)
            headers = client.answer.headers
            self.assertEqual(headers["access-control-allow-origin"], "https://app.example")
            self.assertEqual(headers["vary"], "origin")
            self.assertIn("location", headers["access-control-expose-headers"])
            self.assertNotIn("access-control-allow-credentials", headers)

    def test_no_answer_depends_on_the_origin_without_saying_so(self):
        self.assertEqual(self.asked("GET", "/api/v1/nothing").headers["vary"], "origin")


class PreflightTests(GatewayCase):
    def test_an_allowed_page_gets_the_methods_and_headers_that_it_may_send(self):
        for path, methods in (("/rpc", "post, options"), ("/api/v1/tasks/a", "get, head, delete, options")):
            answer = self.asked(
                "OPTIONS", path, None, "Origin: https://app.example", "Access-Control-Request-Method: POST"
            )
            self.assertEqual((answer.status, answer.body), (204, b""))
            self.assertEqual(answer.headers["access-control-allow-methods"], methods)
            self.assertIn("content-type", answer.headers["access-control-allow-headers"])
            self.assertEqual(answer.headers["access-control-allow-origin"], "https://app.example")

    def test_another_page_does_not(self):
        answer = self.asked(
            "OPTIONS", "/rpc", None, "Origin: https://evil.example", "Access-Control-Request-Method: POST"
        )
        self.assertEqual(answer.status, 403)

    def test_options_without_a_page_lists_the_methods(self):
        answer = self.asked("OPTIONS", "/api/v1/tasks")
        self.assertEqual((answer.status, answer.headers["allow"]), (204, "post, get, head, options"))
        self.assertNotIn("access-control-allow-methods", answer.headers)
