"""What schemathesis has found: queries and headers that must be refused, and with which status."""

from tests.unit.web.gateways import GatewayCase


class QueryTests(GatewayCase):
    def test_null_is_no_value_in_a_query_but_may_be_a_name(self):
        for query in ("state=null", "state=NULL", "like=", "limit=null"):
            answer = self.asked("GET", f"/api/v1/tasks?{query}")
            name = query.partition("=")[0]
            self.assertEqual((answer.status, answer.body["member"]), (400, f"query.{name}"))
        client = self.connect()
        client.send(b"GET /api/v1/tasks?function=null HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(
            self.backend.asked, [("taskd.list", {"function": "null", "after": "", "limit": 100})]
        )

    def test_a_method_that_a_path_has_not_is_not_allowed_whether_with_a_body_or_not(self):
        for body in (None, {"a": 1}):
            answer = self.asked("DELETE", "/api/v1/tasks", body)
            self.assertEqual(answer.status, 405, body)
            self.assertIn("get, head", answer.headers["allow"])
        self.assertEqual(self.asked("DELETE", "/api/v1/tasks/a", {"a": 1}).status, 413)

    def test_a_key_with_blanks_is_none(self):
        answer = self.asked("POST", "/api/v1/tasks", {"function": "f"}, "Idempotency-Key: a b")
        self.assertEqual((answer.status, answer.body["argument"]), (400, "Idempotency-Key"))
