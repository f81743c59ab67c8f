"""Calls that share a connection: lines in, outcomes out, and no network."""

import json

from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.client.pending import CANCELLED_UNSENT, NO_REPLY, PendingCalls
from taskd.errors import ParseError, Unreachable
from taskd.model import Call, Failure, Progress, Result

CALL = Call("f", Raw(b"[1]"))
DONE = Result(Raw(b'"done"'))


def lost(sent):
    return Unreachable("lost", sent=sent)


def reply(number, **members):
    message = {"jsonrpc": "2.0", "id": number, "result": "done"} | members
    return json.dumps(message, separators=(",", ":")).encode()


class Waiting:
    """A waiter that records what it receives, and calls `on_end` when the call has ended."""

    def __init__(self):
        self.reports = []
        self.ends = []
        self.on_end = lambda: None

    def progressed(self, progress):
        self.reports.append(progress)

    def ended(self, outcome):
        self.ends.append(outcome)
        self.on_end()

    def failed(self, error):
        self.ends.append(error.data["sent"])
        self.on_end()


class PendingCallsTests(SynchronousTestCase):
    def setUp(self):
        self.sent = []
        self.calls = PendingCalls(lambda line: self.sent.append(json.loads(line)), window=3)

    def add(self, count=1):
        """Add calls, and return the id and the waiter of each."""
        waiters = [Waiting() for _ in range(count)]
        return [(self.calls.add(CALL, waiter), waiter) for waiter in waiters]

    @property
    def ids(self):
        """Return the ids of the calls that were sent, negated for a cancel."""
        return [message["id"] if "id" in message else -message["params"]["id"] for message in self.sent]

    def test_a_reply_that_is_too_long_fails_its_call_alone(self):
        self.calls.opened()
        first, second, third, fourth = self.add(4)
        error = Unreachable("too long", sent=True)
        self.assertTrue(self.calls.drop(reply(2)[:-1], error))
        self.assertEqual([waiter.ends for _, waiter in (first, second, third, fourth)], [[], [True], [], []])
        self.assertEqual(self.ids, [1, 2, 3, 4])
        self.assertTrue(self.calls.drop(reply(2), error))  # nobody waits for it any more
        self.assertTrue(self.calls.drop(b'{"jsonrpc":"2.0","method":"taskd.event","params":{', error))
        for foreign in (b"HTTP/1.1 200 OK", b"[1,2", reply(None), b'{"jsonrpc":"2.0","id":1'):
            self.assertFalse(self.calls.drop(foreign, error))
        self.calls.received(reply(1))
        self.assertEqual((first[1].ends, len(self.calls)), ([DONE], 2))

    def test_a_message_that_is_too_long_ends_the_call_that_was_sent_first(self):
        self.calls.opened()
        (_, one), (_, two), (_, three), (_, unsent) = self.add(4)
        self.calls.received(reply(1))
        refusal = json.dumps({"code": -32006, "message": "too long"})
        line = b'{"jsonrpc":"2.0","id":null,"error":%b}' % refusal.encode()
        self.calls.received(line)
        self.assertEqual(one.ends, [DONE])
        self.assertEqual(two.ends, [Failure(-32006, "too long")])
        self.assertEqual((three.ends, unsent.ends), ([], []))
        self.calls.fail(lost)
        self.calls.received(line)
        self.assertEqual(two.ends, [Failure(-32006, "too long")])

    def test_a_call_is_sent_as_json_rpc_under_a_number(self):
        self.calls.opened()
        self.add()
        self.assertEqual(self.sent, [{"jsonrpc": "2.0", "id": 1, "method": "f", "params": [1]}])

    def test_calls_that_wait_for_the_connection_are_sent_in_order(self):
        self.add(2)
        self.assertEqual(self.sent, [])
        self.calls.opened()
        self.assertEqual(self.ids, [1, 2])

    def test_a_reply_goes_to_the_call_that_it_belongs_to(self):
        (_, first), (_, second) = self.add(2)
        self.calls.opened()
        self.calls.received(reply(2))
        self.assertEqual((first.ends, second.ends), ([], [DONE]))
        self.calls.received(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}')
        self.assertEqual(first.ends, [Failure(-32000, "no")])
        self.assertEqual(len(self.calls), 0)

    def test_events_go_to_whoever_wants_them(self):
        event = b'{"task":"t","seq":1}'
        line = b'{"jsonrpc":"2.0","method":"taskd.event","params":%b}' % event
        self.calls.received(line)  # nobody does
        events = []
        calls = PendingCalls(self.sent.append, 3, lambda event: events.append(bytes(event)))
        calls.received(line)
        self.assertEqual(events, [event])
        self.assertRaises(ParseError, calls.received, line.replace(b"event", b"other", 1))

    def test_replies_that_belong_to_no_call_are_dropped(self):
        [(_, waiter)] = self.add()
        self.calls.opened()
        for number in (7, "1", None, -1, 1.5):
            self.calls.received(reply(number))
        self.assertEqual(waiter.ends, [])

    def test_a_line_that_is_not_a_reply_is_an_error(self):
        for line in (
            b"220 mail",
            b"{}",
            b'{"jsonrpc":"2.0","id":1}',
            b"[]",
            b'{"jsonrpc":"2.0","id":1,"result":"\xff"}',
        ):
            with self.assertRaises(ParseError, msg=line):
                self.calls.received(line)

    def test_progress_goes_to_the_call_that_it_belongs_to(self):
        (_, first), (_, second) = self.add(2)
        self.calls.opened()
        for number in (1, 2, 3, 1):
            self.calls.received(
                b'{"jsonrpc":"2.0","method":"taskd.progress","params":{"id":%d,"done":%d}}' % (number, number)
            )
        self.assertEqual((first.reports, second.reports), ([Progress(1), Progress(1)], [Progress(2)]))
        self.assertEqual((first.ends, second.ends), ([], []))

    def test_calls_beyond_the_window_are_sent_later_in_order(self):
        self.add(4)
        self.calls.opened()
        self.add()
        self.assertEqual(self.ids, [1, 2, 3])
        self.calls.received(reply(2))
        self.assertEqual(self.ids, [1, 2, 3, 4])
        self.calls.received(reply(1))
        self.assertEqual(self.ids, [1, 2, 3, 4, 5])

    def test_cancelling_is_sent_once_and_the_call_still_waits(self):
        [(request_id, waiter)] = self.add()
        self.calls.opened()
        self.calls.cancel(request_id)
        self.calls.cancel(request_id)
        self.assertEqual((self.ids, waiter.ends), ([1, -1], []))
        self.calls.received(reply(1))
        self.assertEqual(waiter.ends, [DONE])
        self.calls.cancel(request_id)
        self.assertEqual(self.ids, [1, -1])

    def test_an_unsent_call_is_cancelled_at_once(self):
        waiting = self.add(4)
        self.calls.cancel(waiting[0][0])
        self.calls.opened()
        self.assertEqual(self.ids, [2, 3, 4])
        [(late_id, late)] = self.add()
        self.calls.cancel(late_id)
        self.calls.cancel(late_id)
        self.assertEqual([waiting[0][1].ends, late.ends], [[CANCELLED_UNSENT]] * 2)
        self.calls.received(reply(2))
        self.assertEqual(self.ids, [2, 3, 4])
        self.assertEqual(len(self.calls), 2)

    def test_a_detached_call_ends_once_it_is_sent_and_keeps_its_place(self):
        waiting = self.add(4)
        self.calls.opened()
        for request_id, _ in (waiting[1], waiting[3], waiting[1]):
            self.calls.detach(request_id)
        self.assertEqual([waiter.ends for _, waiter in waiting], [[], [NO_REPLY], [], []])
        self.assertEqual(self.ids, [1, 2, 3])
        self.calls.received(reply(2))
        self.assertEqual(waiting[3][1].ends, [NO_REPLY])
        self.assertEqual(self.ids, [1, 2, 3, 4])
        self.calls.received(reply(4))
        self.assertEqual([len(waiter.ends) for _, waiter in waiting], [0, 1, 0, 1])
        self.assertEqual(len(self.calls), 2)

    def test_a_detached_call_can_be_cancelled_until_it_is_sent(self):
        [(request_id, waiter)] = self.add()
        self.calls.detach(request_id)
        self.calls.cancel(request_id)
        self.calls.opened()
        self.assertEqual((self.sent, waiter.ends), ([], [CANCELLED_UNSENT]))
        [(request_id, waiter)] = self.add()
        self.calls.detach(request_id)
        self.calls.cancel(request_id)
        self.assertEqual((self.ids, waiter.ends), ([2], [NO_REPLY]))

    def test_a_cancelled_call_can_be_detached(self):
        [(request_id, waiter)] = self.add()
        self.calls.opened()
        self.calls.cancel(request_id)
        self.calls.detach(request_id)
        self.assertEqual((self.ids, waiter.ends), ([1, -1], [NO_REPLY]))

    def test_a_lost_connection_fails_every_call_and_the_next_connection_starts_anew(self):
        waiting = self.add(4)
        self.calls.opened()
        self.calls.detach(waiting[0][0])
        # The end of one call may cause another one to be cancelled, which fails too.
        waiting[1][1].on_end = lambda: self.calls.cancel(waiting[2][0])
        self.calls.fail(lost)
        self.assertEqual([waiter.ends for _, waiter in waiting], [[NO_REPLY], [True], [True], [False]])
        self.assertEqual(len(self.calls), 0)
        self.sent.clear()
        self.add()
        self.assertEqual(self.sent, [])
        self.calls.opened()
        self.assertEqual(self.ids, [5])


class Collecting:
    """A waiter that keeps all that it receives."""

    def __init__(self):
        self.events = []
        self.progressed = self.ended = self.failed = self.events.append


class RefusalTests(SynchronousTestCase):
    def test_a_message_that_is_too_long_ends_alone_and_those_behind_it_are_unsent(self):
        sent = []
        calls = PendingCalls(sent.append, 10)
        calls.opened()
        waiters = [Collecting() for _ in range(4)]
        for waiter, value in zip(waiters, ("a", "b" * 6000, "c" * 6000, "d"), strict=True):
            calls.add(Call("f", Raw(b'["%b"]' % value.encode())), waiter)
        calls.received(
            b'{"jsonrpc":"2.0","id":null,"error":{"code":-32006,"message":"too long","data":{"limit":5000}}}'
        )
        self.assertTrue(calls.is_refused)
        self.assertEqual([waiter.events for waiter in waiters[::2]], [[], []])
        self.assertEqual(waiters[1].events[0].code, -32006)
        gone = Unreachable("refused", sent=False)
        calls.fail_unread(gone)
        self.assertEqual([waiter.events for waiter in waiters[2:]], [[gone], [gone]])
        calls.received(b'{"jsonrpc":"2.0","id":1,"result":7}')
        self.assertEqual(len(waiters[0].events), 1)
        self.assertEqual(len(calls), 0)
