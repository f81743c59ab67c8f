"""The bodies of HTTP requests: how they arrive, how long they may take, and how much there is room for."""

from taskd.scheduler.budget import STUCK_SECONDS, TICK
from taskd.web.channel import BODY_RATE, BODY_SECONDS
from tests.unit.web.gateways import LONGEST, GatewayCase, http

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
LONG = {"jsonrpc": "2.0", "id": 1, "method": "size", "params": ["x" * (LONGEST - 100)]}


class BodyTests(GatewayCase):
    def test_a_body_is_read_however_it_is_cut(self):
        request = http("POST", "/rpc", PING)
        for size in (1, 7, len(request)):
            client = self.connect()
            for at in range(0, len(request), size):
                client.send(request[at : at + size])
            self.backend.reply(5)
            self.assertEqual(client.answer.body, {"jsonrpc": "2.0", "id": 1, "result": 5})

    def test_a_body_may_begin_and_be_followed_by_blank_lines(self):
        body = b'\r\n\r\n{"jsonrpc":"2.0","id":1,"method":"ping"}\r\n'
        self.client.send(http("POST", "/rpc", body) + b"\r\n" + http("POST", "/rpc", PING))
        self.backend.reply(1)
        self.client.turns()
        self.backend.reply(2)
        self.assertEqual([answer.body["result"] for answer in self.client.answers], [1, 2])

    def test_requests_that_are_sent_together_are_answered_one_after_the_other(self):
        self.client.send(http("POST", "/rpc", PING) * 3)
        for number in range(3):
            self.assertEqual(self.backend.asked, [("ping", None)])
            self.backend.reply(number)
            self.client.turns()
        self.assertEqual([answer.body["result"] for answer in self.client.answers], [0, 1, 2])

    def test_a_body_that_comes_too_slowly_is_refused(self):
        self.client.send(http("POST", "/api/v1/tasks", b"x" * 100)[:-50])
        self.reactor.advance(BODY_SECONDS - 1)
        self.assertEqual(self.client.answers, [])
        self.reactor.advance(2)
        answer = self.client.answer
        self.assertEqual((answer.status, answer.headers["connection"]), (408, "close"))
        self.assertIn("50 bytes are missing", answer.body["detail"])

    def test_a_long_body_has_more_time(self):
        self.client.send(http("POST", "/rpc", LONG)[:-50])
        self.reactor.advance(BODY_SECONDS + LONGEST / BODY_RATE - 2)
        self.assertEqual(self.client.answers, [])
        self.reactor.advance(3)
        self.assertEqual(self.client.answer.status, 408)
        self.assertEqual(self.budget.held, 0)

    def test_a_long_body_is_counted_for_the_party_until_the_request_is_answered(self):
        request = http("POST", "/rpc", LONG)
        self.client.send(request[: LONGEST // 2])
        self.assertGreater(self.budget.held, LONGEST // 3)
        self.assertEqual(self.budget.biggest()[0][0], "192.0.2.7")
        self.client.send(request[LONGEST // 2 :])
        self.assertGreater(self.budget.held, LONGEST // 2)
        self.backend.reply(1)
        self.assertEqual((self.client.answer.status, self.budget.held), (200, 0))

    def test_a_body_whose_client_has_gone_is_forgotten(self):
        self.client.send(http("POST", "/rpc", LONG)[: LONGEST // 2])
        self.client.leave()
        self.assertEqual((self.budget.held, len(self.site.channels)), (0, 0))

    def test_a_client_that_awaits_it_is_invited_to_send_the_body(self):
        request = http("POST", "/rpc", PING, "Expect: 100-continue")
        head, _, body = request.partition(b"\r\n\r\n")
        self.client.send(head + b"\r\n\r\n")
        self.assertEqual(self.client.socket.sent, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.client.send(body)
        self.backend.reply(1)
        self.assertEqual([answer.status for answer in self.client.answers], [100, 200])

    def test_a_client_that_does_not_wait_is_not_invited(self):
        self.client.send(http("POST", "/rpc", PING, "Expect: 100-continue"))
        self.backend.reply(1)
        self.assertEqual(self.client.answer.status, 200)

    def test_a_body_that_is_not_wanted_is_refused_before_it_is_sent(self):
        for lines, status in (
            ((f"Content-Length: {LONGEST}",), 413),
            ((f"Content-Length: {LONGEST}", "Expect: 100-continue"), 413),
            (("Transfer-Encoding: chunked",), 411),
            (("Content-Length: 10", "Expect: more"), 417),
        ):
            answer = self.asked("POST", "/rpc", None, *lines)
            self.assertEqual((answer.status, answer.headers["connection"]), (status, "close"), lines)
        self.assertEqual(self.asked("GET", "/api/v1/tasks", b"x").status, 413)
        self.assertEqual(self.asked("POST", "/api/v1/tasks/a/retry", b"x").status, 413)

    def test_a_longer_body_than_any_message_is_refused_and_the_longest_is_taken(self):
        self.client.send(http("POST", "/rpc", b"x" * (LONGEST - 1)))
        self.assertEqual(self.client.answer.status, 400, "it is no JSON")
        self.assertEqual(self.asked("POST", "/rpc", b"x" * LONGEST).status, 413)


class CrowdTests(GatewayCase):
    """Clients of one party, who together send more than there is room for."""

    limit = 16 * LONGEST

    def setUp(self):
        super().setUp()
        self.request = http("POST", "/rpc", LONG)
        self.crowd = [self.connect() for _ in range(20)]

    def send_all(self, rests):
        for client in list(rests):
            rests[client] = client.send(rests[client])
            if not rests[client]:
                del rests[client]

    def test_bodies_without_room_wait_and_all_are_served_in_the_end(self):
        rests = dict.fromkeys(self.crowd, self.request)
        self.send_all(rests)
        self.assertGreater(len(rests), 0, "some wait")
        self.assertLess(self.budget.held, self.limit)
        newcomer = self.connect("192.0.2.8")
        newcomer.send(http("POST", "/rpc", PING))
        for _ in range(200):
            while self.backend.waiting:
                self.backend.reply(1)
            self.reactor.advance(TICK)
            self.send_all(rests)
        self.assertEqual(newcomer.answer.status, 200)
        self.assertEqual([client.answer.status for client in self.crowd], [200] * 20)
        self.assertEqual(self.budget.held, 0)

    def test_a_body_without_room_is_refused_after_a_time_with_retry_after(self):
        rests = dict.fromkeys(self.crowd, self.request[:-50])  # whoever has room does not make use of it
        for _ in range(int(STUCK_SECONDS / TICK) + 10):
            self.reactor.advance(TICK)
            self.send_all(rests)
        refused = [client.answer for client in self.crowd if client.answers]
        self.assertGreater(len(refused), 0)
        for answer in refused:
            self.assertEqual((answer.status, answer.headers["retry-after"]), (429, "1"))
            self.assertIn("--max-buffered", answer.body["detail"])
