"""The gateway's HTTP connections: what they answer, and how long each may last."""

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from taskd.listeners.gateway import GatewayConfig
from taskd.net.time_limits import CLOSING_SECONDS, OPENING_SECONDS
from taskd.web import Root, channel
from taskd.web.channel import IDLE_SECONDS, UNREAD_SECONDS, GatewaySite

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Transport(StringTransport):
    """A transport that is used as a plain connection's is: its protocol can be replaced."""

    protocol = None
    aborted = False

    def unregisterProducer(self):
        self.producer = None

    def abortConnection(self):
        self.aborted = True


class Page(Resource):
    """A page that is answered at once, or never."""

    isLeaf = True
    is_slow = False

    def __init__(self):
        super().__init__()
        self.requests = []

    def render_GET(self, request):
        self.requests.append(request)
        return NOT_DONE_YET if self.is_slow else b"page"


class ChannelCase(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.page = Page()
        self.connect(self.page)

    def connect(self, root):
        self.transport = Transport()
        self.channel = GatewaySite(self.clock, root).buildProtocol(None)
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)

    def send(self, *pieces):
        for piece in pieces:
            self.transport.protocol.dataReceived(piece)

    def turn(self):
        """Run the calls that are due, but not those that they add, as a reactor does."""
        for call in [call for call in self.clock.calls if call.getTime() <= self.clock.seconds()]:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)

    def turns(self):
        """Run more turns than there are requests."""
        for _ in range(20):
            self.turn()

    @property
    def answers(self):
        return self.transport.value().count(b"HTTP/1.1 ")

    @property
    def is_open(self):
        return not (self.transport.disconnecting or self.transport.aborted)


class RequestTests(ChannelCase):
    def test_json_tls_and_noise_are_answered_and_disconnected_at_once(self):
        for data in (b'{"function":"hello"}\n', b"[1]\n", b"\x16\x03\x01\x02\0", b"\0"):
            self.connect(self.page)
            self.send(data)
            self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 400 "), data)
            self.assertTrue(self.transport.disconnecting, data)

    def test_http_is_read_however_it_is_cut(self):
        for pieces in ((GET,), (b"\r\n", GET[:1], GET[1:]), [bytes([byte]) for byte in GET]):
            self.connect(self.page)
            self.send(*pieces)
            self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 200 "))
            self.assertTrue(self.is_open)

    def test_a_connection_ends_with_its_next_response_if_a_stop_is_near(self):
        self.send(GET)
        self.assertTrue(self.is_open)
        self.channel.factory.announce_stop()
        self.assertTrue(self.is_open)
        self.transport.clear()
        self.send(GET)
        self.assertIn(b"connection: close\r\n", self.transport.value().lower())
        self.assertTrue(self.transport.value().endswith(b"page"))
        self.assertFalse(self.is_open)

    def test_a_body_is_refused_before_any_of_it_is_read(self):
        for line, status in (
            (b"Content-Length: 629145600", 413),
            (b"Transfer-Encoding: chunked", 413),
            (b"Content-Length: 629145600\r\nExpect: 100-continue", 413),
            (b"Content-Length: " + b"9" * 5000, 413),
        ):
            self.connect(self.page)
            self.send(GET[:-2] + line + b"\r\n\r\n", b"x" * 1000, GET)
            self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 %d " % status), line)
            self.assertEqual((self.answers, self.is_open, self.page.requests), (1, False, []))
            self.turns()
            self.assertEqual(self.answers, 1, "nothing behind a refused request is served")

    def test_a_head_over_the_limit_is_answered(self):
        self.send(GET[:-2] + b"X: " + b"y" * 300_000)
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 431 "))
        self.assertFalse(self.is_open)

    def test_a_request_that_only_twisted_refuses_closes_too(self):
        self.send(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", GET)
        self.turns()
        if not self.is_open:
            self.assertEqual(self.answers, 1)

    def test_http_1_0_is_answered_and_closed(self):
        self.send(b"GET / HTTP/1.0\r\n\r\n" + GET)
        self.turns()
        self.assertFalse(self.is_open)
        self.assertEqual(len(self.page.requests), 1)

    def test_http_2_is_not_negotiated(self):
        self.assertEqual(GatewaySite(self.clock, self.page).acceptableProtocols(), [b"http/1.1"])


class PipeliningTests(ChannelCase):
    def test_requests_sent_together_are_not_served_in_one_turn(self):
        self.send(GET * 3 + GET[:5])
        for served in (1, 2, 3):
            self.assertEqual(self.answers, served)
            self.assertEqual(self.transport.producerState, "paused")
            self.turn()
            self.turn()
        self.assertEqual(self.transport.producerState, "producing")
        self.send(GET[5:])
        self.turns()
        self.assertEqual(self.answers, 4)

    def test_nothing_is_served_while_the_responses_are_not_read(self):
        self.send(GET * 5)
        self.channel.pauseProducing()
        self.turns()
        self.assertLessEqual(self.answers, 2)
        before = self.answers
        self.send(GET)
        self.turns()
        self.assertEqual(self.answers, before)
        self.channel.resumeProducing()
        self.turns()
        self.assertEqual(self.answers, 6)
        self.assertEqual(self.transport.producerState, "producing")

    def test_a_turn_comes_though_nothing_is_known_of_a_closed_connection_any_more(self):
        def closed():
            raise OSError("Bad file descriptor")

        self.send(GET * 3)
        self.patch(channel, "party_key", closed)
        self.turns()
        self.assertEqual(self.answers, 3)

    def test_a_request_waits_while_another_is_being_served(self):
        self.page.is_slow = True
        self.send(GET, GET, GET)
        self.turns()
        self.assertEqual((len(self.page.requests), self.transport.producerState), (1, "paused"))
        self.clock.advance(1000)
        self.assertTrue(self.is_open)
        self.page.is_slow = False
        self.page.requests[0].write(b"late")
        self.page.requests[0].finish()
        self.turns()
        self.assertEqual((self.answers, self.transport.producerState), (3, "producing"))


class TimeTests(ChannelCase):
    def test_a_client_that_sends_nothing_is_disconnected(self):
        self.clock.advance(OPENING_SECONDS)
        self.assertFalse(self.is_open)
        self.assertEqual(self.transport.value(), b"")

    def test_a_head_that_trickles_in_has_an_absolute_limit(self):
        for byte in GET[:20]:
            self.assertTrue(self.is_open)
            self.send(bytes([byte]))
            self.clock.advance(OPENING_SECONDS / 20)
        self.assertFalse(self.is_open)
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 408 "))

    def test_blank_lines_do_not_keep_a_connection(self):
        for _ in range(20):
            self.send(b"\r\n")
            self.clock.advance(OPENING_SECONDS / 20)
        self.assertFalse(self.is_open)

    def test_the_next_request_has_a_limit_on_its_begin_and_one_on_its_head(self):
        self.send(GET)
        self.clock.advance(IDLE_SECONDS - 1)
        self.send(GET[:5])
        self.clock.advance(OPENING_SECONDS - 1)
        self.assertTrue(self.is_open)
        self.send(GET[5:-2])
        self.clock.advance(1)
        self.assertFalse(self.is_open)
        self.assertIn(b"HTTP/1.1 408 ", self.transport.value())

    def test_an_idle_connection_is_closed(self):
        self.send(GET)
        self.clock.advance(IDLE_SECONDS - 1)
        self.send(b"\r\n")
        self.assertTrue(self.is_open)
        self.clock.advance(1)
        self.assertFalse(self.is_open)

    def test_a_client_that_does_not_read_its_responses_is_disconnected(self):
        self.channel.pauseProducing()
        self.clock.advance(UNREAD_SECONDS - 1)
        self.send(GET)
        self.assertTrue(self.is_open)
        self.clock.advance(1)
        self.assertTrue(self.transport.aborted)

    def test_a_slow_answer_has_no_limit_once_earlier_ones_are_read(self):
        self.page.is_slow = True
        self.send(GET)
        self.channel.pauseProducing()
        self.channel.resumeProducing()
        self.clock.advance(UNREAD_SECONDS)
        self.assertTrue(self.is_open)

    def test_a_close_that_does_not_end_is_ended(self):
        self.send(b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertTrue(self.transport.disconnecting)
        self.clock.advance(CLOSING_SECONDS - 1)
        self.assertFalse(self.transport.aborted)
        self.clock.advance(1)
        self.assertTrue(self.transport.aborted)

    def test_no_timer_is_left_of_a_connection_that_is_gone(self):
        for sent in (b"", GET, GET * 3, b"{"):
            self.clock = Clock()
            self.connect(self.page)
            self.send(sent)
            self.channel.connectionLost(Failure(ConnectionDone()))
            self.turns()
            self.assertEqual(self.clock.getDelayedCalls(), [])


class UpgradeTests(ChannelCase):
    def setUp(self):
        self.clock = Clock()
        gateway = GatewayConfig(["tcp:127.0.0.1:1"]).start(self.clock)
        self.connect(Root(gateway))

    def test_a_websocket_has_no_timer_of_http(self):
        self.send(UPGRADE)
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 101 "))
        self.clock.advance(OPENING_SECONDS + IDLE_SECONDS)
        self.assertTrue(self.is_open)

    def test_frames_that_follow_the_handshake_at_once_are_not_lost(self):
        ping = b"\x89\x82\0\0\0\0hi"
        self.send(UPGRADE + ping)
        self.assertTrue(self.transport.value().endswith(b"\x8a\x02hi"))

    def test_a_handshake_of_another_version_is_answered_with_the_right_one(self):
        for version in (b"8", b"0", b"14", b"13, 8", b"8\r\nSec-WebSocket-Version: 13", b"013", b"x"):
            self.transport.clear()
            self.send(UPGRADE.replace(b"Version: 13", b"Version: " + version))
            self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 426 Upgrade Required\r\n"), version)
            head = self.transport.value().lower()
            self.assertIn(b"\r\nsec-websocket-version: 13\r\n", head)
            self.assertIn(b"\r\nupgrade: websocket\r\n", head)
            self.assertIn(b"\r\nconnection: upgrade\r\n", head)
        self.transport.clear()
        self.send(UPGRADE.replace(b"Sec-WebSocket-Version: 13\r\n", b""))
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 426 "))

    def test_an_upgrade_over_http_1_0_is_ignored(self):
        self.send(UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.0 200 "))

    def test_a_handshake_with_a_body_is_refused(self):
        self.send(UPGRADE[:-2] + b"Content-Length: 5\r\n\r\nhello")
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 413 "))

    def test_a_page_that_reached_the_gateway_by_a_foreign_name_is_refused(self):
        for origin, status in (
            (b"http://a", 403),
            (b"null", 403),
            (b"https://b\r\nOrigin: http://localhost", 0),
        ):
            self.connect(Root(GatewayConfig(["tcp:127.0.0.1:1"]).start(self.clock)))
            self.send(UPGRADE[:-2] + b"Origin: " + origin + b"\r\n\r\n")
            self.assertFalse(self.transport.value().startswith(b"HTTP/1.1 101 "), origin)
            if status:
                self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 %d " % status), origin)
                self.assertFalse(self.is_open)

    def test_a_websocket_whose_close_the_client_does_not_read_is_reset(self):
        self.send(UPGRADE, b"\x88\x82\0\0\0\0\x03\xe8")
        self.assertTrue(self.transport.disconnecting)
        self.clock.advance(CLOSING_SECONDS)
        self.assertTrue(self.transport.aborted)

    def test_no_timer_is_left_of_a_websocket_that_has_closed(self):
        self.send(UPGRADE, b"\x88\x82\0\0\0\0\x03\xe8")
        self.transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.clock.advance(CLOSING_SECONDS)
        self.assertFalse(self.transport.aborted)
