"""Tokens on a gateway: with the handshake of a websocket, as its first message, and with HTTP requests."""

import json

from twisted.logger import formatEvent, globalLogPublisher

from taskd.errors import NotAllowed
from taskd.listeners.gate import ENDING_SECONDS, MESSAGE_WITHOUT_TOKEN, MOST_REFUSED, TOKEN_SECONDS
from taskd.net.websocket_fastpath import TOO_BIG
from tests.unit.frames import CLOSE, CONTINUED, client_frame, compressed_frames
from tests.unit.tokens import FakeVerifier, caller
from tests.unit.web.gateways import LONGEST, GatewayCase, http

SOON = 500.0
"""When the token of a test expires, in the seconds of the reactor."""

EXPIRED, REFUSED = 4401, 4403
MESSAGE = {"jsonrpc": "2.0", "id": 1, "method": "f"}


def bearer(token):
    return f"Authorization: Bearer {token}"


class TokenCase(GatewayCase):
    def setUp(self):
        self.verifier = FakeVerifier(
            caller("alice", functions=("f",), expires=SOON),
            caller("alice", expires=SOON + 100, name="again"),
            caller("bob"),
            caller("root", "operate"),
        )
        super().setUp()

    def websocket(self, *lines):
        client = self.connect()
        head = (
            *("GET / HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"),
            *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *lines),
        )
        client.send(("\r\n".join(head) + "\r\n\r\n").encode())
        client.head, _, rest = client.socket.sent.partition(b"\r\n\r\n")
        client.socket.sent = rest
        return client

    def with_protocols(self, *protocols):
        return self.websocket(f"Sec-WebSocket-Protocol: {', '.join(protocols)}")

    def ask(self, client, *messages):
        client.send(b"".join(client_frame(json.dumps(each).encode()) for each in messages))

    def frames(self, client):
        """Return the frames since the last call: texts decoded, and the codes of closes."""
        client.turns()
        data, client.socket.sent = client.socket.sent, b""
        found = []
        while data:
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4]), 4
            payload = data[start : start + size]
            found.append(int.from_bytes(payload[:2]) if data[0] & 15 == CLOSE else json.loads(payload))
            data = data[start + size :]
        return found

    def rest(self, *request, **more):
        return self.asked(*request, **more)


class WebSocketTests(TokenCase):
    def test_a_token_among_the_subprotocols_lets_a_page_in(self):
        client = self.with_protocols("taskd", "taskd.token.alice")
        self.assertIn(b"sec-websocket-protocol: taskd\r\n", client.head.lower() + b"\r\n")
        self.assertNotIn(b"alice", client.head)
        self.ask(client, MESSAGE)
        self.assertEqual(self.backend.asked, [("f", None)])
        [(_, requester)] = self.backend.waiting
        self.assertEqual((requester.grant.owner, requester.lane.party.key), ("alice", "owner alice"))

    def test_so_does_one_in_the_header_of_a_program(self):
        self.ask(self.websocket(bearer("bob")), MESSAGE)
        self.assertEqual(self.backend.asked, [("f", None)])

    def test_so_does_the_first_message(self):
        client = self.with_protocols("taskd")
        self.ask(client, {**MESSAGE, "method": "taskd.auth", "params": {"token": "bob"}}, MESSAGE)
        [answer] = self.frames(client)
        self.assertEqual(answer["result"]["owner"], "bob")
        self.assertEqual(self.backend.asked, [("f", None)])

    def test_nothing_of_the_handshake_is_kept(self):
        client = self.with_protocols("taskd", "taskd.token.alice")
        websocket = client.transport.protocol
        self.assertNotIn("alice", repr([websocket.http_headers, websocket.websocket_protocols]))
        self.assertNotIn(b"alice", websocket.http_request_data)

    def test_a_token_is_not_logged_even_if_the_handshake_is_refused_for_the_way_it_is_shown(self):
        logged = []

        def observe(event):
            logged.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        for protocols in (
            ("taskd.token.alice", "taskd.token.alice"),
            ("taskd", "Taskd.Token.alice", "Taskd.Token.alice"),
        ):
            client = self.with_protocols(*protocols)
            self.assertIn(b"duplicate protocol", client.head)
            self.assertNotIn(b"alice", client.head)
        self.assertEqual(len([line for line in logged if "duplicate protocol" in line]), 4)
        self.assertNotIn("alice", "".join(logged))

    def test_nothing_is_passed_on_without_a_token(self):
        client = self.websocket()
        self.ask(client, MESSAGE, [MESSAGE], {**MESSAGE, "method": "taskd.whoami"})
        reasons = [
            (each[0] if isinstance(each, list) else each)["error"]["data"]["reason"]
            for each in self.frames(client)
        ]
        self.assertEqual(reasons, ["no token"] * 3)
        self.assertEqual(self.backend.asked, [])

    def test_a_websocket_without_a_token_is_closed_after_a_while(self):
        client, other = self.websocket(), self.websocket(bearer("bob"))
        self.reactor.advance(TOKEN_SECONDS)
        self.assertEqual(self.frames(client), [REFUSED])
        self.assertEqual(self.frames(other), [])

    def test_a_page_learns_by_the_close_what_is_wrong_with_its_token(self):
        self.reactor.advance(SOON)
        for protocols, code in (
            (("taskd", "taskd.token.mallory"), REFUSED),
            (("taskd", "taskd.token.alice"), EXPIRED),
            (("taskd", "taskd.token.again", "taskd.token.bob"), REFUSED),
            (("taskd", "taskd.token."), REFUSED),
        ):
            client = self.with_protocols(*protocols)
            self.assertEqual(self.frames(client), [code], protocols)
            self.ask(client, MESSAGE)
        self.assertEqual(self.backend.asked, [])
        for header in ("Authorization: Basic alice", "Authorization: Bearer", "Authorization: Bearer a, b"):
            self.assertEqual(self.frames(self.websocket(header)), [REFUSED])

    def test_a_message_with_a_token_that_is_refused_closes_the_websocket_after_its_answer(self):
        for token, reason, code in (("mallory", "unknown", REFUSED), ("alice", "expired", EXPIRED)):
            client = self.websocket()
            self.reactor.advance(SOON if token == "alice" else 0)
            client = self.websocket()
            self.ask(client, {**MESSAGE, "method": "taskd.auth", "params": [token]}, MESSAGE)
            answer, *others = self.frames(client)
            self.assertEqual(answer["error"]["data"]["reason"], reason)
            self.assertEqual(others[-1], code)
        self.assertEqual(self.backend.asked, [])

    def test_a_websocket_is_closed_when_its_token_expires_and_gets_no_more_events(self):
        client = self.with_protocols("taskd", "taskd.token.alice")
        peer = self.peer()
        peer.watches = 1
        self.reactor.advance(SOON - 1)
        self.assertEqual(self.frames(client), [])
        self.reactor.advance(1)
        self.assertEqual((self.frames(client), peer.watches), ([EXPIRED], 0))

    def test_a_new_token_of_the_same_owner_keeps_it_open(self):
        client = self.with_protocols("taskd", "taskd.token.alice")
        self.ask(client, {**MESSAGE, "method": "taskd.auth", "params": ["again"]})
        self.frames(client)
        self.reactor.advance(SOON)
        self.assertEqual(self.frames(client), [])
        self.reactor.advance(100)
        self.assertEqual(self.frames(client), [EXPIRED])

    def test_requests_from_before_the_expiry_are_answered_before_the_close(self):
        client = self.with_protocols("taskd", "taskd.token.alice")
        self.ask(client, MESSAGE)
        self.reactor.advance(SOON)
        self.assertEqual(self.frames(client), [])
        self.ask(client, {**MESSAGE, "id": 2})
        self.backend.reply(5)
        self.assertEqual(self.frames(client), [{"jsonrpc": "2.0", "id": 1, "result": 5}, EXPIRED])

    def test_a_revoked_token_closes_its_websockets_at_once(self):
        client = self.with_protocols("taskd", "taskd.token.alice")
        self.ask(client, MESSAGE)
        del self.verifier.callers["alice"]
        self.gate.tokens_changed()
        answer, code = self.frames(client)
        self.assertEqual((answer["error"]["data"]["reason"], code), ("unknown", REFUSED))
        self.backend.reply(5)
        self.assertEqual(self.frames(client), [])

    def test_a_websocket_that_is_gone_is_forgotten(self):
        client = self.with_protocols("taskd", "taskd.token.alice")
        self.websocket().leave()
        client.leave()
        self.reactor.advance(SOON)
        self.assertEqual(list(self.peers), [])

    def peer(self):
        [peer] = self.peers
        return peer


class StrangerTests(TokenCase):
    """What websockets may send that have shown no token."""

    compresses = True

    def long(self, size, method="f"):
        """Return a message with so many bytes."""
        text = json.dumps({**MESSAGE, "id": 9, "method": method, "params": [""]}).encode()
        return text.replace(b'""', b'"%b"' % (b"x" * (size - len(text))))

    def test_a_message_may_be_as_long_as_without_a_token(self):
        client = self.websocket()
        client.send(client_frame(self.long(MESSAGE_WITHOUT_TOKEN - 1)))
        [answer] = self.frames(client)
        self.assertEqual(answer["error"]["data"]["reason"], "no token")

    def test_a_longer_one_closes_the_websocket_by_its_head(self):
        for size in (MESSAGE_WITHOUT_TOKEN, LONGEST // 2):
            client = self.websocket()
            client.send(client_frame(self.long(size))[:20])
            self.assertIn(b"taskd.auth", client.socket.sent)
            self.assertEqual(self.frames(client), [TOO_BIG])

    def test_so_do_fragments_and_many_frames_of_nothing(self):
        client = self.websocket()
        client.send(client_frame(b"x" * 40_000, final=False) + client_frame(b"x" * 40_000, CONTINUED))
        self.assertEqual(self.frames(client), [TOO_BIG])
        client = self.websocket()
        client.send(client_frame(b"", final=False) + client_frame(b"", CONTINUED, final=False) * 1000)
        self.assertEqual(self.frames(client), [TOO_BIG])

    def test_a_compressed_message_is_inflated_no_further(self):
        lines = "Sec-WebSocket-Extensions: permessage-deflate"
        for size, expected in ((MESSAGE_WITHOUT_TOKEN - 1, "no token"), (MESSAGE_WITHOUT_TOKEN, None)):
            for pieces in (1, 3):
                client = self.websocket(lines)
                client.send(b"".join(compressed_frames(self.long(size), pieces)))
                [answer] = self.frames(client)
                if expected is None:
                    self.assertEqual(answer, TOO_BIG)
                else:
                    self.assertEqual(answer["error"]["data"]["reason"], expected)

    def test_a_message_behind_the_token_is_as_long_as_any(self):
        for line in ("X: y", "Sec-WebSocket-Extensions: permessage-deflate"):
            client = self.websocket(line)
            auth = json.dumps({**MESSAGE, "method": "taskd.auth", "params": ["bob"]}).encode()
            client.send(client_frame(auth) + client_frame(self.long(LONGEST // 2, "taskd.whoami")))
            self.assertEqual([each["id"] for each in self.frames(client)], [1, 9])

    def test_so_is_one_behind_a_token_that_waits_for_its_turn(self):
        auth = json.dumps({**MESSAGE, "method": "taskd.auth", "params": ["bob"]}).encode()
        long = client_frame(self.long(LONGEST // 2, "taskd.whoami"))
        for data in (
            client_frame(auth),
            client_frame(auth[:9], final=False) + client_frame(auth[9:], CONTINUED),
        ):
            client = self.websocket()
            self.peers.turns.used = 1.0
            client.transport.protocol.dataReceived(data + long[:100])
            self.assertEqual(client.socket.sent, b"")
            client.turns()
            client.send(long[100:])
            self.assertEqual([each["id"] for each in self.frames(client)], [1, 9])

    def test_only_the_first_of_many_tokens_is_looked_at(self):
        client = self.websocket()
        self.ask(client, [{**MESSAGE, "method": "taskd.auth", "params": [f"guess {n}"]} for n in range(30)])
        self.assertEqual((self.frames(client)[-1], self.verifier.asked), (REFUSED, ["guess 0"]))


class NoTokensTests(GatewayCase):
    def test_the_subprotocol_is_accepted_where_no_tokens_are_asked_for(self):
        client = TokenCase.with_protocols(self, "taskd", "taskd.token.alice")
        self.assertIn(b"sec-websocket-protocol: taskd", client.head.lower())
        client.send(client_frame(json.dumps(MESSAGE).encode()))
        self.assertEqual(self.backend.asked, [("f", None)])

    websocket = TokenCase.websocket


class HttpTests(TokenCase):
    def head(self, path, *lines, length="Content-Length: 1"):
        client = self.connect()
        kind = "text/csv" if path.endswith("batches") else "application/json"
        head = (f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", length, *lines)
        client.send("\r\n".join((*head, "", "")).encode())
        return client

    def test_a_body_without_a_valid_token_is_refused_before_any_of_it_is_sent(self):
        for path in ("/", "/rpc", "/api/v1/tasks", "/api/v1/batches"):
            for length in (
                "Content-Length: 1",
                f"Content-Length: {10 * LONGEST}",
                "Transfer-Encoding: chunked",
            ):
                for lines in ((), (bearer("mallory"),), ("Expect: 100-continue",), (bearer("alice"),) * 2):
                    client = self.head(path, *lines, length=length)
                    [answer] = client.answers
                    shown = (path, length, lines)
                    self.assertEqual((answer.status, answer.headers["connection"]), (401, "close"), shown)
                    self.assertEqual(answer.headers["www-authenticate"][:6], "bearer")
                    self.assertTrue(client.is_closed)
        self.assertEqual((self.budget.held, self.site.responses[401]), (0, 4 * 3 * 4))

    def test_a_body_with_a_valid_token_is_read(self):
        for path in ("/", "/rpc", "/api/v1/tasks", "/api/v1/batches"):
            self.assertEqual(self.head(path, bearer("alice")).answers, [])
        client = self.head("/rpc", bearer("alice"), "Expect: 100-continue")
        self.assertTrue(client.socket.sent.startswith(b"HTTP/1.1 100 "))
        self.assertEqual(
            self.head("/rpc", bearer("bob"), length="Transfer-Encoding: chunked").answer.status, 411
        )

    def test_a_foreign_page_is_refused_by_the_head_and_its_token_is_not_looked_at(self):
        self.assertEqual(self.head("/rpc", bearer("bob"), "Origin: https://evil.example").answer.status, 403)
        self.assertEqual(self.verifier.asked, [])

    def test_the_token_of_a_request_is_verified_once_unless_it_is_revoked_while_the_body_comes(self):
        client = self.head("/rpc", bearer("bob"), length=f"Content-Length: {len(json.dumps(MESSAGE))}")
        client.send(json.dumps(MESSAGE).encode())
        self.assertEqual((self.backend.asked, self.verifier.asked), ([("f", None)], ["bob"]))
        self.backend.reply(1)
        client.send(http("GET", "/api/v1/tasks/t", None))  # on the same connection, and without one
        self.assertEqual([each.status for each in client.answers], [200, 401])
        client = self.head("/rpc", bearer("bob"), length=f"Content-Length: {len(json.dumps(MESSAGE))}")
        del self.verifier.callers["bob"]
        client.send(json.dumps(MESSAGE).encode())
        self.assertEqual(client.answer.status, 401)
        self.assertEqual(self.backend.asked, [])

    def test_a_connection_that_has_shown_three_wrong_tokens_is_closed(self):
        client = self.connect()
        request = http("GET", "/api/v1/functions", None, bearer("mallory"))
        client.send(http("GET", "/api/v1/functions") * 2)
        for count in range(MOST_REFUSED):
            self.assertFalse(client.is_closed, count)
            client.send(request)
        *others, last = client.answers
        self.assertEqual((last.status, last.headers["connection"]), (401, "close"))
        self.assertFalse(any("connection" in each.headers for each in others))
        self.assertTrue(client.is_closed)
        self.assertEqual(self.verifier.asked, ["mallory"] * MOST_REFUSED)

    def test_a_request_needs_a_token(self):
        for request in (
            ("POST", "/rpc", MESSAGE),
            ("POST", "/", MESSAGE),
            ("GET", "/api/v1/tasks"),
            ("GET", "/api/v1/status"),
            ("GET", "/api/v1/functions"),
            ("POST", "/api/v1/tasks", {"function": "f"}),
            ("DELETE", "/api/v1/tasks/x"),
            ("GET", "/metrics"),
        ):
            answer = self.rest(*request)
            self.assertEqual((answer.status, answer.headers["www-authenticate"]), (401, "bearer"), request)
        self.assertEqual(self.backend.asked, [])

    def test_a_token_that_is_refused_is_answered_as_rfc_6750_wants_it(self):
        self.reactor.advance(SOON)
        for header, reason in (
            (bearer("mallory"), "unknown"),
            (bearer("alice"), "expired"),
            ("Authorization: Basic YWxpY2U=", "malformed"),
            ("Authorization: Bearer", "malformed"),
            (bearer("bob") + "\r\n" + bearer("alice"), "malformed"),
        ):
            answer = self.rest("POST", "/rpc", MESSAGE, header)
            self.assertEqual((answer.status, answer.body["reason"]), (401, reason))
            self.assertEqual(answer.headers["www-authenticate"], 'bearer error="invalid_token"')
            self.assertEqual(answer.body["code"], NotAllowed.code)
        self.assertEqual(self.backend.asked, [])

    def test_a_token_in_the_address_means_nothing(self):
        self.assertEqual(self.rest("GET", "/api/v1/functions?token=bob").status, 401)
        self.assertEqual(self.rest("POST", "/rpc?access_token=bob", MESSAGE).status, 401)

    def test_each_request_on_a_connection_has_a_token_of_its_own(self):
        client = self.connect()
        client.send(http("POST", "/rpc", MESSAGE, bearer("alice")))
        [(_, first)] = self.backend.waiting
        self.backend.reply(1)
        client.send(http("POST", "/rpc", MESSAGE, bearer("bob")))
        [(_, second)] = self.backend.waiting
        self.backend.reply(2)
        client.send(http("POST", "/rpc", MESSAGE))
        self.assertEqual([each.status for each in client.answers], [200, 200, 401])
        self.assertEqual([first.lane.party.key, second.lane.party.key], ["owner alice", "owner bob"])
        self.assertEqual(second.grant.owner, "bob")

    def test_requests_that_are_sent_together_have_their_own_tokens_too(self):
        client = self.connect()
        client.send(http("POST", "/rpc", MESSAGE, bearer("alice")) + http("POST", "/rpc", MESSAGE))
        self.backend.reply(1)
        client.turns()
        self.assertEqual([each.status for each in client.answers], [200, 401])

    def test_functions_and_methods_that_the_token_does_not_cover_are_forbidden(self):
        answer = self.rest("POST", "/api/v1/tasks", {"function": "g"}, bearer("alice"))
        self.assertEqual((answer.status, answer.body["reason"]), (403, "function"))
        answer = self.rest(
            "POST", "/api/v1/batches", {"function": "f", "args": [], "then": "g"}, bearer("alice")
        )
        self.assertEqual((answer.status, answer.body["reason"]), (403, "function"))
        answer = self.rest("GET", "/api/v1/status", None, bearer("alice"))
        self.assertEqual((answer.status, answer.body["reason"]), (403, "role"))
        self.assertNotIn("www-authenticate", answer.headers)
        reply = self.rest("POST", "/rpc", {**MESSAGE, "method": "g"}, bearer("alice"))
        self.assertEqual((reply.status, reply.body["error"]["data"]["reason"]), (200, "function"))
        self.assertEqual(self.backend.asked, [])

    def test_a_message_over_http_shows_no_other_token(self):
        auth = {**MESSAGE, "method": "taskd.auth", "params": ["root"]}
        answer = self.rest("POST", "/rpc", [auth, {**MESSAGE, "method": "taskd.status"}], bearer("bob"))
        self.assertEqual([each["error"]["code"] for each in answer.body], [NotAllowed.code] * 2)

    def test_pages_and_health_checks_need_none(self):
        for path in ("/", "/taskd.js", "/healthz"):
            self.assertEqual(self.rest("GET", path).status, 200, path)

    def test_the_description_is_there_for_all_and_has_functions_for_those_with_a_token(self):
        answer = self.rest("GET", "/api/v1/openapi.json")
        self.assertEqual((answer.status, self.backend.asked), (200, []))
        self.assertEqual(self.rest("GET", "/api/v1/openapi.json", None, bearer("mallory")).status, 401)
        client = self.connect()
        client.send(http("GET", "/api/v1/openapi.json", None, bearer("bob")))
        self.assertEqual(self.backend.asked, [("taskd.functions", None)])

    def test_a_page_may_send_the_header_and_asks_for_that_without_a_token(self):
        lines = ("Origin: https://app.example", "Access-Control-Request-Method: POST")
        for path in ("/rpc", "/api/v1/tasks"):
            answer = self.rest("OPTIONS", path, None, *lines)
            self.assertEqual(answer.status, 204)
            self.assertIn("authorization", answer.headers["access-control-allow-headers"])
        refused = self.rest("POST", "/rpc", MESSAGE, lines[0])
        self.assertEqual(refused.status, 401)
        self.assertEqual(refused.headers["access-control-allow-origin"], "https://app.example")
        self.assertIn("www-authenticate", refused.headers["access-control-expose-headers"])

    def test_a_foreign_page_is_refused_whatever_its_token(self):
        answer = self.rest("POST", "/rpc", MESSAGE, "Origin: https://evil.example", bearer("bob"))
        self.assertEqual((answer.status, self.verifier.asked), (403, []))

    def test_the_figures_are_for_operators(self):
        answer = self.rest("GET", "/metrics", None, bearer("bob"))
        self.assertEqual((answer.status, answer.body["reason"]), (403, "role"))


class StreamTests(TokenCase):
    def stream(self, token):
        client = self.connect()
        client.send(http("GET", "/api/v1/tasks/t/events", None, bearer(token), "Accept: text/event-stream"))
        self.backend.reply({"state": "running", "seq": 0})
        return client

    def test_a_stream_ends_when_its_token_expires(self):
        client, other = self.stream("alice"), self.stream("bob")
        peers = list(self.peers)
        for peer in peers:
            peer.watches = 1
        self.reactor.advance(SOON)
        self.assertTrue(client.socket.sent.endswith(b"0\r\n\r\n"))
        self.assertFalse(other.socket.sent.endswith(b"0\r\n\r\n"))
        self.assertEqual(sorted(peer.watches for peer in peers), [0, 1])

    def test_a_stream_that_is_asked_for_and_begins_later_ends_as_well(self):
        self.reactor.advance(SOON - 1)
        client = self.connect()
        client.send(http("GET", "/api/v1/tasks/t/events", None, bearer("alice"), "Accept: text/event-stream"))
        self.reactor.advance(1)
        self.backend.reply({"state": "running", "seq": 0})
        self.assertTrue(client.socket.sent.endswith(b"0\r\n\r\n"))

    def test_a_stream_ends_when_its_token_is_revoked(self):
        client = self.stream("alice")
        del self.verifier.callers["alice"]
        self.gate.tokens_changed()
        self.assertTrue(client.socket.sent.endswith(b"0\r\n\r\n"))
        self.assertEqual(list(self.peers), [])

    def test_a_request_that_lasts_is_answered_for_a_while_after_its_token_has_expired(self):
        self.reactor.advance(SOON - 1)
        client, late = self.connect(), self.connect()
        for each in (client, late):
            each.send(http("GET", "/api/v1/tasks/t", None, bearer("alice")))
        self.reactor.advance(1)
        self.backend.reply({"task": "t"})
        self.assertEqual(client.answer.status, 200)
        self.reactor.advance(ENDING_SECONDS)
        self.assertEqual((late.answer.status, late.answer.body["reason"]), (401, "expired"))


class CoveredTests(TokenCase):
    FUNCTIONS = [
        {"name": name, "signature": f"{name}()", "summary": "", "parameters": {}} for name in ("f", "g")
    ]

    def answered(self, method, path, body=None, token="alice", answer=None, **more):
        client = self.connect()
        client.send(http(method, path, body, bearer(token), **more))
        self.backend.reply(self.FUNCTIONS if answer is None else answer)
        client.turns()
        return client.answer

    def test_the_lists_over_http_have_what_the_token_covers(self):
        for token, expected in (("alice", ["f"]), ("bob", ["f", "g"])):
            listed = self.answered("GET", "/api/v1/functions", token=token).body["functions"]
            self.assertEqual([each["name"] for each in listed], expected)
            message = {"jsonrpc": "2.0", "id": 1, "method": "taskd.functions"}
            listed = self.answered("POST", "/rpc", message, token).body["result"]
            self.assertEqual([each["name"] for each in listed], expected)

    def test_the_document_has_what_the_token_covers_whoever_has_asked_before(self):
        for token, has_g in (("bob", True), ("alice", False), ("bob", True)):
            text = json.dumps(self.answered("GET", "/api/v1/openapi.json", token=token).body)
            self.assertIn('"f"', text)
            self.assertEqual('"g"' in text, has_g)

    def test_the_list_of_a_websocket_has_what_the_token_covers(self):
        client = self.with_protocols("taskd", "taskd.token.alice")
        self.ask(client, {**MESSAGE, "method": "taskd.functions"})
        self.backend.reply(self.FUNCTIONS)
        [answer] = self.frames(client)
        self.assertEqual([each["name"] for each in answer["result"]], ["f"])

    def test_a_csv_text_for_a_function_that_is_not_covered_is_refused_for_that(self):
        client = self.connect()
        client.send(http("POST", "/api/v1/batches?function=g", b"n\n1\n", bearer("alice"), kind="text/csv"))
        self.assertEqual(self.backend.asked, [])
        self.assertEqual(client.answer.status, 403)
        self.assertIn("does not cover the function g", client.answer.body["detail"])
