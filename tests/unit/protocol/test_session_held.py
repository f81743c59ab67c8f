"""What a session holds: every byte is counted, wherever it waits, and released."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import ParseError, TooLarge
from taskd.model import Failure, Progress, Result
from taskd.protocol.backlog import STEP
from taskd.protocol.session import SHORT, Session

LONG = 100_000


def padded(size):
    return b'"%b"' % (b"x" * (size - 2))


def bare(size=0, more=b""):
    return b'{"function":"f","args":[%b]%b}' % (padded(size) if size else b"", more)


def rpc(number, size=0, more=b""):
    args = b"[%b]" % (padded(size) if size else b"")
    return b'{"jsonrpc":"2.0","id":%d,"method":"f","params":%b%b}' % (number, args, more)


def result(size):
    return Result(Raw(padded(size)))


class HeldTests(SynchronousTestCase):
    def setUp(self):
        self.session = Session()

    def start(self, *messages):
        self.session.receive(list(messages))
        started = []
        while self.session.has_more:
            started += self.session.requests()
        return started

    def test_short_requests_count_by_their_number(self):
        requests = self.start(*[bare()] * 10)
        self.assertEqual(self.session.held, 10 * SHORT)
        for request in requests:
            self.session.answer(request, result(3))
        self.assertEqual(self.session.held, 0)

    def test_a_long_message_counts_until_it_is_answered(self):
        for message in (bare(LONG), rpc(1, LONG)):
            [request] = self.start(message)
            self.assertEqual(self.session.held, SHORT + len(message))
            self.assertEqual(request.held, len(message))
            self.session.answer(request, result(3))
            self.assertEqual(self.session.held, 0)

    def test_a_request_counts_as_often_as_it_is_kept(self):
        self.session = Session(copies=2)
        message = bare(LONG)
        self.start(message)
        self.assertEqual(self.session.large, 2 * len(message))

    def test_messages_that_wait_to_be_read_count(self):
        self.session = Session(max_outstanding=1)
        messages = [bare(LONG)] * 3
        [request] = self.start(*messages)
        self.assertEqual(self.session.held, SHORT + sum(map(len, messages)))
        self.session.receive([bare(LONG)])
        self.start()
        self.session.answer(request, result(3))
        self.assertLessEqual(3 * len(messages[0]), self.session.held)
        for _ in range(3):
            [request] = self.start()
            self.session.answer(request, result(3))
        self.assertEqual(self.session.held, 0)

    def test_the_error_behind_messages_that_wait_counts_nothing(self):
        self.session = Session(max_outstanding=1)
        self.start(bare(), bare())
        self.session.refuse_rest(TooLarge("too much"))
        self.session.requests()
        self.assertLess(self.session.held, 2 * SHORT)

    def test_results_that_wait_for_their_turn_count_and_their_arguments_do_not(self):
        first, *others = self.start(*[bare(LONG)] * 5)
        for request in others:
            self.session.answer(request, result(LONG))
            self.assertIsNone(request.args)
        self.assertEqual(self.session.owed, 4 * (SHORT + LONG))
        self.assertEqual(self.session.large, first.held)
        self.assertEqual(self.session.take(), [])
        self.session.answer(first, result(3))
        self.assertEqual((len(self.session.take()), self.session.held), (5, 0))

    def test_errors_that_wait_for_their_turn_count(self):
        [first] = self.start(bare(), *[b"garbage"] * 5)
        self.assertGreater(self.session.owed, 5 * SHORT)
        self.session.answer(first, result(3))
        self.assertEqual((len(self.session.take()), self.session.held), (6, 0))

    def test_replies_to_a_batch_count_until_the_last_one(self):
        batch = b"[%b]" % b",".join(rpc(number, LONG) for number in range(3))
        requests = self.start(batch)
        self.assertGreater(self.session.held, 3 * LONG)
        for request in requests[:2]:
            self.session.answer(request, result(LONG))
        self.assertGreater(self.session.owed, 2 * LONG)
        self.session.answer(requests[2], result(3))
        self.assertEqual((len(self.session.take()), self.session.held), (1, 0))

    def test_the_members_of_a_batch_that_wait_to_be_read_count(self):
        batch = b"[%b]" % b",".join(rpc(number, STEP) for number in range(10))
        self.session.receive([batch])
        self.session.requests()
        self.assertGreater(self.session.held, 8 * STEP)

    def test_a_result_that_does_not_fit_into_the_reply_to_its_batch_is_replaced(self):
        self.session = Session(max_batch_reply=LONG)
        requests = self.start(b"[%b]" % b",".join(rpc(number) for number in range(3)))
        self.assertFalse(self.session.has_room(requests[0], LONG))
        for request in requests:
            self.session.answer(request, result(LONG * 2 // 3))
        [reply] = self.session.take()
        self.assertLess(len(reply), LONG)
        self.assertEqual(reply.count(b"-32006"), 2)
        self.assertIn(b'"limit":100000', reply)
        [alone] = self.start(rpc(1))
        self.assertTrue(self.session.has_room(alone, 2 * LONG))

    def test_progress_that_waits_counts_once_for_each_request(self):
        first, second = self.start(*[rpc(n, more=b',"options":{"progress":true}') for n in range(2)])
        for _ in range(3):
            for request in (first, second):
                self.session.report(request, Progress(1, None, "x" * LONG), congested=True)
        self.assertTrue(2 * LONG < self.session.owed < 2 * LONG + 1000)
        self.session.report(second, Progress(2))
        self.assertTrue(LONG < self.session.owed < LONG + 1000)
        self.session.answer(first, result(3))
        self.assertEqual(self.session.owed, 0)
        self.session.report(second, Progress(3), congested=True)
        self.session.take(resumed=True)
        self.assertEqual(self.session.owed, 0)

    def test_nothing_is_held_for_a_connection_that_is_gone(self):
        self.session = Session(max_outstanding=5)
        requests = self.start(*[bare(LONG)] * 10)
        self.session.answer(requests[1], result(LONG))
        self.session.clear()
        self.assertEqual(self.session.held, 0)

    def test_the_oldest_request_and_its_batch_are_those_that_others_wait_for(self):
        single = self.start(bare(), bare())
        self.assertEqual([self.session.needs(request) for request in single], [True, False])
        batch = self.start(b"[%b]" % b",".join(rpc(number) for number in range(2)))
        self.assertEqual([self.session.needs(request) for request in batch], [False, False])
        for request in single:
            self.session.answer(request, result(3))
        self.assertEqual([self.session.needs(request) for request in batch], [True, True])
        for request in batch:
            self.session.answer(request, result(3))
        self.assertTrue(self.session.needs(batch[0]))

    @given(
        st.lists(st.sampled_from(["bare", "rpc", "batch", "notification", "garbage"]), max_size=20),
        st.lists(st.integers(2, 3 * SHORT), min_size=1, max_size=10),
        st.randoms(use_true_random=False),
    )
    def test_nothing_is_left_when_everything_is_answered_in_any_order(self, kinds, sizes, random):
        self.setUp()
        made = {
            "bare": lambda size: bare(size, b',"options":{"progress":true}'),
            "rpc": lambda size: rpc(1, size, b',"options":{"progress":true}'),
            "batch": lambda size: b"[%b,7,%b]" % (rpc(2, size), rpc(3, size)),
            "notification": lambda size: b'{"jsonrpc":"2.0","method":"f","params":[%b]}' % padded(size),
            "garbage": lambda size: b"x" * size,
        }
        waiting = self.start(*[made[kind](random.choice(sizes)) for kind in kinds])
        while waiting:
            request = waiting.pop(random.randrange(len(waiting)))
            self.session.report(request, Progress(1), congested=random.random() < 0.5)
            size = random.choice(sizes)
            outcome = result(size) if random.random() < 0.8 else Failure.of(ParseError("x" * size))
            self.session.answer(request, outcome)
            if random.random() < 0.3:
                self.session.take(resumed=random.random() < 0.5)
            self.assertGreaterEqual(self.session.owed, 0)
            self.assertGreaterEqual(self.session.large, sum(each.held for each in waiting))
        self.assertEqual((self.session.held, self.session.owed, self.session.large), (0, 0, 0))
