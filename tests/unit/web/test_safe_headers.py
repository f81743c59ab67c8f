"""The headers of every response, by which a browser makes nothing else of it than it is."""

from taskd.listeners.no_room import UNAVAILABLE
from tests.unit.web.gateways import GatewayCase, http

ALWAYS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}

WEBSOCKET = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


class SafeHeadersTests(GatewayCase):
    def answers(self):
        """One response of every kind that ends by itself, with the request that it answers."""
        requests = (
            *(http("GET", path) for path in ("/", "/ops", "/pages/ops/ops.css", "/taskd.js", "/nothing")),
            *(http("GET", path) for path in ("/healthz", "/readyz")),
            *(http("GET", path) for path in ("/api/v1/openapi.json", "/api/v1/nothing", "/api/v1/tasks?x=1")),
            http("OPTIONS", "/rpc"),
            http("PUT", "/rpc"),
            http("PUT", "/"),
            http("TRACE", "/"),
            http("POST", "/rpc", b"no JSON"),
            http("POST", "/rpc", {"jsonrpc": "2.0", "id": 1, "method": 1}),
            http("POST", "/rpc", {}, "Origin: https://evil.example"),
            http("POST", "/rpc", {}, host="evil.example"),
            http("GET", "/", None, *WEBSOCKET, "Sec-WebSocket-Version: 12"),
            http("GET", "/", None, *WEBSOCKET, "Sec-WebSocket-Version: 13", "Origin: https://evil.example"),
            http("GET", "/" + "x" * 70_000),
            b"no HTTP\r\n\r\n",
        )
        for request in requests:
            client = self.connect()
            client.send(request)
            if self.backend.waiting:
                self.backend.reply({} if b"openapi" not in request else [])
            client.turns()
            for answer in client.answers:
                yield request[:60], answer
        full = self.connect()
        full.socket.sent = UNAVAILABLE
        yield b"no room", full.answer

    def test_every_response_keeps_browsers_from_guessing_framing_and_telling_others(self):
        seen = 0
        for request, answer in self.answers():
            seen += 1
            policy = answer.headers.get("content-security-policy", "")
            for directive in ("default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"):
                self.assertIn(directive, policy, request)
            for name, value in ALWAYS.items():
                self.assertEqual(answer.headers.get(name), value, request)
            self.assertIn("cross-origin-resource-policy", answer.headers, request)
        self.assertEqual(seen, 23)

    def test_a_response_with_a_body_has_its_type_and_charset(self):
        for request, answer in self.answers():
            if answer.body:
                kind = answer.headers.get("content-type", "")
                self.assertTrue("charset=utf-8" in kind or kind.endswith("json"), (request, kind))

    def test_only_what_is_public_may_be_kept_by_browsers_and_proxies(self):
        public = (b"GET / ", b"GET /ops ", b"GET /pages/", b"GET /taskd.js ", b"GET /nothing")
        for request, answer in self.answers():
            kept = "no-cache" if request.startswith(public) and b"Upgrade" not in request else "no-store"
            self.assertEqual(answer.headers.get("cache-control"), kept, request)
