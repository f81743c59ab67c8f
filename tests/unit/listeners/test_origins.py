"""The pages that may open a websocket, and the settings of every websocket of the gateway."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.listeners.gateway import GatewayConfig
from taskd.listeners.origins import is_allowed_origin

HOST = "tasks.example.org:8080"


def allowed(origin, host=HOST, patterns=()):
    return is_allowed_origin(origin, host, patterns)


class OwnOriginTests(SynchronousTestCase):
    def test_a_page_of_the_same_host_and_port_may_connect(self):
        self.assertTrue(allowed("http://tasks.example.org:8080"))
        self.assertTrue(allowed("https://tasks.example.org:8080"))

    def test_host_names_are_compared_like_dns_names(self):
        self.assertTrue(allowed("http://TASKS.example.ORG:8080"))
        self.assertTrue(allowed("http://tasks.example.org:8080", "Tasks.Example.org:8080"))

    def test_an_origin_without_a_port_has_the_default_port_of_its_scheme(self):
        self.assertTrue(allowed("http://tasks.example.org", "tasks.example.org"))
        self.assertTrue(allowed("http://tasks.example.org:80", "tasks.example.org"))
        self.assertTrue(allowed("https://tasks.example.org", "tasks.example.org"))
        self.assertTrue(allowed("https://tasks.example.org", "tasks.example.org:443"))
        self.assertFalse(allowed("http://tasks.example.org", "tasks.example.org:443"))
        self.assertFalse(allowed("https://tasks.example.org:8080", "tasks.example.org"))

    def test_an_ipv6_address_can_be_the_host(self):
        self.assertTrue(allowed("http://[2001:db8::1]:8080", "[2001:db8::1]:8080"))
        self.assertFalse(allowed("http://[2001:db8::2]:8080", "[2001:db8::1]:8080"))

    def test_a_page_of_another_host_or_port_may_not_connect(self):
        for origin in (
            "http://tasks.example.org",
            "http://tasks.example.org:8081",
            "http://example.org:8080",
            "http://tasks.example.org.evil.example:8080",
            "http://eviltasks.example.org:8080",
            "http://user@evil.example:8080",
            "http://tasks.example.org:8080@evil.example",
        ):
            self.assertFalse(allowed(origin), origin)

    def test_an_origin_with_a_foreign_scheme_may_not_connect(self):
        for origin in (
            "ftp://tasks.example.org:8080",
            "file://tasks.example.org:8080",
            "tasks.example.org:8080",
        ):
            self.assertFalse(allowed(origin), origin)

    def test_a_client_without_an_origin_may_connect(self):
        self.assertTrue(allowed(None))
        self.assertTrue(allowed(None, ""))

    def test_an_opaque_or_empty_origin_may_not_connect(self):
        for origin in ("null", "", "http://", "http://:8080", "https:///path", "//tasks.example.org:8080"):
            self.assertFalse(allowed(origin), origin)

    def test_a_request_without_a_host_matches_no_origin(self):
        for host in ("", ":8080", "[", "tasks.example.org:port"):
            self.assertFalse(allowed("http://tasks.example.org:8080", host), host)

    @given(st.text(), st.text(), st.lists(st.text(), max_size=2))
    def test_checking_any_text_raises_nothing(self, origin, host, patterns):
        self.assertIs(type(is_allowed_origin(origin, host, patterns)), bool)

    @given(
        st.sampled_from(["http", "https"]),
        st.from_regex(r"[a-z]{1,9}\.example", fullmatch=True),
        st.integers(1, 65535),
    )
    def test_only_pages_of_the_gateways_own_host_may_connect(self, scheme, host, port):
        self.assertTrue(allowed(f"{scheme}://{host}:{port}", f"{host}:{port}"))
        self.assertFalse(allowed(f"{scheme}://{host}:{port}", f"x{host}:{port}"))
        self.assertFalse(allowed(f"{scheme}://{host}x:{port}", f"{host}:{port}"))


class LoopbackTests(SynchronousTestCase):
    def test_pages_of_this_machine_may_connect_from_any_port(self):
        for origin in (
            "http://localhost",
            "http://LOCALHOST:3000",
            "https://localhost:8443",
            "http://127.0.0.1:5173",
            "http://127.9.9.9",
            "http://[::1]",
            "http://[::1]:4000",
        ):
            self.assertTrue(allowed(origin), origin)

    def test_origins_that_only_resemble_this_machine_may_not_connect(self):
        for origin in (
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://notlocalhost",
            "http://0.0.0.0",
            "http://10.0.0.1",
            "http://[::2]",
            "http://localhost@evil.example",
        ):
            self.assertFalse(allowed(origin), origin)


class PatternTests(SynchronousTestCase):
    def test_a_listed_origin_may_connect(self):
        self.assertTrue(
            allowed("https://app.example.com", patterns=["https://other.example", "https://app.example.com"])
        )

    def test_a_star_matches_any_text(self):
        patterns = ["https://*.example.com", "http://dev-*.example.net:8080"]
        for origin in ("https://a.example.com", "https://a.b.example.com", "http://dev-7.example.net:8080"):
            self.assertTrue(allowed(origin, patterns=patterns), origin)
        for origin in (
            "https://example.com",
            "http://a.example.com",
            "https://a.example.com.evil.example",
            "https://a.example.com:8443",
            "http://dev-7.example.net",
        ):
            self.assertFalse(allowed(origin, patterns=patterns), origin)

    def test_a_star_alone_allows_every_origin(self):
        for origin in ("http://evil.example", "null", "file://"):
            self.assertTrue(allowed(origin, patterns=["*"]), origin)

    def test_a_pattern_must_match_the_whole_origin(self):
        for origin in (
            "https://evil.example/https://app.example.com",
            "https://app.example.com@evil.example",
        ):
            self.assertFalse(allowed(origin, patterns=["https://app.example.com"]), origin)


class FactoryTests(SynchronousTestCase):
    """The settings that Autobahn leaves open by default."""

    def setUp(self):
        self.gateway = GatewayConfig(["tcp:127.0.0.1:1"], max_message=5000).start(Clock())
        self.factory = self.gateway.factory

    def test_a_silent_peer_is_pinged_and_then_dropped(self):
        self.assertTrue(0 < self.factory.autoPingInterval <= 30)
        self.assertTrue(0 < self.factory.autoPingTimeout <= 30)

    def test_messages_have_a_limit(self):
        # With its LF, which a websocket message does not have, 5000 bytes at most.
        self.assertIn(self.factory.maxMessagePayloadSize, (4999, 5000))
        self.assertIn(self.factory.maxFramePayloadSize, (4999, 5000))

    def test_a_peer_that_breaks_the_rules_gets_a_close_frame(self):
        self.assertFalse(self.factory.failByDrop)

    def test_an_unfinished_handshake_is_dropped(self):
        self.assertTrue(0 < self.factory.openHandshakeTimeout <= 30)
        self.assertTrue(0 < self.factory.closeHandshakeTimeout <= 30)

    def test_an_invalid_task_server_endpoint_raises_value_error(self):
        for server in ("nonsense", "tcp:localhost", ""):
            self.assertRaises(ValueError, GatewayConfig([server]).start, Clock())
