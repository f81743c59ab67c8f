"""The gateway's HTTP connections, and clients that do not speak HTTP."""

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from taskd.web.channel import GatewayChannel


class GatewayChannelTests(SynchronousTestCase):
    def answer(self, *pieces):
        site = Site(Resource())
        site.protocol = GatewayChannel
        channel = site.buildProtocol(None)
        channel.callLater = lambda *arguments: None
        channel.timeOut = None
        transport = StringTransport()
        channel.makeConnection(transport)
        for piece in pieces:
            channel.dataReceived(piece)
        return transport

    def test_json_tls_and_noise_are_answered_and_disconnected_at_once(self):
        for data in (b'{"function":"hello"}\n', b"[1]\n", b"\x16\x03\x01\x02\0", b"\0"):
            transport = self.answer(data)
            self.assertTrue(transport.value().startswith(b"HTTP/1.1 400 "), data)
            self.assertTrue(transport.disconnecting, data)

    def test_http_is_read_as_ever_however_it_is_cut(self):
        for pieces in (
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",),
            (b"\r\n", b"G", b"ET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ):
            self.assertTrue(self.answer(*pieces).value().startswith(b"HTTP/1.1 404 "))
