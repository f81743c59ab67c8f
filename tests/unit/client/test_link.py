"""Links without a network: calls that share a connection, and calls that have several servers to go to."""

import json

from msgspec import Raw
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.client.balanced import BalancedLink
from taskd.client.pending import PendingCalls
from taskd.errors import ParseError, Unreachable
from taskd.model import Call, Dialect, Failure, Progress, Result

CALL = Call(Dialect.BARE, "f", Raw(b"[1]"))
GONE = Unreachable("gone", sent=True)
AWAY = Unreachable("away", sent=False)
DONE = Result(Raw(b'"done"'))


def reply(number, **members):
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": "done"} | members).encode()


class WaitersTests(SynchronousTestCase):
    def setUp(self):
        self.sent = []
        self.waiters = PendingCalls(lambda line: self.sent.append(json.loads(line)), window=3)

    def add(self, on_progress=None):
        return self.waiters.add(CALL, on_progress)

    @property
    def ids(self):
        """The ids of the calls that were sent; minus that of one that is to be cancelled."""
        return [message["id"] if "id" in message else -message["params"]["id"] for message in self.sent]

    def test_a_call_is_sent_as_json_rpc_under_a_number(self):
        self.waiters.opened()
        self.add()
        self.assertEqual(self.sent, [{"jsonrpc": "2.0", "id": 1, "method": "f", "params": [1]}])

    def test_what_waits_for_the_connection_is_sent_in_order_when_it_is_there(self):
        for _ in range(2):
            self.add()
        self.assertEqual(self.sent, [])
        self.waiters.opened()
        self.assertEqual(self.ids, [1, 2])

    def test_a_reply_goes_to_whom_it_belongs(self):
        first, second = self.add(), self.add()
        self.waiters.opened()
        self.waiters.received(reply(2))
        self.assertEqual(self.successResultOf(second), DONE)
        self.assertNoResult(first)
        self.waiters.received(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}')
        self.assertEqual(self.successResultOf(first), Failure(-32000, "no"))
        self.assertEqual(len(self.waiters), 0)

    def test_what_belongs_to_nobody_is_nothing(self):
        call = self.add()
        self.waiters.opened()
        for number in (7, "1", None, -1, 1.5):
            self.waiters.received(reply(number))
        self.assertNoResult(call)

    def test_what_is_no_reply_is_an_error(self):
        for line in (
            b"220 mail",
            b"{}",
            b'{"jsonrpc":"2.0","id":1}',
            b"[]",
            b'{"jsonrpc":"2.0","id":1,"result":"\xff"}',
        ):
            with self.assertRaises(ParseError, msg=line):
                self.waiters.received(line)

    def test_progress_goes_to_whom_it_belongs_while_that_waits(self):
        told = []
        first, second = self.add(told.append), self.add()
        self.waiters.opened()
        for number in (1, 2, 3, 1):
            self.waiters.received(
                b'{"jsonrpc":"2.0","method":"taskd.progress","params":{"id":%d,"done":%d}}' % (number, number)
            )
        self.assertEqual(told, [Progress(1), Progress(1)])
        self.assertNoResult(first)
        self.assertNoResult(second)

    def test_no_more_than_the_window_is_sent_and_the_rest_in_order(self):
        calls = [self.add() for _ in range(4)]
        self.waiters.opened()
        calls.append(self.add())
        self.assertEqual(self.ids, [1, 2, 3])
        self.waiters.received(reply(2))
        self.assertEqual(self.ids, [1, 2, 3, 4])
        self.waiters.received(reply(1))
        self.assertEqual(self.ids, [1, 2, 3, 4, 5])

    def test_cancelling_asks_the_server_once_and_keeps_the_place(self):
        calls = [self.add() for _ in range(4)]
        self.waiters.opened()
        calls[1].cancel()
        self.failureResultOf(calls[1], CancelledError)
        self.assertEqual(self.ids, [1, 2, 3, -2])
        self.assertEqual(len(self.waiters), 4)
        self.waiters.received(reply(2))
        self.assertEqual(self.ids, [1, 2, 3, -2, 4])
        self.assertEqual(len(self.waiters), 3)

    def test_what_was_not_sent_is_cancelled_without_a_word(self):
        calls = [self.add() for _ in range(4)]
        calls[0].cancel()
        self.waiters.opened()
        self.assertEqual(self.ids, [2, 3, 4])
        late = self.add()
        late.cancel()
        for call in (calls[0], late):
            self.failureResultOf(call, CancelledError)
        self.waiters.received(reply(2))
        self.assertEqual(self.ids, [2, 3, 4])

    def test_who_asks_to_cancel_still_gets_the_outcome(self):
        call = self.add()
        self.waiters.opened()
        self.assertTrue(self.waiters.ask_to_cancel(call))
        self.assertEqual(self.ids, [1, -1])
        self.assertNoResult(call)
        self.waiters.received(reply(1))
        self.assertEqual(self.successResultOf(call), DONE)

    def test_who_asks_to_cancel_what_was_not_sent_gets_a_cancelled_error(self):
        call = self.add()
        self.assertTrue(self.waiters.ask_to_cancel(call))
        self.failureResultOf(call, CancelledError)
        self.waiters.opened()
        self.assertEqual(self.sent, [])

    def test_what_is_let_go_is_sent_and_read(self):
        call = self.add()
        self.assertTrue(self.waiters.let_go(call))
        self.waiters.opened()
        self.assertEqual(self.ids, [1])
        self.waiters.received(reply(1))
        self.assertEqual(self.successResultOf(call), DONE)

    def test_it_knows_which_are_its_own(self):
        call = self.add()
        self.waiters.opened()
        self.waiters.received(reply(1))
        for other in (call, Deferred(), PendingCalls(self.fail, 1).add(CALL, None)):
            self.assertFalse(self.waiters.ask_to_cancel(other))
            self.assertFalse(self.waiters.let_go(other))
        self.assertEqual(self.ids, [1])

    def test_a_lost_connection_fails_all_and_the_next_one_begins_anew(self):
        calls = [self.add() for _ in range(4)]
        self.waiters.opened()
        calls[0].cancel()
        self.failureResultOf(calls[0], CancelledError)
        # One that ends is the reason to cancel others, which end too.
        calls[1].addErrback(lambda _: calls[2].cancel())
        calls[2].addErrback(lambda reason: reason.trap(CancelledError))
        self.waiters.fail(GONE)
        self.failureResultOf(calls[3], Unreachable)
        self.assertEqual(len(self.waiters), 0)
        self.sent.clear()
        self.add()
        self.assertEqual(self.sent, [])
        self.waiters.opened()
        self.assertEqual(self.ids, [5])


class FakeLink:
    """Answers nothing of itself; each Deferred that it gave is in `calls`."""

    def __init__(self):
        self.calls = []
        self.asked, self.left, self.cancelled = [], [], []
        self.closed = False

    def call(self, call, on_progress=None):
        self.calls.append(Deferred(self.cancelled.append))
        return self.calls[-1]

    def ask_to_cancel(self, done):
        if mine := done in self.calls:
            self.asked.append(done)
        return mine

    def let_go(self, done):
        if mine := done in self.calls:
            self.left.append(done)
        return mine

    def close(self):
        self.closed = True


class BalancedLinkTests(SynchronousTestCase):
    def setUp(self):
        self.fakes = {name: FakeLink() for name in "abc"}
        self.link = BalancedLink(Clock(), "abc", self.fakes.__getitem__)
        self.a, self.b, self.c = self.fakes.values()

    def test_an_outcome_comes_back_and_makes_room(self):
        for _ in range(2):
            done = self.link.call(CALL)
            self.a.calls[-1].callback(DONE)
            self.assertEqual(self.successResultOf(done), DONE)

    def test_what_could_not_be_sent_goes_to_the_next(self):
        done = self.link.call(CALL)
        self.a.calls[0].errback(AWAY)
        self.b.calls[0].errback(AWAY)
        self.assertNoResult(done)
        self.c.calls[0].callback(DONE)
        self.assertEqual(self.successResultOf(done), DONE)

    def test_where_none_can_be_reached_all_the_reasons_are_told(self):
        done = self.link.call(CALL)
        for fake in (self.a, self.b, self.c):
            fake.calls[0].errback(AWAY)
        outcome = self.successResultOf(done)
        self.assertEqual((outcome.message, outcome.data), ("away; away; away", {"sent": False}))

    def test_what_was_sent_is_not_sent_again(self):
        done = self.link.call(CALL)
        self.a.calls[0].errback(AWAY)
        self.b.calls[0].errback(GONE)
        self.assertEqual(self.successResultOf(done), Failure.of(GONE))
        self.assertEqual(self.c.calls, [])

    def test_cancelling_cancels_where_the_call_is_now(self):
        first, moved = self.link.call(CALL), self.link.call(CALL)
        self.b.calls[0].errback(AWAY)
        for done, fake in ((first, self.a), (moved, self.c)):
            done.cancel()
            self.failureResultOf(done, CancelledError)
            self.assertEqual(fake.cancelled, fake.calls)
        self.link.call(CALL)
        self.assertEqual(len(self.a.calls), 2, "the cancelled ones are no longer counted")

    def test_who_is_asked_or_let_go_is_where_the_call_is_now(self):
        first, moved = self.link.call(CALL), self.link.call(CALL)
        self.b.calls[0].errback(AWAY)
        for done, fake in ((first, self.a), (moved, self.c)):
            self.assertTrue(self.link.ask_to_cancel(done))
            self.assertTrue(self.link.let_go(done))
            self.assertEqual((fake.asked, fake.left), (fake.calls, fake.calls))
            fake.calls[0].callback(DONE)
            self.assertEqual(self.successResultOf(done), DONE)
        self.assertFalse(self.link.ask_to_cancel(Deferred()))
        self.assertFalse(self.link.let_go(Deferred()))

    def test_whatever_else_goes_wrong_is_the_callers(self):
        done = self.link.call(CALL)
        self.a.calls[0].errback(ZeroDivisionError())
        self.failureResultOf(done, ZeroDivisionError)

    def test_closing_closes_all(self):
        self.link.close()
        self.assertTrue(all(fake.closed for fake in self.fakes.values()))
