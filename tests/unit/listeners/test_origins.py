"""The pages that may open a websocket, and the settings of every websocket of the gateway."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.listeners.gateway import GatewayConfig
from taskd.listeners.origins import Origins, host_name

HOST = "tasks.example.org:8080"


def allowed(origin, host=HOST, patterns=(), names=("tasks.example.org",)):
    return Origins(patterns, names).allows(origin, host)


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

    @given(st.text(), st.text())
    def test_checking_any_text_raises_nothing(self, origin, host):
        origins = Origins(["https://*.example.com"], ["tasks.example.org"])
        self.assertIs(type(origins.allows(origin, host)), bool)
        self.assertIs(type(origins.refusal(origin, host)), str)

    @given(
        st.sampled_from(["http", "https"]),
        st.from_regex(r"[a-z]{1,9}\.example", fullmatch=True),
        st.integers(1, 65535),
    )
    def test_only_pages_of_the_gateways_own_host_may_connect(self, scheme, host, port):
        names = [host, f"x{host}", f"{host}x"]
        self.assertTrue(allowed(f"{scheme}://{host}:{port}", f"{host}:{port}", names=names))
        self.assertFalse(allowed(f"{scheme}://{host}:{port}", f"x{host}:{port}", names=names))
        self.assertFalse(allowed(f"{scheme}://{host}x:{port}", f"{host}:{port}", names=names))


class NameTests(SynchronousTestCase):
    """A page can be served from any name, and its owner can make that name point here (DNS rebinding)."""

    def test_a_name_that_was_not_configured_is_not_the_gateways_own(self):
        for host in ("evil.example:8080", "tasks.example.org.evil.example:8080", "example.org:8080"):
            self.assertFalse(allowed(f"http://{host}", host), host)
        self.assertFalse(allowed("http://tasks.example.org", "tasks.example.org", names=()))

    def test_literal_addresses_and_loopback_names_are_the_gateways_own(self):
        for host in (
            "192.0.2.7:8080",
            "[2001:db8::1]:8080",
            "[::ffff:192.0.2.7]",
            "127.0.0.1:81",
            "a.localhost",
        ):
            self.assertTrue(allowed(f"http://{host}", host, names=()), host)
        self.assertTrue(allowed("http://[2001:db8::1]:8080", "[2001:DB8:0:0::1]:8080", names=()))
        self.assertFalse(allowed("http://192.0.2.7:8080", "192.0.2.8:8080", names=()))

    def test_a_text_that_only_looks_like_an_address_is_a_name(self):
        for host in ("192.0.2.7.evil.example", "192.0.2", "0x7f.1", "1.2.3.4.5", "2130706433"):
            self.assertFalse(allowed(f"http://{host}", host, names=()), host)

    def test_a_name_may_be_written_in_any_case_with_a_final_dot_and_as_an_idn(self):
        names = ["Bücher.Example.", "UPPER.example"]
        for origin in ("http://xn--bcher-kva.example", "http://upper.example", "http://upper.example."):
            self.assertTrue(allowed(origin, origin.removeprefix("http://"), names=names), origin)

    def test_names_are_brought_to_the_form_that_browsers_send(self):
        for text, name in (
            ("Tasks.Example.org.", "tasks.example.org"),
            ("faß.example", "xn--fa-hia.example"),
            ("例。example", "xn--fsq.example"),
            ("my_app", "my_app"),
            ("::1", "::1"),
            ("[2001:DB8::1]", "2001:db8::1"),
            ("192.0.2.7", "192.0.2.7"),
        ):
            self.assertEqual(host_name(text), name)

    def test_a_text_that_is_no_host_name_is_refused_with_the_reason(self):
        for text, words in (
            ("", "empty"),
            ("a..b", "empty"),
            ("tasks.example.org:8080", "without a port"),
            ("[::1]:8080", "without a port"),
            ("https://tasks.example.org", "without a scheme"),
            ("*.example.org", "give each name"),
            ("two words", "no label"),
            ("-a.example", "no label"),
            ("192.0.2", "no IPv4 address"),
            ("[::g]", "no IPv6 address"),
            ("x" * 64, "no label"),
            (".".join(["x" * 60] * 5), "253"),
            ("xn--\u0628a\u0300.example", "no label"),
        ):
            error = self.assertRaises(ValueError, host_name, text)
            self.assertIn(words, str(error), text)

    def test_a_refused_page_of_the_same_name_is_pointed_to_the_option(self):
        origins = Origins()
        self.assertIn("--hostname", origins.refusal("http://tasks.example.org:8080", HOST))
        for origin in ("http://other.example", "null", None, "http://tasks.example.org/x"):
            self.assertIn("--allow-origin", origins.refusal(origin, HOST))


class HostTests(SynchronousTestCase):
    """The names by which a request without an origin may reach the gateway."""

    def test_own_names_addresses_and_loopback_names_are_known(self):
        origins = Origins(names=["tasks.example"])
        for host in ("", "TASKS.example.:80", "127.0.0.1", "[::1]:8080", "192.0.2.1:1", "a.localhost"):
            self.assertTrue(origins.knows(host), host)

    def test_other_names_are_not_and_the_reason_names_the_option(self):
        origins = Origins(["https://evil.example"], ["tasks.example"])
        for host in ("evil.example", "x.tasks.example", "a b", "user@localhost", "[::1"):
            self.assertFalse(origins.knows(host), host)
        self.assertIn("--hostname", origins.unknown_host("x" * 500))
        self.assertLess(len(origins.unknown_host("x" * 500)), 200)


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

    def test_a_star_stands_for_labels_or_for_a_part_of_one(self):
        patterns = ["https://*.example.com", "http://dev-*.example.net:8080", "https://a.*.c*d*e.example"]
        for origin in (
            "https://a.example.com",
            "https://a.b.example.com",
            "http://dev-7.example.net:8080",
            "https://a.b.cde.example",
            "https://a.b.c-d-e.example",
        ):
            self.assertTrue(allowed(origin, patterns=patterns), origin)
        for origin in (
            "https://example.com",
            "http://a.example.com",
            "https://a.example.com.evil.example",
            "https://a.example.com:8443",
            "https://aexample.com",
            "https://.example.com",
            "https://a..example.com",
            "http://dev-7.example.net",
            "http://dev-7.b.example.net:8080",
            "https://a.b.b.cde.example",
            "https://a.b.ce.example",
            "https://a.b.xcde.example",
        ):
            self.assertFalse(allowed(origin, patterns=patterns), origin)

    def test_a_page_cannot_hide_its_host_from_a_pattern(self):
        for origin in (
            "https://evil.example/.example.com",
            "https://evil.example#.example.com",
            "https://evil.example?.example.com",
            "https://evil.example\\.example.com",
            "https://evil.example:443/.example.com",
            "https://user@a.example.com",
            "https://user:word@a.example.com",
            "https://evil.example%2e.example.com",
            "https://evil.example\t.example.com",
            "https://evil.example .example.com",
            "https://evil.example,https://a.example.com",
            "https://evil.example https://a.example.com",
            "https://\uff41.example.com",
            "https://a.example.com\n",
            "https://a.example.com:",
            "https://a.example.com:44\u0663",
        ):
            self.assertFalse(allowed(origin, patterns=["https://*.example.com"]), origin)

    def test_patterns_are_compared_like_origins_in_any_notation(self):
        for pattern, origin in (
            ("HTTPS://App.Example.COM", "https://app.example.com"),
            ("https://app.example.com", "https://APP.example.com"),
            ("https://app.example.com.", "https://app.example.com"),
            ("https://*.example.com", "https://a.example.com."),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://app.example.com", "http://app.example.com:80"),
            ("https://*.bücher.example", "https://a.xn--bcher-kva.example"),
            ("http://[2001:DB8:0::1]:8080", "http://[2001:db8::1]:8080"),
            ("http://[2001:db8::1]", "http://[2001:db8::1]:80"),
            ("http://192.0.2.7", "http://192.0.2.7"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
            ("null", "null"),
        ):
            self.assertTrue(allowed(origin, patterns=[pattern]), pattern)

    def test_a_star_can_be_the_port_or_the_whole_host(self):
        for origin in ("http://app.example", "http://app.example:81", "http://app.example:65535"):
            self.assertTrue(allowed(origin, patterns=["http://app.example:*"]), origin)
        for origin in ("https://app.example", "https://192.0.2.7", "https://[2001:db8::1]"):
            self.assertTrue(allowed(origin, patterns=["https://*"]), origin)
        for origin in ("http://app.example", "https://app.example:444", "null"):
            self.assertFalse(allowed(origin, patterns=["https://*"]), origin)

    def test_no_star_stands_for_a_part_of_an_address(self):
        self.assertFalse(allowed("http://10.0.0.1", patterns=["http://*.example", "http://*.x.example"]))

    def test_only_null_is_null(self):
        self.assertFalse(allowed("null", patterns=["https://null", "https://null.example"]))
        self.assertFalse(allowed("NULL", patterns=["null"]))

    def test_a_pattern_that_is_none_is_refused_with_the_reason(self):
        for pattern, words in (
            ("", "no scheme"),
            ("app.example.com", "no scheme"),
            ("*.example.com", "no scheme"),
            ("*://app.example.com", "stand for a scheme"),
            ("http*://app.example.com", "stand for a scheme"),
            ("https://", "empty"),
            ("https://a..b", "empty"),
            ("https://user@app.example.com", "no user"),
            ("https://app.example.com/", "ends with its host and port"),
            ("https://app.example.com/*", "ends with its host and port"),
            ("https://app.example.com?x", "ends with its host and port"),
            ("https://app.example.com:0", "1 to 65535"),
            ("https://app.example.com:65536", "1 to 65535"),
            ("https://app.example.com:port", "SCHEME://HOST"),
            ("https://[::1", "SCHEME://HOST"),
            ("https://[::g]", "no IPv6 address"),
            ("https://10.0.0.*", "not in addresses"),
            ("https://*.0.0.1", "not in addresses"),
            ("https://app.*", "not in addresses"),
            ("https://b\u00fc*.example", "no label"),
            ("https://10.0.0", "no IPv4 address"),
            ("https://two words.example", "no label"),
            ("Null", "no scheme"),
        ):
            error = self.assertRaises(ValueError, Origins, [pattern])
            self.assertIn(words, str(error), pattern)
            self.assertIn("https://*.example.com", str(error))

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

    def test_one_version_of_the_protocol_is_spoken(self):
        # In older ones the origin is in another header, which this gateway does not check.
        self.assertEqual(self.factory.versions, [13])

    def test_an_invalid_task_server_endpoint_raises_value_error(self):
        for server in ("nonsense", "tcp:localhost", ""):
            self.assertRaises(ValueError, GatewayConfig([server]).start, Clock())
