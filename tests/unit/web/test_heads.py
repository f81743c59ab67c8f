"""The heads of HTTP requests: cut from a stream, and checked before a body is read."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.web.heads import MAX_HEAD, MAX_HEADER_LINES, MAX_REQUEST_LINE, HeadReader, Refusal, check_request
from taskd.web.routes import PAGE, Route, route_of

FIRST = b"GET / HTTP/1.1\r\nHost: a\r\n"
HEAD = FIRST + b"\r\n"


def heads_of(*pieces):
    """Return the heads in these pieces of a stream."""
    reader, heads = HeadReader(), []
    for piece in pieces:
        reader.receive(piece)
        while head := reader.next():
            heads.append(head)
    return heads


def head_with(*lines):
    """Return the head that has these lines after the first two."""
    (head,) = heads_of(FIRST + b"".join(line + b"\r\n" for line in lines) + b"\r\n")
    return head


class ReadingTests(SynchronousTestCase):
    def assert_refused(self, status, *pieces):
        refusal = self.assertRaises(Refusal, heads_of, *pieces)
        self.assertEqual(refusal.status, status, str(refusal))
        self.assertTrue(refusal.response.startswith(b"HTTP/1.1 %d " % status))
        self.assertIn(b"\r\nConnection: close\r\n", refusal.response)
        head, body = refusal.response.split(b"\r\n\r\n")
        self.assertIn(b"\r\nContent-Length: %d" % len(body), head)
        return refusal

    def test_a_head_is_read_with_its_method_and_target(self):
        (head,) = heads_of(b"\r\n\r\nPOST /a?b HTTP/1.0\r\nX: y\r\n\r\n")
        self.assertEqual((head.method, head.target, head.length), (b"POST", b"/a?b", 0))
        self.assertEqual(head.data, b"POST /a?b HTTP/1.0\r\nX: y\r\n\r\n")

    @given(st.lists(st.integers(0, 3 * len(HEAD)), max_size=20).map(sorted))
    def test_heads_are_the_same_however_they_are_cut(self, cuts):
        stream = HEAD + b"\r\n" + HEAD + HEAD
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        self.assertEqual([head.data for head in heads_of(*pieces)], [HEAD] * 3)

    def test_bytes_that_follow_a_head_are_kept(self):
        reader = HeadReader()
        reader.receive(HEAD + b"GET")
        self.assertIsNotNone(reader.next())
        self.assertIsNone(reader.next())
        self.assertEqual(len(reader), 3)
        self.assertEqual(reader.take_rest(), b"GET")
        self.assertEqual(len(reader), 0)

    def test_blank_lines_alone_are_no_part_of_a_head(self):
        reader = HeadReader()
        for piece in (b"\r", b"\n", b"\r\n" * 100_000, b"\r\n\r"):
            reader.receive(piece)
            self.assertIsNone(reader.next())
        self.assertLess(len(reader), 2)

    def test_a_head_over_the_limit_is_refused_whether_it_is_complete_or_not(self):
        for more in (b"X: " + b"y" * 300_000, b"X: y\r\n" * 50_000, b"X: y\r\n" * 50_000 + b"\r\n"):
            self.assert_refused(431, FIRST + more)
        self.assert_refused(431, HEAD + FIRST, b"X: y\r\n" * 50_000)
        self.assert_refused(431, FIRST, *[b"X: " + b"y" * 1000] * 17)

    def test_a_head_up_to_the_limits_is_read(self):
        head_with(b"X: " + b"y" * (MAX_HEAD - len(FIRST) - 5))
        head_with(*[b"X:"] * (MAX_HEADER_LINES - 1))
        heads_of(b"GET /" + b"x" * (MAX_REQUEST_LINE - 14) + b" HTTP/1.1\r\nHost: a\r\n\r\n")

    def test_too_many_header_lines_are_refused(self):
        self.assert_refused(431, FIRST + b"X:\r\n" * MAX_HEADER_LINES + b"\r\n")

    def test_a_request_line_over_the_limit_is_refused(self):
        for line in (b"GET /" + b"x" * 300_000, b"G" * 300_000, b"GET /" + b"x" * (MAX_REQUEST_LINE - 13)):
            for end in (b"", b" HTTP/1.1\r\nHost: a\r\n\r\n"):
                if end or len(line) > MAX_REQUEST_LINE + 1:
                    self.assert_refused(414, line + end)

    def test_another_protocol_is_refused_at_its_first_byte(self):
        for data in (b'{"function":"hello"}\n', b"[1]\n", b"\x16\x03\x01\x02\0", b"\0", b"\n", b"\r\n\r\n{"):
            self.assertIn("gateway", str(self.assert_refused(400, data)))
        self.assert_refused(400, HEAD + b'{"function":"hello"}\n')

    def test_lines_that_end_in_lf_alone_are_refused_without_waiting_for_more(self):
        self.assert_refused(400, b"GET / HTTP/1.1\nHost: a\n\n")
        self.assert_refused(400, b"GET / HTTP/1.1\nHost: a\n", b"\n")

    def test_a_malformed_request_line_is_refused(self):
        for line in (
            b"GET /",
            b"GET / HTTP/1.1 x",
            b"GET  HTTP/1.1",
            b"GET /\x01 HTTP/1.1",
            b"GET /a b HTTP/1.1",
        ):
            self.assert_refused(400, line + b"\r\nHost: a\r\n\r\n")
        self.assert_refused(505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

    def test_a_malformed_header_line_is_refused(self):
        for line in (
            b"nonsense",
            b": x",
            b"X : y",
            b" folded",
            b"X: a\0b",
            b"X: a\rb",
            b"X: a\nb",
            b"X y: z",
        ):
            self.assert_refused(400, FIRST + line + b"\r\n\r\n")

    def test_the_host_must_be_given_once(self):
        self.assert_refused(400, b"GET / HTTP/1.1\r\n\r\n")
        self.assert_refused(400, FIRST + b"host: b\r\n\r\n")
        self.assertEqual(len(heads_of(b"GET / HTTP/1.0\r\n\r\n")), 1)

    def test_the_length_of_a_body_is_read(self):
        self.assertEqual(head_with(b"content-length:\t17 ").length, 17)
        self.assertEqual(head_with(b"Content-Length: 000").length, 0)
        self.assertEqual(head_with(b"Content-Length: 0017").length, 17)
        self.assertGreater(head_with(b"Content-Length: " + b"9" * 5000).length, 10**15)
        self.assertIsNone(head_with(b"Transfer-Encoding: Chunked").length)

    def test_lengths_that_two_readers_could_understand_differently_are_refused(self):
        for length in (b"+4", b"-1", b"4 4", b"4, 4", b"0x4", b"", b"4.0", b"\xb2"):
            self.assert_refused(400, FIRST + b"Content-Length: " + length + b"\r\n\r\n")
        self.assert_refused(400, FIRST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\n")
        self.assert_refused(400, FIRST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n")
        for coding in (
            b"gzip",
            b"gzip, chunked",
            b"identity",
            b"chunked\r\nTransfer-Encoding: chunked",
            b"xchunked",
        ):
            self.assert_refused(501, FIRST + b"Transfer-Encoding: " + coding + b"\r\n\r\n")

    @given(st.lists(st.binary(max_size=40), max_size=10))
    def test_any_bytes_are_read_or_refused(self, pieces):
        try:
            heads_of(*pieces)
        except Refusal as refusal:
            self.assertIn(refusal.status, (400, 414, 431, 501, 505))


class BodyTests(SynchronousTestCase):
    """What the head of a request says of its body, which is read apart from it."""

    def test_a_head_is_passed_on_without_what_it_says_of_the_body(self):
        head, *_ = heads_of(FIRST + b"X: y\r\nContent-Length: 5\r\nExpect: 100-Continue\r\nY: z\r\n\r\n")
        self.assertEqual((head.length, head.awaits_continue), (5, True))
        self.assertEqual(head.data, FIRST + b"X: y\r\nY: z\r\n\r\n")

    def test_the_first_bytes_of_a_body_are_no_blank_lines(self):
        reader = HeadReader()
        reader.receive(FIRST + b"Content-Length: 5\r\n\r\n\r\n")
        self.assertEqual(reader.next().length, 5)
        reader.receive(b"12345")
        self.assertEqual((reader.take(5), len(reader)), (b"\r\n123", 2))

    def test_another_expectation_is_refused_but_not_of_an_old_client(self):
        for line in (b"Expect: more", b"Expect: 100-continue\r\nExpect: 100-continue"):
            with self.assertRaises(Refusal) as raised:
                heads_of(FIRST + line + b"\r\n\r\n")
            self.assertEqual(raised.exception.status, 417)
        (head,) = heads_of(b"GET / HTTP/1.0\r\nExpect: more\r\n\r\n")
        self.assertFalse(head.awaits_continue)


class CheckTests(SynchronousTestCase):
    """The rules of a route, for the page and for one that takes bodies."""

    def refused(self, route, method, *lines):
        (head,) = heads_of(
            method + b" / HTTP/1.1\r\nHost: a\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
        )
        try:
            check_request(head, route, 100)
        except Refusal as refusal:
            return refusal
        return None

    def test_the_page_takes_get_and_head_on_every_path(self):
        for target in (b"*", b"/a/b?c", b"http://a/", b"/api", b"/rpc/"):
            self.assertIs(route_of(target), PAGE)
        for method in (b"GET", b"HEAD"):
            self.assertIsNone(self.refused(PAGE, method))
            self.assertIsNone(self.refused(PAGE, method, b"Content-Length: 0"))

    def test_another_method_is_refused_with_those_that_are_allowed(self):
        for method in (b"POST", b"PUT", b"OPTIONS", b"get", b"TRACE", b"X-Y"):
            refusal = self.refused(PAGE, method, b"Content-Length: 5")
            self.assertEqual(refusal.status, 405)
            self.assertIn(b"\r\nAllow: GET, HEAD\r\n", refusal.response)

    def test_a_body_is_refused_on_a_path_that_takes_none(self):
        for line in (b"Content-Length: 1", b"Content-Length: 629145600", b"Transfer-Encoding: chunked"):
            self.assertEqual(self.refused(PAGE, b"GET", line).status, 413)
            self.assertEqual(self.refused(PAGE, b"GET", line, b"Upgrade: websocket").status, 413)
            self.assertEqual(self.refused(PAGE, b"GET", line, b"Expect: 100-continue").status, 413)

    def test_websockets_may_be_opened_on_every_path(self):
        for target in (b"/", b"/rpc", b"/api/v1/tasks", b"/api/v1/tasks/a/retry", b"/api/v1/x", b"/x"):
            self.assertIsNone(self.refused(route_of(target), b"GET", b"Upgrade: websocket"))

    def test_a_refusal_is_a_problem_where_errors_are(self):
        refusal = self.refused(route_of(b"/rpc"), b"PUT")
        self.assertIn(b"\r\nContent-Type: application/problem+json\r\n", refusal.response)
        self.assertIn(b'"status":405', refusal.response)

    def test_a_body_must_have_a_length_within_the_limit_of_its_path(self):
        api = Route((b"POST",), (b"POST",))
        self.assertIsNone(self.refused(api, b"POST", b"Content-Length: 100"))
        self.assertEqual(self.refused(api, b"POST", b"Content-Length: 101").status, 413)
        self.assertEqual(self.refused(api, b"POST", b"Content-Length: " + b"9" * 30).status, 413)
        self.assertEqual(self.refused(api, b"POST", b"Transfer-Encoding: chunked").status, 411)
