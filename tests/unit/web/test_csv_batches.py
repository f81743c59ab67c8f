"""A batch that comes as CSV: its rows are converted as a function's parameters say, or it is refused."""

import json
from urllib.parse import urlencode

from taskd.errors import Busy, InvalidParams
from tests.unit.web.gateways import GatewayCase, http

BATCH = "01a21f98-f31d-7287-9310-be3e4baaffea"

STEPS = {
    "name": "steps",
    "signature": "",
    "summary": "",
    "parameters": {
        "n": {"kinds": [{"type": "integer"}], "required": True},
        "name": {"kinds": [{"type": "string"}, {"type": "null"}]},
        "sizes": {"kinds": [{"type": "array", "items": [{"type": "integer"}]}]},
    },
}


class CsvTests(GatewayCase):
    def upload(self, text, *lines, **query):
        """Send a text; the server says what functions there are."""
        client = self.connect()
        body = text if isinstance(text, bytes) else text.encode()
        path = f"/api/v1/batches?{urlencode(query)}"
        client.send(http("POST", path, body, *lines, kind="text/csv; charset=utf-8"))
        if self.backend.waiting:
            self.assertEqual(self.backend.asked, [("taskd.functions", None)])
            self.backend.reply([STEPS])
            client.turns()
        return client

    def refused(self, text, **query):
        client = self.upload(text, **{"function": "steps", **query})
        self.assertEqual(self.backend.asked, [])
        self.assertEqual(client.answer.status, 422)
        return client.answer.body["detail"]

    def test_rows_become_the_arguments_of_tasks(self):
        text = '\ufeffn,name,sizes\r\n1,1,"[1,2]"\r\n\r\n2,"a\nb",[]\r\n'
        client = self.upload(text, "Idempotency-Key: k", function="steps", then="end", retries=3, delay=0.5)
        params = {
            "function": "steps",
            "args": [{"n": 1, "name": "1", "sizes": [1, 2]}, {"n": 2, "name": "a\nb", "sizes": []}],
            "options": {"retries": 3, "delay": 0.5},
            "then": "end",
            "token": "k",
        }
        self.assertEqual(self.backend.asked, [("taskd.submit_batch", params)])
        self.backend.reply({"batch": BATCH, "tasks": ["a", "b"], "joined": False})
        self.assertEqual(client.answer.status, 202)
        self.assertEqual(client.answer.headers["location"], f"/api/v1/batches/{BATCH}")

    def test_many_rows_are_converted_in_several_steps(self):
        client = self.connect()
        text = "n\n" + "".join(f"{number}\n" for number in range(5000))
        client.send(http("POST", "/api/v1/batches?function=steps", text.encode(), kind="text/csv"))
        self.backend.reply([STEPS])
        self.assertEqual(self.backend.asked, [])
        while not self.backend.asked:
            client.turns()
        [(_, params)] = self.backend.asked
        self.assertEqual(params["args"], [{"n": number} for number in range(5000)])

    def test_a_wrong_row_is_named_and_nothing_is_stored(self):
        self.assertEqual(
            self.refused("n\n1\nx\n1.5\n"),
            "the CSV text: nothing was submitted: line 3: argument 'n': 'x' is not an integer; "
            "line 4: argument 'n': '1.5' is not an integer",
        )
        self.assertIn("line 2: 1 values for 2 columns", self.refused("n,name\n1\n"))
        self.assertIn("at least 997 more", self.refused("n\n" + "x\n" * 3000))

    def test_a_row_that_the_task_server_refuses_is_named_by_its_line(self):
        client = self.upload("n\n\n1\n", function="steps")
        self.backend.reply(InvalidParams("args[0]: no", argument="args[0]"))
        body = client.answer.body
        self.assertEqual((client.answer.status, body["line"]), (422, 3))
        self.assertEqual(body["detail"], "the CSV text: nothing was submitted: line 3: no")

    def test_other_refusals_of_the_task_server_are_passed_on(self):
        client = self.upload("n\n1\n", function="steps")
        self.backend.reply(Busy("full", retry_after=2.0))
        self.assertEqual((client.answer.status, client.answer.body["detail"]), (429, "full"))

    def test_a_text_without_a_usable_header_is_refused(self):
        self.assertIn("is empty", self.refused(""))
        self.assertIn("name each column once", self.refused("n,n\n1,2\n"))
        self.assertIn("UTF-16", self.refused("n\n1\n".encode("utf-16")))
        self.assertIn("not UTF-8", self.refused(b"n,name\n1,\xff\n"))

    def test_a_text_that_would_take_too_long_is_refused(self):
        self.assertIn("more than 1000000 lines", self.refused("n\n" + "\n" * 1_000_001))
        self.assertIn("more than 2000 lines", self.refused('n\n"' + "\n" * 3000 + '1"\n'))

    def test_rows_that_are_longer_than_a_message_as_json_are_too_large(self):
        client = self.upload("n," + "x" * 5000 + "\n" + "1,\n" * 300, function="steps")
        while self.backend.asked == [] and not client.socket.sent:
            client.turns()
        self.assertEqual((client.answer.status, client.answer.body["code"]), (413, -32006))

    def test_the_function_must_be_one_that_there_is(self):
        self.assertEqual(self.refused("n\n1\n", function="stops"), "no such function: stops")
        client = self.upload("n\n1\n")
        self.assertEqual((client.answer.status, client.answer.body["argument"]), (422, "function"))

    def test_a_client_that_leaves_ends_the_conversion(self):
        client = self.connect()
        text = b"n\n" + b"1\n" * 20_000
        client.send(http("POST", "/api/v1/batches?function=steps", text, kind="text/csv"))
        self.backend.reply([STEPS])
        client.leave()
        for _ in range(100):
            self.reactor.advance(0.01)
        self.assertEqual((self.backend.asked, list(self.peers)), ([], []))

    def test_a_query_is_refused_with_a_batch_of_json(self):
        body = {"function": "steps", "args": []}
        answer = self.asked("POST", "/api/v1/batches?function=steps", body)
        self.assertEqual(answer.status, 400)
        answer = self.asked("POST", "/api/v1/batches?functions=steps", json.dumps(body).encode())
        self.assertEqual(answer.status, 400)
