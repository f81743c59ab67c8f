"""JSON-RPC over HTTP: what is taken, how it is answered, and what becomes of a client that leaves."""

import json

from taskd.errors import Busy, ShuttingDown
from taskd.model import Failure
from taskd.net.backpressure import STALL_GRACE
from tests.unit.sockets import MUCH
from tests.unit.web.gateways import GatewayCase, http


def rpc(number, method, *params, **more):
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params), **more}


class MessageTests(GatewayCase):
    def test_a_request_gets_its_reply_on_both_paths(self):
        for path in ("/", "/rpc", "/rpc?x=1"):
            client = self.connect()
            client.send(http("POST", path, rpc(7, "add", 1, 2)))
            self.assertEqual(self.backend.asked, [("add", [1, 2])])
            self.backend.reply(3)
            self.assertEqual(client.answer.status, 200)
            self.assertEqual(client.answer.body, {"jsonrpc": "2.0", "id": 7, "result": 3})
            self.assertEqual(client.answer.headers["cache-control"], "no-store")

    def test_a_bare_request_gets_its_result(self):
        self.client.send(http("POST", "/rpc", {"function": "add", "args": [1, 2]}))
        self.backend.reply(3)
        self.assertEqual((self.client.answer.status, self.client.answer.body), (200, 3))

    def test_a_batch_gets_one_reply_when_all_of_it_is_answered(self):
        batch = [rpc(1, "a"), {"jsonrpc": "2.0", "method": "b"}, rpc(2, "c")]
        self.client.send(http("POST", "/rpc", batch))
        self.backend.reply(10)
        self.backend.reply(20)
        self.assertEqual(self.client.answers, [])
        self.backend.reply(30)
        self.assertEqual([reply["result"] for reply in self.client.answer.body], [10, 30])

    def test_a_notification_gets_an_answer_without_a_body_when_it_has_ended(self):
        self.client.send(
            http("POST", "/rpc", {"jsonrpc": "2.0", "method": "a"}) + http("POST", "/rpc", rpc(1, "b"))
        )
        self.backend.reply(1)
        self.assertEqual((self.client.answer.status, self.client.answer.body), (204, b""))
        self.assertNotIn("content-length", self.client.answer.headers)
        self.client.turns()
        self.backend.reply(2)
        self.assertEqual(self.client.answers[1].body["result"], 2)

    def test_an_error_of_a_function_is_a_reply_like_others(self):
        self.client.send(http("POST", "/rpc", rpc(1, "a")))
        self.backend.reply(Busy("the queue is full", retry_after=2))
        self.assertEqual((self.client.answer.status, self.client.answer.body["error"]["code"]), (200, -32004))

    def test_a_body_that_is_no_request_is_a_bad_request(self):
        for body in (b"", b"{", b"5", b"[]", b"\xff", b'{"function": 5, "method": 6}'):
            answer = self.asked("POST", "/rpc", body)
            self.assertEqual(answer.status, 400, body)
            self.assertIn(answer.body["error"]["code"], (-32700, -32600))

    def test_other_content_types_are_refused(self):
        for kind in (
            None,
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ):
            answer = self.asked("POST", "/rpc", rpc(1, "a"), kind=kind)
            self.assertEqual((answer.status, answer.headers["accept-post"]), (415, "application/json"))
        answer = self.asked("POST", "/rpc", rpc(1, "a"), "Content-Encoding: gzip")
        self.assertEqual(answer.status, 415)
        self.client.send(http("POST", "/rpc", rpc(1, "a"), kind="Application/JSON; charset=utf-8"))
        self.assertEqual(self.backend.asked, [("a", [])])

    def test_the_header_traceparent_is_the_option_of_requests_that_have_none(self):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        other = trace.replace("b7", "c8")
        batch = [rpc(1, "a"), rpc(2, "b", options={"traceparent": other, "priority": 2})]
        self.client.send(http("POST", "/rpc", batch, f"traceparent: {trace}"))
        options = [request.options for request, _ in self.backend.waiting]
        self.assertEqual([each.traceparent for each in options], [trace, other])
        self.assertEqual(options[1].priority, 2)

    def test_progress_and_events_are_refused(self):
        for message in (rpc(1, "taskd.attach", "x"), rpc(1, "a", options={"progress": True})):
            answer = self.asked("POST", "/rpc", message)
            self.assertEqual((answer.status, answer.body["error"]["code"]), (200, -32008))
        self.assertEqual(self.backend.asked, [])

    def test_other_methods_are_refused_with_those_that_are_allowed(self):
        for method, path, allowed in (
            ("GET", "/rpc", "POST, OPTIONS"),
            ("DELETE", "/", "GET, HEAD, POST, OPTIONS"),
        ):
            answer = self.asked(method, path)
            self.assertEqual((answer.status, answer.headers["allow"].upper()), (405, allowed))

    def test_a_member_of_a_batch_can_be_cancelled_from_within_it(self):
        self.client.send(http("POST", "/rpc", [rpc(1, "a"), rpc(2, "taskd.cancel")]))
        self.assertEqual(self.backend.asked, [("a", []), ("taskd.cancel", [])])

    def test_an_old_client_gets_one_answer_and_the_end(self):
        self.client.send(http("POST", "/rpc", rpc(1, "a"), version="1.0"))
        self.backend.reply(1)
        self.assertEqual(self.client.answer.headers["connection"], "close")
        self.assertTrue(self.client.is_closed)

    def test_a_client_may_ask_for_the_end(self):
        self.client.send(http("POST", "/rpc", rpc(1, "a"), "Connection: close"))
        self.backend.reply(1)
        self.assertEqual(self.client.answer.headers["connection"], "close")
        self.assertTrue(self.client.is_closed)


MESSAGE = rpc(1, "a")


class RateTests(GatewayCase):
    message_rate = 4.0

    def ask(self, message=MESSAGE, path="/rpc"):
        """Send a request on the first connection, and return the response to it."""
        before = len(self.client.answers)
        self.client.send(http("POST", path, message))
        while self.backend.waiting:
            self.backend.reply(1)
        self.client.turns()
        (answer,) = self.client.answers[before:]
        return answer

    def test_requests_over_the_rate_of_their_connection_are_refused_until_there_is_room(self):
        self.assertEqual([self.ask().status for _ in range(4)], [200] * 4)
        for _ in range(3):  # those that are refused do not count
            answer = self.ask()
            self.assertEqual((answer.status, answer.headers["retry-after"]), (429, "1"))
            self.assertEqual((answer.body["limit"], answer.body["retry_after"]), ("message-rate", 0.25))
        self.assertEqual(self.asked("GET", "/healthz").status, 200)
        self.reactor.advance(0.25)
        self.assertEqual(self.ask().status, 200)
        self.assertEqual(self.ask().status, 429)

    def test_the_members_of_a_batch_count_and_the_time_to_wait_is_that_of_all(self):
        self.assertEqual(self.ask([MESSAGE] * 24).status, 200)
        answer = self.ask()
        self.assertEqual((answer.status, answer.headers["retry-after"]), (429, "6"))
        self.reactor.advance(5)
        self.assertEqual(self.ask().status, 429)
        self.reactor.advance(0.25)
        self.assertEqual(self.ask().status, 200)

    def test_requests_to_the_api_count_and_pages_and_preflights_do_not(self):
        for _ in range(5):
            self.client.send(http("GET", "/taskd.js"))
            self.client.send(http("OPTIONS", "/rpc", None, "Origin: https://app.example"))
        for _ in range(5):
            self.client.send(http("GET", "/api/v1/tasks/t"))
            self.backend.reply({"task": "t"}) if self.backend.waiting else None
        statuses = [each.status for each in self.client.answers]
        self.assertEqual(statuses, [200, 204] * 5 + [200] * 4 + [429])

    def test_each_connection_has_a_rate_of_its_own(self):
        for _ in range(5):
            self.ask()
        self.client = self.connect()
        self.assertEqual(self.ask().status, 200)


class LeavingTests(GatewayCase):
    def test_a_task_goes_on_when_its_client_leaves(self):
        self.client.send(http("POST", "/rpc", rpc(1, "a")))
        self.client.leave()
        self.assertEqual((self.backend.cancelled, self.backend.detached), ([], ["a"]))
        self.backend.reply(1)
        self.assertEqual(list(self.peers), [])

    def test_a_task_that_must_not_outlive_its_client_is_cancelled(self):
        self.client.send(http("POST", "/rpc", rpc(1, "a", options={"on_disconnect": "cancel"})))
        self.client.leave()
        self.assertEqual(self.backend.cancelled, ["a"])

    def test_the_end_of_a_client_shows_while_its_request_is_served_in_a_later_turn(self):
        self.client.send(http("POST", "/rpc", rpc(1, "a")) + http("POST", "/rpc", rpc(2, "b")))
        self.backend.reply(1)
        self.client.turns()
        self.assertEqual(self.backend.asked, [("b", [])])
        self.client.leave()
        self.assertEqual(self.backend.detached, ["b"])


class SlowReaderTests(GatewayCase):
    RESULT = json.dumps("x" * 500_000).encode()

    def ask(self, room):
        self.client.socket.room = room
        self.client.send(http("POST", "/rpc", rpc(1, "a")))
        self.backend.reply(self.RESULT)

    def test_a_long_response_is_sent_as_its_client_reads(self):
        self.ask(1000)
        self.assertGreater(self.budget.held, 400_000)
        while self.client.transport in self.reactor.writers:
            self.reactor.advance(STALL_GRACE - 1)
            self.client.read(70_000)
        self.assertEqual(self.client.answer.body["result"], "x" * 500_000)
        self.client.read(MUCH)
        self.client.send(http("POST", "/rpc", rpc(2, "b")))
        self.backend.reply(1)
        self.assertEqual(self.client.answers[1].body["result"], 1)

    def test_a_client_that_does_not_read_is_disconnected(self):
        self.ask(1000)
        self.reactor.advance(STALL_GRACE - 1)
        self.assertFalse(self.client.is_closed)
        self.reactor.advance(1)
        self.reactor.advance(0)
        self.assertTrue(self.client.is_closed)
        self.assertEqual((self.budget.held, list(self.peers)), (0, []))

    def test_so_is_one_that_does_not_read_the_last_of_it(self):
        self.ask(480_000)
        self.reactor.advance(STALL_GRACE)
        self.reactor.advance(0)
        self.assertTrue(self.client.is_closed)

    def test_nothing_more_is_served_meanwhile(self):
        self.ask(1000)
        self.client.send(http("POST", "/rpc", rpc(2, "b")))
        self.client.turns()
        self.assertEqual(self.backend.asked, [])
        self.client.read(MUCH)
        self.client.turns()
        self.assertEqual(self.backend.asked, [("b", [])])


class StopTests(GatewayCase):
    def test_requests_in_flight_are_answered_and_are_the_last(self):
        self.client.send(http("POST", "/rpc", rpc(1, "a")) + http("POST", "/rpc", rpc(2, "b")))
        self.peers.stop_accepting()
        drained = self.peers.drain()
        self.assertNoResult(drained)
        self.backend.reply(1)
        self.successResultOf(drained)
        self.assertEqual(
            (self.client.answer.status, self.client.answer.headers["connection"]), (200, "close")
        )
        self.client.turns()
        self.assertTrue(self.client.is_closed)
        self.assertEqual(self.backend.asked, [])
        self.successResultOf(self.peers.close())

    def test_a_new_request_is_refused_with_a_time_to_try_again(self):
        request = http("POST", "/rpc", rpc(1, "a"))
        self.client.send(request[:-1])
        self.peers.stop_accepting()
        self.client.send(request[-1:])
        answer = self.client.answer
        self.assertEqual((answer.status, answer.body["code"]), (503, ShuttingDown.code))
        self.assertEqual((answer.headers["retry-after"], answer.headers["connection"]), ("1", "close"))
        self.assertTrue(self.client.is_closed)

    def test_connections_that_are_idle_are_closed(self):
        silent, served = self.connect(), self.connect()
        served.send(http("GET", "/"))
        self.client.send(b"GET / HT")
        self.peers.stop_accepting()
        self.client.turns()
        self.assertEqual((silent.is_closed, served.is_closed, self.client.is_closed), (True, True, False))

    def test_a_request_that_takes_too_long_is_given_up(self):
        self.client.send(http("POST", "/rpc", rpc(1, "a")))
        self.peers.stop_accepting()
        self.peers.give_up(Failure.of(ShuttingDown("too long")))
        self.assertEqual(self.client.answer.body["error"]["code"], ShuttingDown.code)
        self.assertEqual(self.backend.detached, ["a"])
        self.successResultOf(self.peers.close())
