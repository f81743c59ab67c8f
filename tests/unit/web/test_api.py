"""The HTTP API: what each operation asks of the task server, and how it answers."""

import gc
import weakref

from taskd.errors import (
    Busy,
    InternalError,
    InvalidParams,
    MethodNotFound,
    NotAllowed,
    ShuttingDown,
    TooLarge,
    Unreachable,
)
from taskd.model import Failure
from taskd.web.api.call import ANSWER_SECONDS
from taskd.web.api.resource import HANDLERS
from taskd.web.api.table import OPERATIONS, methods_of, takes_body
from tests.unit.web.gateways import LONGEST, GatewayCase, http

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ID = "01a21f98-f31d-7287-9310-be3e4baaffea"
ENDED = {"task": ID, "function": "f", "state": "succeeded", "result": 5}
RUNNING = {"task": ID, "function": "f", "state": "running"}


class ApiCase(GatewayCase):
    def ask(self, *request, **more):
        """Send a request on a connection of its own; return the client."""
        client = self.connect()
        client.send(http(*request, **more))
        return client

    def assert_asked(self, method, params):
        self.assertEqual(self.backend.asked, [(method, params)])


class SubmitTests(ApiCase):
    def test_a_task_is_accepted_with_its_address(self):
        client = self.ask("POST", "/api/v1/tasks", {"function": "f", "args": [1], "options": {"priority": 3}})
        self.assert_asked("taskd.submit", {"function": "f", "args": [1], "options": {"priority": 3}})
        self.backend.reply({"task": ID, "joined": False})
        self.assertEqual((client.answer.status, client.answer.body), (202, {"task": ID, "joined": False}))
        self.assertEqual(client.answer.headers["location"], f"/api/v1/tasks/{ID}")

    def test_the_idempotency_key_is_its_token(self):
        for header in ("abc", '"abc"'):
            self.ask("POST", "/api/v1/tasks", {"function": "f"}, f"Idempotency-Key: {header}")
            self.assert_asked("taskd.submit", {"function": "f", "token": "abc"})
            self.backend.reply({"task": ID, "joined": True})
        for header in ('""', "x" * 201):
            answer = self.asked("POST", "/api/v1/tasks", {"function": "f"}, f"Idempotency-Key: {header}")
            self.assertEqual((answer.status, answer.body["argument"]), (400, "Idempotency-Key"))

    def test_the_header_traceparent_is_its_option(self):
        header = f"Traceparent: {TRACE}"
        self.ask("POST", "/api/v1/tasks", {"function": "f"}, header)
        self.assert_asked("taskd.submit", {"function": "f", "options": {"traceparent": TRACE}})
        self.backend.waiting.clear()
        own = {"priority": 1, "traceparent": TRACE.replace("b7", "c8")}
        self.ask("POST", "/api/v1/tasks", {"function": "f", "options": own}, header)
        self.assert_asked("taskd.submit", {"function": "f", "options": own})
        self.backend.waiting.clear()
        self.ask("POST", "/api/v1/batches", {"function": "f", "args": [[]]}, header)
        options = {"traceparent": TRACE}
        self.assert_asked("taskd.submit_batch", {"function": "f", "args": [[]], "options": options})
        self.backend.waiting.clear()
        self.ask("POST", "/api/v1/tasks", {"function": "f"}, "Traceparent: 00-broken")
        self.assert_asked("taskd.submit", {"function": "f"})

    def test_a_wait_is_answered_with_the_task_when_it_has_ended(self):
        client = self.ask("POST", "/api/v1/tasks?wait=10", {"function": "f"})
        self.backend.reply({"task": ID, "joined": False})
        self.assert_asked("taskd.wait", {"task": ID, "timeout": 10.0})
        self.backend.reply(ENDED)
        self.assertEqual((client.answer.status, client.answer.body), (200, ENDED))
        self.assertEqual(client.answer.headers["location"], f"/api/v1/tasks/{ID}")

    def test_a_wait_that_was_too_short_is_answered_with_the_state(self):
        client = self.ask("POST", "/api/v1/tasks?wait=0.5", {"function": "f"})
        self.backend.reply({"task": ID, "joined": False})
        self.backend.reply(RUNNING)
        self.assertEqual((client.answer.status, client.answer.body), (202, RUNNING))

    def test_a_wait_that_fails_does_not_hide_that_the_task_is_stored(self):
        client = self.ask("POST", "/api/v1/tasks?wait=10", {"function": "f"})
        self.backend.reply({"task": ID, "joined": False})
        self.backend.reply(Unreachable("gone"))
        self.assertEqual((client.answer.status, client.answer.body["task"]), (202, ID))

    def test_a_wait_ends_with_its_client(self):
        client = self.ask("POST", "/api/v1/tasks?wait=10", {"function": "f"})
        self.backend.reply({"task": ID, "joined": False})
        client.leave()
        self.assertEqual((self.backend.cancelled, list(self.peers)), (["taskd.wait"], []))

    def test_a_submit_does_not(self):
        self.ask("POST", "/api/v1/tasks", {"function": "f"}).leave()
        self.assertEqual((self.backend.cancelled, self.backend.detached), ([], ["taskd.submit"]))

    def test_arguments_that_do_not_fit_are_unprocessable(self):
        client = self.ask("POST", "/api/v1/tasks", {"function": "f", "args": [1]})
        self.backend.reply(InvalidParams("takes none", argument="args", got=1))
        answer = client.answer
        self.assertEqual((answer.status, answer.headers["content-type"]), (422, "application/problem+json"))
        self.assertEqual(
            answer.body,
            {
                "type": "urn:taskd:invalid_params",
                "title": "invalid params",
                "status": 422,
                "detail": "takes none",
                "code": -32602,
                "argument": "args",
                "got": 1,
            },
        )

    def test_a_body_that_is_no_task_is_a_bad_request_which_names_the_place(self):
        for body, code, words in (
            (b"", -32700, "not JSON"),
            (b"{", -32700, "not JSON"),
            (b'{"function": "\xff"}', -32700, "not UTF-8"),
            (b'{"function": "\\ud800"}', -32700, "not JSON"),
            (b'{"function":"f","args":' + b"[" * 300 + b"]" * 300 + b"}", -32700, "256 levels"),
            (b'{"function":"f","args":' + b"[" * 99_999 + b"]" * 99_999 + b"}", -32700, "256 levels"),
            (b"[]", -32600, "body"),
            ({}, -32600, "function"),
            ({"function": 5}, -32600, "body.function"),
            ({"function": "f", "name": 1}, -32600, "body.name"),
            ({"function": "f", "options": {"priority": 10}}, -32600, "body.options.priority"),
            ({"function": "f", "options": {"speed": 1}}, -32600, "body.options.speed"),
        ):
            answer = self.asked("POST", "/api/v1/tasks", body)
            self.assertEqual((answer.status, answer.body["code"]), (400, code), answer.body)
            self.assertIn(words, answer.body["detail"])
        self.assertEqual(self.backend.asked, [])

    def test_a_long_body_is_checked_in_steps_and_then_passed_on(self):
        text = "é" * (LONGEST // 4)
        client = self.ask("POST", "/api/v1/tasks", f'{{"function": "f", "args": ["{text}"]}}'.encode())
        for _ in range(100):
            client.turns()
        self.assert_asked("taskd.submit", {"function": "f", "args": [text]})

    def test_a_client_that_leaves_during_the_check_ends_it(self):
        client = self.connect()
        request = http("POST", "/api/v1/tasks", {"function": "f", "args": ["x" * (LONGEST // 2)]})
        rest = client.send(request[:-1])
        self.assertEqual(rest, b"")
        client.socket.incoming.append(request[-1:])
        self.reactor.readable(client.transport)
        client.leave()
        client.turns()
        self.assertEqual((self.backend.asked, self.budget.held, list(self.peers)), ([], 0, []))


class TaskTests(ApiCase):
    def test_a_task_is_shown(self):
        for query, with_args in (("", False), ("?with_args=true", True), ("?with_args=0", False)):
            client = self.ask("GET", f"/api/v1/tasks/{ID}{query}")
            self.assert_asked("taskd.get", {"task": ID, "with_args": with_args})
            self.backend.reply(ENDED)
            self.assertEqual((client.answer.status, client.answer.body), (200, ENDED))

    def test_a_task_is_shown_when_it_has_ended(self):
        client = self.ask("GET", f"/api/v1/tasks/{ID}?wait=60")
        self.assert_asked("taskd.wait", {"task": ID, "timeout": 60.0})
        self.backend.reply(ENDED)
        self.assertEqual(client.answer.body, ENDED)

    def test_a_task_is_shown_with_its_arguments_when_it_has_ended(self):
        client = self.ask("GET", f"/api/v1/tasks/{ID}?wait=60&with_args=true")
        self.backend.reply(ENDED)
        self.assert_asked("taskd.get", {"task": ID, "with_args": True})
        self.backend.reply({**ENDED, "args": []})
        self.assertEqual(client.answer.body, {**ENDED, "args": []})

    def test_an_unknown_task_is_not_found(self):
        for method, path in (
            ("GET", f"tasks/{ID}"),
            ("GET", f"tasks/{ID}?wait=1"),
            ("DELETE", f"tasks/{ID}"),
            ("POST", f"tasks/{ID}/retry"),
            ("GET", f"tasks/{ID}/why"),
            ("GET", f"batches/{ID}"),
            ("GET", f"batches/{ID}?wait=1"),
            ("DELETE", f"batches/{ID}"),
        ):
            client = self.ask(method, f"/api/v1/{path}")
            self.backend.reply(InvalidParams("there is no such task", argument="task"))
            self.assertEqual((client.answer.status, client.answer.body["code"]), (404, -32602), path)

    def test_a_task_is_cancelled(self):
        client = self.ask("DELETE", f"/api/v1/tasks/{ID}")
        self.backend.reply(RUNNING)
        self.assert_asked("taskd.cancel", {"task": ID})
        self.backend.reply({"was": "running"})
        self.assertEqual((client.answer.status, client.answer.body), (200, {"was": "running"}))

    def test_a_task_is_put_back_unless_its_state_forbids_it(self):
        client = self.ask("POST", f"/api/v1/tasks/{ID}/retry")
        self.assert_asked("taskd.retry", {"task": ID})
        self.backend.reply({"was": "failed"})
        self.assertEqual((client.answer.status, client.answer.body), (200, {"was": "failed"}))
        client = self.ask("POST", f"/api/v1/tasks/{ID}/retry")
        self.backend.reply(NotAllowed("it is running", state="running"))
        self.assertEqual((client.answer.status, client.answer.body["state"]), (409, "running"))

    def test_the_reason_why_a_task_waits_is_shown(self):
        client = self.ask("GET", f"/api/v1/tasks/{ID}/why")
        self.assert_asked("taskd.why", {"task": ID})
        self.backend.reply({"reason": "x"})
        self.assertEqual(client.answer.body, {"reason": "x"})

    def test_an_id_may_be_escaped(self):
        self.ask("GET", "/api/v1/tasks/a%2Fb%20%C3%A9")
        self.assert_asked("taskd.get", {"task": "a/b é", "with_args": False})


class ListTests(ApiCase):
    def test_a_page_of_tasks_names_the_next_one(self):
        client = self.ask("GET", "/api/v1/tasks?state=failed&function=f&after=x&limit=2")
        self.assert_asked("taskd.list", {"state": "failed", "function": "f", "after": "x", "limit": 2})
        listed = [{"task": "a", "state": "failed"}, {"task": "b", "state": "failed"}]
        self.backend.reply(listed)
        self.assertEqual(client.answer.body, {"tasks": listed, "next": "b"})

    def test_the_last_page_has_no_next_one(self):
        client = self.ask("GET", "/api/v1/tasks?limit=2&key=k&batch=b&like=l")
        self.assert_asked("taskd.list", {"key": "k", "batch": "b", "like": "l", "after": "", "limit": 2})
        self.backend.reply([{"task": "a"}])
        self.assertEqual(client.answer.body, {"tasks": [{"task": "a"}], "next": None})

    def test_a_page_of_batches_does_likewise(self):
        client = self.ask("GET", "/api/v1/batches?limit=1")
        self.assert_asked("taskd.list", {"after": "", "limit": 1, "batches": True})
        self.backend.reply([{"batch": "a"}])
        self.assertEqual(client.answer.body, {"batches": [{"batch": "a"}], "next": "a"})

    def test_a_query_that_is_wrong_is_a_bad_request_which_names_the_parameter(self):
        for query, member in (
            ("state=odd", "query.state"),
            ("limit=0", "query.limit"),
            ("limit=1001", "query.limit"),
            ("limit=x", "query.limit"),
            ("like=", "query.like"),
            ("stat=failed", "query.stat"),
            ("limit=1&limit=2", "query.limit"),
            ("like=%ff", "query.like"),
        ):
            answer = self.asked("GET", f"/api/v1/tasks?{query}")
            self.assertEqual((answer.status, answer.body["member"]), (400, member), query)
        for wait in ("0", "-1", "61", "nan", "inf", "x"):
            self.assertEqual(self.asked("GET", f"/api/v1/tasks/a?wait={wait}").status, 400, wait)


class BatchTests(ApiCase):
    def test_a_batch_is_accepted_with_its_address(self):
        body = {"function": "f", "args": [[1], {"a": 2}], "then": "g", "options": {"retries": 1}}
        client = self.ask("POST", "/api/v1/batches", body, "Idempotency-Key: k")
        self.assert_asked("taskd.submit_batch", {**body, "token": "k"})
        accepted = {"batch": "b", "tasks": ["c", "d"], "joined": False}
        self.backend.reply(accepted)
        self.assertEqual((client.answer.status, client.answer.body), (202, accepted))
        self.assertEqual(client.answer.headers["location"], "/api/v1/batches/b")

    def test_a_batch_is_shown(self):
        client = self.ask("GET", "/api/v1/batches/b")
        self.assert_asked("taskd.get", {"batch": "b"})
        self.backend.reply({"batch": "b"})
        self.assertEqual(client.answer.body, {"batch": "b"})
        self.ask("GET", "/api/v1/batches/b?wait=5")
        self.assert_asked("taskd.wait", {"batch": "b", "timeout": 5.0})

    def test_a_batch_is_cancelled(self):
        client = self.ask("DELETE", "/api/v1/batches/b")
        self.assert_asked("taskd.get", {"batch": "b"})
        self.backend.reply({"batch": "b"})
        self.assert_asked("taskd.cancel", {"task": "b"})
        self.backend.reply({"was": "running"})
        self.assertEqual(client.answer.body, {"was": "running"})


class AnswerTests(ApiCase):
    def test_functions_and_the_status_are_shown(self):
        client = self.ask("GET", "/api/v1/functions")
        self.assert_asked("taskd.functions", None)
        self.backend.reply([{"name": "f"}])
        self.assertEqual(client.answer.body, {"functions": [{"name": "f"}]})
        client = self.ask("GET", "/api/v1/status")
        self.assert_asked("taskd.status", None)
        self.backend.reply({"name": "x"})
        self.assertEqual(client.answer.body, {"name": "x"})

    def test_errors_of_the_task_server_have_their_statuses(self):
        for error, status, after in (
            (Busy("full", retry_after=2.4), 429, "3"),
            (Busy("full"), 429, "1"),
            (ShuttingDown("stopping"), 503, "1"),
            (Unreachable("gone", sent=True), 502, None),
            (InternalError("a bug", reference="x"), 500, None),
            (MethodNotFound("no such function"), 501, None),
            (NotAllowed("no store"), 403, None),
            (TooLarge("too long", limit=5), 413, None),
            (TooLarge("no room", limit=5, dropped=True), 503, "1"),
        ):
            client = self.ask("GET", "/api/v1/status")
            self.backend.reply(error)
            answer = client.answer
            self.assertEqual((answer.status, answer.headers.get("retry-after")), (status, after))
            self.assertEqual((answer.body["code"], answer.body["status"]), (error.code, status))
            self.assertEqual(answer.body["detail"], error.message)

    def test_a_task_server_that_does_not_answer_is_a_gateway_timeout(self):
        for path, seconds in (("status", ANSWER_SECONDS), ("tasks/a?wait=30", ANSWER_SECONDS + 30)):
            client = self.ask("GET", f"/api/v1/{path}")
            self.reactor.advance(seconds - 1)
            self.assertEqual(client.answers, [])
            self.reactor.advance(1)
            self.assertEqual((client.answer.status, client.answer.body["code"]), (504, -32001))
            self.backend.reply({})
            client.send(http("GET", "/api/v1/nothing"))
            self.assertEqual([answer.status for answer in client.answers], [504, 404])
        self.assertEqual(list(self.peers), [])

    def test_an_answer_in_time_leaves_no_timer(self):
        client = self.ask("GET", "/api/v1/status")
        self.backend.reply({})
        client.leave()
        self.ask("GET", "/api/v1/status").leave()
        self.assertLess(
            max([call.getTime() for call in self.reactor.getDelayedCalls()], default=0), ANSWER_SECONDS / 2
        )

    def test_head_has_the_headers_of_get_and_no_body(self):
        self.client.send(http("HEAD", "/api/v1/status"))
        self.backend.reply({"name": "x"})
        head, _, body = self.client.socket.sent.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: 12", head)
        self.assertEqual(body, b"")
        self.client.turns()
        self.client.socket.sent = b""
        self.client.send(http("GET", "/api/v1/status"))
        self.backend.reply({"name": "x"})
        self.assertEqual(self.client.answer.body, {"name": "x"})

    def test_an_unknown_path_is_not_found(self):
        for path in ("", "nothing", "tasks/", "tasks/a/", "tasks/a/b", "TASKS", "tasks//why", "../rpc"):
            answer = self.asked("GET", f"/api/v1/{path}")
            self.assertEqual((answer.status, answer.body["title"]), (404, "Not Found"), path)

    def test_another_method_is_refused_with_those_that_are_allowed(self):
        for method, path, allowed in (
            ("POST", "status", "get, head, options"),
            ("DELETE", "tasks", "post, get, head, options"),
            ("GET", "tasks/a/retry", "post, options"),
        ):
            answer = self.asked(method, f"/api/v1/{path}")
            self.assertEqual((answer.status, answer.headers["allow"]), (405, allowed))
        self.assertEqual(self.asked("PUT", "/api/v1/tasks").status, 405)

    def test_a_client_that_does_not_accept_json_gets_406(self):
        for accept in ("text/html", "image/*, text/plain;q=0.5", "application/json;q=0", "*/*;q=0"):
            answer = self.asked("GET", "/api/v1/status", None, f"Accept: {accept}")
            self.assertEqual(answer.status, 406, accept)
        for accept in (
            "application/json",
            "*/*",
            "text/html, application/*;q=0.1",
            "application/problem+json",
        ):
            client = self.ask("GET", "/api/v1/status", None, f"Accept: {accept}")
            self.backend.reply({})
            self.assertEqual(client.answer.status, 200, accept)

    def test_a_body_must_be_json(self):
        self.assertEqual(self.asked("POST", "/api/v1/tasks", b"a=b", kind="text/plain").status, 415)

    def test_a_bug_is_answered_and_logged(self):
        self.client.send(http("GET", "/api/v1/tasks"))
        self.backend.reply(b'{"this": "is no list"}')
        self.assertEqual((self.client.answer.status, self.client.answer.body["code"]), (500, -32603))
        self.assertEqual(len(self.flushLoggedErrors()), 1)


class EndTests(ApiCase):
    def test_a_gateway_that_stops_takes_nothing_new(self):
        request = http("POST", "/api/v1/tasks", {"function": "f"})
        self.client.send(request[:-1])
        self.peers.stop_accepting()
        self.client.send(request[-1:])
        self.assertEqual((self.client.answer.status, self.client.answer.body["code"]), (503, -32005))

    def test_a_request_that_takes_too_long_is_given_up(self):
        client = self.ask("GET", "/api/v1/status")
        self.peers.stop_accepting()
        self.peers.give_up(Failure.of(ShuttingDown("too late")))
        self.assertEqual((client.answer.status, client.answer.headers["connection"]), (503, "close"))
        self.successResultOf(self.peers.close())


class MemoryTests(ApiCase):
    def test_a_connection_that_is_gone_is_freed_at_once(self):
        requests = (
            (http("GET", "/api/v1/status"), {}),
            (http("GET", "/api/v1/tasks/a?wait=5"), None),
            (http("POST", "/api/v1/tasks", {"function": "f"}), None),
            (http("POST", "/rpc", {"jsonrpc": "2.0", "id": 1, "method": "a"}), 5),
            (http("POST", "/rpc", {"jsonrpc": "2.0", "id": 1, "method": "a"}), None),
            (http("POST", "/rpc", b"x" * 100_000)[:-1], None),
            (http("GET", "/api/v1/nothing"), None),
        )
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for request, answer in requests:
            client = self.connect()
            client.send(request)
            if answer is not None:
                self.backend.reply(answer)
            client.leave()
            self.backend.waiting.clear()
            channel = weakref.ref(client.channel)
            del client
            self.assertIsNone(channel(), request)


class TableTests(GatewayCase):
    def test_every_operation_has_a_handler(self):
        self.assertEqual({operation.name for operation in OPERATIONS}, set(HANDLERS))

    def test_a_path_has_the_methods_of_its_operations(self):
        self.assertEqual(methods_of(b"/api/v1/tasks"), (b"POST", b"GET", b"HEAD"))
        self.assertIsNone(methods_of(b"/api/v1/nothing"))
        self.assertEqual((takes_body(b"/api/v1/tasks"), takes_body(b"/api/v1/tasks/a/retry")), (True, False))
