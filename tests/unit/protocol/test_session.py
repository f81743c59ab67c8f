"""The replies due on one connection, by docs/protocol.md and the specification of JSON-RPC 2.0."""

import json
import tracemalloc
from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import StateError, TaskFailed
from taskd.model import NO_OPTIONS, Failure, Progress, Result
from taskd.protocol.backlog import MESSAGE_COST, STEP
from taskd.protocol.dialects import BARE, JSON_RPC
from taskd.protocol.framing import MAX_MESSAGE
from taskd.protocol.replies import task_complete, too_large
from taskd.protocol.requests import Request
from taskd.protocol.session import MAX_OUTSTANDING, SHORT, Session

GARBAGE = [
    b"garbage",
    b"\xff",
    b'{"function":',
    b"null",
    b"{}",
    b"[]",
    b'{"jsonrpc":"2.0","method":5}',
    b'"\\',
]
"""Lines without a readable id."""


def bare(number, *, progress=False):
    options = b',"options":{"progress":true}' if progress else b""
    return b'{"function":"f%d"%b}' % (number, options)


def rpc(number, *, progress=False):
    options = b',"options":{"progress":true}' if progress else b""
    return b'{"jsonrpc":"2.0","id":%d,"method":"f%d"%b}' % (number, number, options)


def notification(number, *, progress=False):
    options = b',"options":{"progress":true}' if progress else b""
    return b'{"jsonrpc":"2.0","method":"f%d"%b}' % (number, options)


def number_of(request):
    """Return the number of a request, which is the name of its function."""
    return int(request.function[1:])


def result(number):
    return Result(Raw(b'{"n":%d}' % number))


def failed(number):
    return Failure.of(TaskFailed(f"ValueError: {number}", type="ValueError", message=str(number)))


class Expected:
    """A request in the model. `kind` is how it must be answered."""

    def __init__(self, number, kind, progress, batch=None):
        self.number = number
        self.kind = kind
        self.progress = progress
        self.batch = batch
        self.request = None
        self.answered = False
        self.late = None
        self.reports = []
        """The reports that must have been sent, or must be with the next `take`."""


class ExpectedBatch:
    def __init__(self, missing):
        self.missing = missing
        self.replies = Counter()


class ExpectedMember:
    """A member of a batch: a request, or the id of an invalid one."""

    def __init__(self, batch, call=None, number=None):
        self.batch = batch
        self.call = call
        self.number = number


class SessionMachine(RuleBasedStateMachine):
    """Any mixture of lines, answers, reports and reads, against a model."""

    def __init__(self):
        super().__init__()
        self.session = None
        self.limit = 0
        self.open_for = 0
        self.closing = False
        self.last_number = 0
        self.backlog = deque()
        self.in_order = deque()
        self.running = {}
        self.started = {}
        self.due = []
        """The replies due, in any order: `in_order` checks the order of bare replies."""
        self.in_order_due = []
        self.in_order_seen = []
        self.seen = []
        self.seen_reports = {}
        self.done = set()

    @initialize(limit=st.integers(1, 6), open_for=st.integers(0, 60))
    def begin(self, limit, open_for):
        self.session = Session(limit)
        self.limit = limit
        self.open_for = open_for

    # --- incoming lines ---

    def next_number(self):
        self.last_number += 1
        return self.last_number

    @precondition(lambda self: not self.closing)
    @rule(data=st.data(), count=st.integers(1, 4))
    def receive(self, data, count):
        make = st.sampled_from(
            [self.bare, self.rpc, self.notification, self.garbage, self.invalid_rpc, self.batch]
        )
        lines = []
        for _ in range(count):
            line, model = data.draw(make)(data)
            lines.append(line)
            self.backlog.append(model)
        self.session.receive(lines)

    def bare(self, data):
        expected = Expected(self.next_number(), "bare", data.draw(st.booleans()))
        return bare(expected.number, progress=expected.progress), expected

    def rpc(self, data):
        expected = Expected(self.next_number(), "rpc", data.draw(st.booleans()))
        return rpc(expected.number, progress=expected.progress), expected

    def notification(self, data):
        expected = Expected(self.next_number(), "notification", data.draw(st.booleans()))
        return notification(expected.number, progress=expected.progress), expected

    def garbage(self, data):
        return data.draw(st.sampled_from(GARBAGE)), "unreadable"

    def invalid_rpc(self, data):
        number = self.next_number()
        return b'{"jsonrpc":"2.0","id":%d,"method":"f","params":5}' % number, ("invalid", number)

    def batch(self, data):
        kinds = data.draw(st.lists(st.sampled_from(["rpc", "notification", "invalid", "no id"]), min_size=1))
        reply = ExpectedBatch(len(kinds))
        elements, members = [], []
        for kind in kinds:
            number = self.next_number()
            if kind == "invalid":
                elements.append(b'{"jsonrpc":"2.0","id":%d}' % number)
                members.append(ExpectedMember(reply, number=number))
            elif kind == "no id":
                elements.append(
                    data.draw(st.sampled_from([b"1", b"[]", b"{}", b'{"function":"f"}', b'{"id":[]}']))
                )
                members.append(ExpectedMember(reply))
            else:
                batch = reply if kind == "rpc" else None
                expected = Expected(number, kind, data.draw(st.booleans()), batch)
                make = rpc if kind == "rpc" else notification
                elements.append(make(number, progress=expected.progress))
                members.append(ExpectedMember(reply, expected))
        return b"[" + b", ".join(elements) + b"]", members

    @precondition(lambda self: not self.closing and self.open_for < 0)
    @rule()
    def too_long(self):
        self.session.refuse_rest(too_large(1000))
        self.backlog.append("too large")
        self.closing = True

    @precondition(lambda self: not self.closing and self.open_for < 0)
    @rule(unfinished=st.integers(0, 3))
    def end(self, unfinished):
        self.session.end_of_input(unfinished)
        if unfinished:
            self.backlog.append("unreadable")
        self.closing = True

    # --- requests and outcomes ---

    @rule()
    def start(self):
        """Start every request that may be started, in order: members of a batch one by one."""
        expected = []
        while self.backlog and len(self.running) + len(expected) < self.limit:
            item = self.backlog.popleft()
            if isinstance(item, Expected):
                expected.append(item)
                if item.kind == "bare":
                    self.in_order.append(item)
            elif isinstance(item, str):
                self.in_order.append(item)
            elif isinstance(item, list):
                self.backlog.extendleft(reversed(item))
            elif isinstance(item, ExpectedMember):
                self.start_member(item, expected)
            else:
                self.due.append((item[1], "error"))
        self.release()
        requests = self.session.requests()
        while self.session.has_more:
            requests += self.session.requests()
        assert [number_of(request) for request in requests] == [item.number for item in expected]
        for item, request in zip(expected, requests, strict=True):
            item.request = request
            self.running[item.number] = self.started[item.number] = item

    def start_member(self, member, expected):
        if member.call is not None:
            expected.append(member.call)
            if member.call.batch is not None:
                return
        else:
            member.batch.replies[member.number, "error"] += 1
        member.batch.missing -= 1
        if not member.batch.missing and member.batch.replies:
            self.due.append(member.batch)

    def release(self):
        while self.in_order:
            first = self.in_order[0]
            if isinstance(first, Expected) and not first.answered:
                return
            self.in_order_due.append(first.number if isinstance(first, Expected) else first)
            self.in_order.popleft()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fails=st.booleans())
    def answer(self, data, fails):
        self.settle(data.draw(st.sampled_from(sorted(self.running))), fails=fails)

    def settle(self, number, *, fails):
        item = self.running.pop(number)
        self.session.answer(item.request, failed(number) if fails else result(number))
        item.answered = True
        if item.late is not None:
            item.reports.append(item.late)
            item.late = None
        how = "error" if fails else "result"
        if item.kind == "bare":
            self.release()
        elif item.batch is not None:
            item.batch.replies[item.number, how] += 1
            item.batch.missing -= 1
            if not item.batch.missing:
                self.due.append(item.batch)
        elif item.kind == "rpc":
            self.due.append((item.number, how))

    @precondition(lambda self: self.started)
    @rule(data=st.data(), done=st.integers(0, 99), congested=st.booleans())
    def report(self, data, done, congested):
        item = self.started[data.draw(st.sampled_from(sorted(self.started)))]
        # Two bare requests cannot be distinguished: their progress has no id.
        report = Progress(done, item.number, f"of {item.number}")
        self.session.report(item.request, report, congested=congested)
        if item.answered or not item.progress or item.kind == "notification":
            return
        if congested:
            item.late = done
        else:
            item.late = None
            item.reports.append(done)

    @precondition(lambda self: any(item.answered for item in self.started.values()))
    @rule(data=st.data())
    def a_second_answer_is_a_bug(self, data):
        answered = sorted(number for number, item in self.started.items() if item.answered)
        item = self.started[data.draw(st.sampled_from(answered))]
        try:
            self.session.answer(item.request, result(item.number))
        except StateError:
            return
        raise AssertionError("a second answer was taken")

    # --- outgoing replies ---

    @rule(resumed=st.booleans())
    def take(self, resumed):
        """Check that every reply that is due was sent, and nothing else."""
        if resumed:
            for item in self.started.values():
                if item.late is not None:
                    item.reports.append(item.late)
                    item.late = None
        for line in self.session.take(resumed=resumed):
            assert b"\n" not in line
            self.look_at(json.loads(line))
        assert self.in_order_seen == self.in_order_due
        due = [
            frozenset(item.replies.items()) if isinstance(item, ExpectedBatch) else item for item in self.due
        ]
        assert Counter(self.seen) == Counter(due)
        assert self.seen_reports == {
            item.number: item.reports for item in self.started.values() if item.reports
        }

    def look_at(self, message):
        if isinstance(message, list):
            replies = Counter(self.reply(element) for element in message)
            self.done.update(number for number, _ in replies)
            self.seen.append(frozenset(replies.items()))
        elif message.get("method") == "taskd.progress":
            self.look_at_report(message["params"])
        elif "jsonrpc" not in message:
            number = message["n"] if "n" in message else int(message["error"]["data"]["message"])
            self.in_order_seen.append(number)
            self.done.add(number)
        elif message["id"] is None:
            code = message["error"]["code"]
            assert code in (-32700, -32600, -32006)
            self.in_order_seen.append("too large" if code == -32006 else "unreadable")
        else:
            reply = self.reply(message)
            self.done.add(reply[0])
            self.seen.append(reply)

    def look_at_report(self, params):
        number = params["total"]
        item = self.started[number]
        assert params["id"] == (None if item.kind == "bare" else number)
        assert number not in self.done, "progress after the reply"
        self.seen_reports.setdefault(number, []).append(params["done"])

    @staticmethod
    def reply(message):
        assert message["jsonrpc"] == "2.0"
        assert ("result" in message) != ("error" in message)
        if "result" in message:
            assert message["result"] == {"n": message["id"]}
        return message["id"], "result" if "result" in message else "error"

    # --- its state ---

    @invariant()
    def state_is_told(self):
        if self.session is None:
            return
        self.open_for -= 1
        assert self.session.outstanding == len(self.running)
        assert self.session.closing == self.closing
        room = len(self.running) < self.limit
        assert self.session.wants_data == (not self.closing and not self.backlog and room)
        # What was released is in the outbox until it is taken.
        to_go = len(self.seen) < len(self.due) or len(self.in_order_seen) < len(self.in_order_due)
        reports = {item.number: item.reports for item in self.started.values() if item.reports}
        to_go = to_go or self.seen_reports != reports
        idle = not self.running and not self.backlog and not self.in_order and not to_go
        assert self.session.finished == (self.closing and idle)

    def teardown(self):
        """Answer every request: each must get its one reply."""
        if self.session is None:
            return
        if not self.closing:
            self.end(unfinished=0)
        while self.backlog or self.running:
            self.start()
            for number in sorted(self.running, reverse=True):
                self.settle(number, fails=False)
        self.take(resumed=False)
        assert self.session.finished
        owed = {number for number, item in self.started.items() if item.kind != "notification"}
        assert owed <= self.done


class SessionTests(SynchronousTestCase):
    def started(self, *lines, limit=MAX_OUTSTANDING, **kwargs):
        """Make a session that has received these lines; return it and its requests."""
        session = Session(limit, **kwargs)
        session.receive(lines)
        return session, session.requests()

    def test_any_mixture_of_lines_is_answered_as_the_protocol_says(self):
        run_machine(SessionMachine)

    def test_the_default_limit_is_that_of_the_protocol(self):
        self.assertEqual(MAX_OUTSTANDING, 1000)
        session, requests = self.started(*[bare(1)] * 1001)
        while session.has_more:
            requests += session.requests()
        self.assertEqual(len(requests), 1000)
        self.assertFalse(session.wants_data)

    @given(st.permutations(range(6)))
    def test_bare_replies_keep_the_order_of_their_requests(self, order):
        session, requests = self.started(*(bare(number) for number in range(6)))
        sent = []
        for number in order:
            session.answer(requests[number], result(number))
            sent += session.take()
        self.assertEqual(sent, [b'{"n":%d}' % number for number in range(6)])

    def test_json_rpc_replies_are_sent_as_soon_as_they_are_ready(self):
        session, requests = self.started(bare(1), rpc(2), rpc(3))
        session.answer(requests[2], result(3))
        self.assertEqual([json.loads(line)["id"] for line in session.take()], [3])
        session.answer(requests[1], failed(2))
        self.assertEqual([json.loads(line)["id"] for line in session.take()], [2])
        self.assertEqual(session.outstanding, 1)

    def test_a_notification_is_run_and_not_answered(self):
        session, [request] = self.started(notification(1, progress=True))
        session.report(request, Progress(1))
        session.answer(request, failed(1))
        session.end_of_input()
        self.assertEqual(session.take(), [])
        self.assertTrue(session.finished)

    def test_an_error_about_an_unreadable_line_keeps_its_place_among_bare_replies(self):
        session, requests = self.started(bare(1), b"garbage", bare(2))
        self.assertEqual(session.take(), [])
        session.answer(requests[1], result(2))
        session.answer(requests[0], result(1))
        first, second, third = map(json.loads, session.take())
        self.assertEqual((first, third), ({"n": 1}, {"n": 2}))
        self.assertEqual((second["id"], second["error"]["code"]), (None, -32700))

    def test_an_invalid_bare_request_is_answered_in_its_dialect_and_place(self):
        session, requests = self.started(bare(1), b'{"function":"f","args":5}')
        self.assertEqual(session.take(), [])
        session.answer(requests[0], result(1))
        _, second = map(json.loads, session.take())
        self.assertEqual(set(second), {"error"})
        self.assertEqual((second["error"]["code"], second["error"]["data"]), (-32600, {"member": "args"}))

    def test_requests_that_were_read_elsewhere_take_their_places_among_the_others(self):
        session = Session(copies=2)
        long, short = Request("long", None, NO_OPTIONS, BARE), Request("short", None, NO_OPTIONS, BARE)
        session.begin(long, SHORT + 1)
        session.begin(short, 1)
        self.assertEqual((session.outstanding, session.large), (2, 2 * (SHORT + 1)))
        session.answer(short, Result(Raw(b"2")))
        self.assertEqual(session.take(), [])
        session.answer(long, Result(Raw(b"1")))
        self.assertEqual((session.take(), session.large), ([b"1", b"2"], 0))

    def test_such_a_request_may_have_an_id(self):
        session = Session()
        request = Request("f", None, NO_OPTIONS, JSON_RPC, Raw(b"7"))
        session.begin(request, 1)
        session.answer(request, Result(Raw(b"1")))
        self.assertEqual(session.take(), [b'{"jsonrpc":"2.0","id":7,"result":1}'])

    def test_the_ids_of_json_rpc_are_echoed_byte_for_byte(self):
        for text in b"1.50", b"-0", b'"\\u0041"', b"null", b"1e3", b"12345678901234567890123":
            session, [request] = self.started(b'{"jsonrpc": "2.0", "method": "f", "id": %b }' % text)
            session.answer(request, Result(Raw(b"1")))
            self.assertEqual(session.take(), [b'{"jsonrpc":"2.0","id":%b,"result":1}' % text])

    def test_requests_after_a_message_over_the_limit_get_no_reply_but_all_before_it_do(self):
        session, requests = self.started(bare(1), rpc(2))
        session.refuse_rest(too_large(99))
        self.assertEqual(session.requests(), [])
        self.assertFalse(session.wants_data)
        session.answer(requests[1], result(2))
        self.assertEqual(len(session.take()), 1)
        self.assertFalse(session.finished)
        session.answer(requests[0], result(1))
        first, second = map(json.loads, session.take())
        self.assertEqual(first, {"n": 1})
        self.assertEqual((second["error"]["code"], second["error"]["data"]), (-32006, {"limit": 99}))
        self.assertTrue(session.finished)

    def test_a_long_id_is_not_repeated_in_reports(self):
        session = Session()
        for size in (1022, 1023):
            line = b'{"jsonrpc":"2.0","id":"%b","method":"f","options":{"progress":true}}' % (b"x" * size)
            session.receive([line])
            [request] = session.requests()
            session.report(request, Progress(1))
        [report] = session.take()
        self.assertIn(b"x" * 1022, report)

    def test_the_error_about_a_message_over_the_limit_waits_behind_a_full_backlog(self):
        session, [request] = self.started(rpc(1), rpc(2), limit=1)
        session.refuse_rest(too_large(99))
        self.assertEqual(session.requests(), [])
        self.assertEqual(session.take(), [])
        session.answer(request, result(1))
        [request] = session.requests()
        session.answer(request, result(2))
        self.assertEqual(session.requests(), [])
        self.assertEqual([json.loads(line)["id"] for line in session.take()], [1, 2, None])

    def test_a_half_closed_connection_is_finished_when_all_is_sent(self):
        session, [request] = self.started(bare(1))
        session.end_of_input()
        self.assertFalse(session.finished)
        session.answer(request, result(1))
        self.assertFalse(session.finished)
        session.take()
        self.assertTrue(session.finished)

    def test_an_open_connection_is_never_finished(self):
        self.assertFalse(Session().finished)
        self.assertTrue(Session().wants_data)

    def test_an_unterminated_message_at_the_end_is_reported(self):
        session, _ = self.started()
        session.end_of_input(unfinished=5)
        session.requests()
        [line] = session.take()
        self.assertEqual(json.loads(line)["error"]["code"], -32700)
        self.assertTrue(session.finished)

    def test_a_message_over_the_limit_is_not_also_reported_as_unterminated(self):
        session, _ = self.started()
        session.refuse_rest(too_large(9))
        session.end_of_input(unfinished=5)
        session.requests()
        self.assertEqual(len(session.take()), 1)

    def test_the_last_unsent_progress_report_is_kept(self):
        session, [request] = self.started(rpc(1, progress=True))
        for done in 1, 2, 3:
            session.report(request, Progress(done), congested=True)
        self.assertEqual(session.take(), [])
        [line] = session.take(resumed=True)
        self.assertEqual(json.loads(line)["params"], {"id": 1, "done": 3})
        self.assertEqual(session.take(resumed=True), [])

    def test_a_late_progress_report_is_sent_before_the_reply(self):
        session, requests = self.started(rpc(1, progress=True), rpc(2, progress=True))
        session.report(requests[0], Progress(1), congested=True)
        session.report(requests[1], Progress(2), congested=True)
        session.answer(requests[0], result(1))
        report, reply = map(json.loads, session.take())
        self.assertEqual((report["params"], reply["id"]), ({"id": 1, "done": 1}, 1))
        [line] = session.take(resumed=True)
        self.assertEqual(json.loads(line)["params"], {"id": 2, "done": 2})

    def test_a_new_progress_report_replaces_a_late_one(self):
        session, [request] = self.started(rpc(1, progress=True))
        session.report(request, Progress(1), congested=True)
        session.report(request, Progress(2))
        self.assertEqual([json.loads(line)["params"]["done"] for line in session.take(resumed=True)], [2])

    def test_progress_is_sent_only_for_requests_that_asked_for_it(self):
        session, requests = self.started(rpc(1), bare(2), notification(3, progress=True))
        for request in requests:
            session.report(request, Progress(1))
            session.report(request, Progress(1), congested=True)
        self.assertEqual(session.take(resumed=True), [])

    def test_the_reply_to_one_request_leaves_the_late_progress_of_another_waiting(self):
        session, [first, second] = self.started(rpc(1, progress=True), rpc(2, progress=True))
        session.report(first, Progress(1), congested=True)
        session.answer(second, result(2))
        [reply] = session.take()
        self.assertEqual(json.loads(reply)["id"], 2)
        [report] = session.take(resumed=True)
        self.assertEqual(json.loads(report)["params"]["id"], 1)

    def test_progress_after_the_reply_is_dropped(self):
        session, [request] = self.started(rpc(1, progress=True))
        session.answer(request, result(1))
        session.take()
        session.report(request, Progress(1))
        session.report(request, Progress(1), congested=True)
        self.assertEqual(session.take(resumed=True), [])

    def test_on_a_websocket_a_bare_reply_is_the_text_of_workermans_example(self):
        session, requests = self.started(
            bare(1), bare(2), b'{"function":5}', rpc(3), bare_reply=task_complete
        )
        session.answer(requests[1], failed(2))
        session.answer(requests[2], result(3))
        self.assertEqual(json.loads(session.take()[0])["id"], 3)
        session.answer(requests[0], result(1))
        complete, error, refused = session.take()
        self.assertEqual(complete, b"task complete")
        self.assertEqual(error, b"task failed: ValueError: 2")
        self.assertTrue(refused.startswith(b"task failed: "), refused)


class FindTests(SynchronousTestCase):
    """Looking up requests in flight by their ids."""

    def session(self, *lines):
        session = Session()
        session.receive(lines)
        return session, session.requests()

    def test_a_request_is_found_by_its_id_exactly_as_it_was_sent(self):
        lines = [b'{"jsonrpc":"2.0","id":%b,"method":"f"}' % each for each in (b"1", b'"1"', b"1.0", b'"x"')]
        session, requests = self.session(*lines)
        for request in requests:
            self.assertIs(session.find(bytes(request.id)), request)
        for unknown in b"2", b"1.00", b'"X"', b"null":
            self.assertIsNone(session.find(unknown))

    def test_an_answered_request_is_not_found(self):
        session, [request] = self.session(rpc(1))
        session.answer(request, result(1))
        self.assertIsNone(session.find(b"1"))

    def test_a_request_without_an_id_is_not_found(self):
        session, requests = self.session(bare(1), notification(2))
        self.assertEqual(len(requests), 2)
        self.assertIsNone(session.find(b"1"))

    def test_a_request_of_a_batch_is_found(self):
        session, [first, second] = self.session(b"[%b,%b]" % (rpc(1), rpc(2)))
        self.assertIs(session.find(b"1"), first)
        self.assertIs(session.find(b"2"), second)


class BatchTests(SynchronousTestCase):
    """The examples of the specification, section 7, and its rules in section 6."""

    def exchange(self, line):
        """Return the replies to one line, if every function returns its number."""
        session = Session()
        session.receive([line])
        for request in reversed(session.requests()):
            session.answer(request, Result(Raw(b"19")))
        session.end_of_input()
        replies = [json.loads(message) for message in session.take()]
        self.assertTrue(session.finished)
        return replies

    def shape(self, replies):
        """Return the id and the code of each reply, with code None for a result."""
        return Counter((reply["id"], reply.get("error", {}).get("code")) for reply in replies)

    def test_calls_are_answered_by_one_array(self):
        [replies] = self.exchange(b"[%b,%b,%b]" % (rpc(1), notification(2), rpc(3)))
        self.assertEqual(self.shape(replies), Counter({(1, None): 1, (3, None): 1}))

    def test_one_call_is_answered_by_an_array_too(self):
        [replies] = self.exchange(b"[%b]" % rpc(1))
        self.assertEqual(replies, [{"jsonrpc": "2.0", "id": 1, "result": 19}])

    def test_invalid_json_is_one_error_and_no_array(self):
        [reply] = self.exchange(
            b'[{"jsonrpc": "2.0", "method": "sum", "id": "1"},{"jsonrpc": "2.0", "method"]'
        )
        self.assertEqual((reply["id"], reply["error"]["code"]), (None, -32700))

    def test_an_empty_array_is_one_error_and_no_array(self):
        [reply] = self.exchange(b"[]")
        self.assertEqual((reply["id"], reply["error"]["code"]), (None, -32600))

    def test_an_invalid_element_is_one_error_in_an_array(self):
        [replies] = self.exchange(b"[1]")
        self.assertEqual(self.shape(replies), Counter({(None, -32600): 1}))

    def test_each_invalid_element_is_an_error(self):
        [replies] = self.exchange(b"[1,2,3]")
        self.assertEqual(self.shape(replies), Counter({(None, -32600): 3}))

    def test_a_mixture_is_answered_element_for_element(self):
        line = b'[%b,%b,{"foo":"boo"},{"jsonrpc":"2.0","id":5,"method":7},{"function":"f"},%b]'
        [replies] = self.exchange(line % (rpc(1), notification(2), rpc(9)))
        expected = {(1, None): 1, (None, -32600): 2, (5, -32600): 1, (9, None): 1}
        self.assertEqual(self.shape(replies), Counter(expected))

    def test_notifications_alone_are_not_answered(self):
        self.assertEqual(self.exchange(b"[%b,%b]" % (notification(1), notification(2))), [])

    def test_notifications_with_an_invalid_element_are_answered_at_once(self):
        session = Session()
        session.receive([b"[%b,1]" % notification(1)])
        self.assertEqual(len(session.requests()), 1)
        [line] = session.take()
        self.assertEqual(self.shape(json.loads(line)), Counter({(None, -32600): 1}))

    def test_the_array_goes_out_when_the_last_call_is_done(self):
        session = Session()
        session.receive([b"[%b,1,%b]" % (rpc(1), rpc(2)), rpc(3)])
        first, second, third = session.requests()
        session.answer(second, result(2))
        session.answer(third, result(3))
        self.assertEqual([json.loads(line)["id"] for line in session.take()], [3])
        session.answer(first, result(1))
        [line] = session.take()
        self.assertEqual(
            self.shape(json.loads(line)), Counter({(1, None): 1, (2, None): 1, (None, -32600): 1})
        )

    def test_calls_of_one_id_are_each_answered(self):
        [replies] = self.exchange(b"[%b,%b]" % (rpc(1), rpc(1)))
        self.assertEqual(self.shape(replies), Counter({(1, None): 2}))

    def test_the_reply_to_invalid_elements_is_no_longer_than_a_message_may_be(self):
        """A reader with the protocol's limit must be able to read it, and the server to afford it."""
        session = Session()
        session.receive([b"[" + b",".join([b"1"] * 100_000) + b"]"])
        while session.has_more:
            session.requests()
        [line] = session.take()
        self.assertLess(len(line), MAX_MESSAGE)

    def test_a_message_of_invalid_elements_costs_little_more_than_its_length(self):
        """Ten mebibytes of them must not take gigabytes, nor the reactor's time for a minute."""
        line = b"[" + b",".join([b"1"] * 50_000) + b"]"
        session = Session()
        session.receive([line])
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        while session.has_more:
            session.requests()
        _, most = tracemalloc.get_traced_memory()
        self.assertLess(most - before, 100 * len(line))

    def test_the_reply_to_an_invalid_request_is_no_longer_than_a_message_may_be(self):
        session = Session()
        session.receive([b'{"function":"f","' + b"x" * (MAX_MESSAGE - 30) + b'":1}'])
        while session.has_more:
            session.requests()
        [line] = session.take()
        self.assertLess(len(line), MAX_MESSAGE)


class StepTests(SynchronousTestCase):
    """What one client sends is read a step at a time, so that no other has to wait for all of it."""

    def session(self, *lines, limit=MAX_OUTSTANDING):
        session = Session(limit)
        session.receive(list(lines))
        return session

    def test_a_step_reads_a_bounded_number_of_messages_of_any_kind(self):
        most = STEP // MESSAGE_COST
        for message in rpc(1), bare(1), notification(1), b"x", b'{"jsonrpc":"2.0","id":1}':
            session = self.session(*[message] * 3 * most)
            session.requests()
            self.assertGreater(session.clear(), most, message)

    def test_a_step_reads_a_bounded_number_of_bytes(self):
        line = b'{"function":"f","args":["%b"]}' % (b"x" * (STEP // 4))
        session = self.session(*[line] * 10)
        self.assertLess(len(session.requests()), 5)
        self.assertTrue(session.has_more)

    def test_a_long_message_is_checked_in_steps_and_then_read(self):
        for text in b"x" * 5 * STEP, "\u65e5".encode() * 3 * STEP, b'\\"[' * 2 * STEP:
            line = b'{"function":"f","args":["%b"]}' % text
            session = self.session(line, bare(2))
            steps = []
            while session.has_more:
                steps.append(session.requests())
            self.assertGreater(len(steps), 4)
            first, second = [request for step in steps for request in step]
            self.assertEqual(bytes(first.args), b'["%b"]' % text)
            self.assertEqual(number_of(second), 2)

    def test_a_long_member_of_a_batch_is_read_in_steps(self):
        line = b'[{"jsonrpc":"2.0","id":1,"method":"f","params":["%b"]},%b,[%b]]'
        session = self.session(line % (b"x" * 5 * STEP, rpc(2), b"0," * STEP + b"0"), bare(3))
        steps = []
        while session.has_more:
            steps.append(session.requests())
        self.assertGreater(len(steps), 10)
        first, second, third = [request for step in steps for request in step]
        self.assertEqual(first.size, 5 * STEP + len(b'f[""]'))
        self.assertEqual([number_of(second), number_of(third)], [2, 3])

    def test_a_mistake_in_a_long_message_is_one_error_in_its_place(self):
        wrong = b'{"function":"f","args":["%b"]}'
        for text in b"x" * 3 * STEP + b"\xff", b"x" * 2 * STEP + b'",' + b"[" * 1000 + b'"':
            session = self.session(bare(1), wrong % text, bare(3))
            requests = []
            while session.has_more:
                requests += session.requests()
            for request in requests:
                session.answer(request, result(number_of(request)))
            replies = [json.loads(line) for line in session.take()]
            self.assertEqual([reply.get("n") for reply in replies], [1, None, 3])
            self.assertEqual(replies[1]["error"]["code"], -32700)

    def test_every_message_is_read_in_the_end_and_in_order(self):
        session = self.session(*[rpc(number) for number in range(500)])
        requests = []
        while session.has_more:
            requests += session.requests()
        self.assertEqual([number_of(request) for request in requests], list(range(500)))

    def test_nothing_is_read_from_the_peer_while_messages_are_left(self):
        session = self.session(*[b"x"] * 100)
        session.requests()
        self.assertFalse(session.wants_data)
        while session.has_more:
            session.requests()
        self.assertTrue(session.wants_data)

    def test_members_of_a_batch_count_one_by_one_against_the_limit(self):
        session = self.session(b"[%b]" % b",".join(rpc(number) for number in range(50)), limit=10)
        most, seen = 0, []
        requests = session.requests()
        while requests:
            seen += requests
            most = max(most, session.outstanding)
            for request in requests[: len(requests) // 2 + 1]:
                session.answer(request, result(number_of(request)))
            requests = requests[len(requests) // 2 + 1 :] + session.requests()
        self.assertEqual(most, 10)
        [line] = session.take()
        self.assertEqual(sorted(reply["id"] for reply in json.loads(line)), list(range(50)))

    def test_a_message_behind_a_batch_waits_for_all_of_its_members(self):
        session = self.session(b"[%b,%b,%b]" % (rpc(1), rpc(2), rpc(3)), bare(4), limit=2)
        first, second = session.requests()
        session.answer(first, result(1))
        session.answer(second, result(2))
        third, fourth = session.requests()
        self.assertEqual([number_of(third), number_of(fourth)], [3, 4])


class SearchTests(SynchronousTestCase):
    """The request of an id is found among those in flight, and only there."""

    def test_the_oldest_of_several_requests_with_an_id_is_found(self):
        session = Session()
        session.receive([rpc(1), rpc(1), rpc(2)])
        first, second, _ = session.requests()
        self.assertIs(session.find(b"1"), first)
        session.answer(first, result(1))
        self.assertIs(session.find(b"1"), second)
        session.answer(second, result(1))
        self.assertIsNone(session.find(b"1"))

    def test_requests_that_start_after_a_search_are_found(self):
        session = Session()
        session.receive([rpc(1), notification(5)])
        session.requests()
        self.assertIsNone(session.find(b"2"))
        session.receive([rpc(2), notification(6), bare(7)])
        (request, *others) = session.requests()
        self.assertIs(session.find(b"2"), request)
        for other in others:
            session.answer(other, result(0))
        self.assertIs(session.find(b"2"), request)

    def test_requests_are_found_after_all_earlier_ones_have_ended(self):
        session = Session()
        for number in 1, 2, 3:
            session.receive([rpc(number)])
            (request,) = session.requests()
            self.assertIs(session.find(b"%d" % number), request)
            session.answer(request, result(number))
            self.assertIsNone(session.find(b"%d" % number))


class StrangerTests(SynchronousTestCase):
    """A web page can make its visitor's browser send to any port: no line of such a request may run.

    Whatever does not begin as a request does is another protocol, which may carry bytes of anybody's choice.
    """

    RUNS = b'{"function":"hello"}'
    STRANGERS = (
        b"POST / HTTP/1.1",
        b"post / HTTP/1.1",
        b"patch / HTTP/1.1",
        b"null / HTTP/1.1",
        b"true / HTTP/1.1",
        b"1 / HTTP/1.1",
        b'"x" / HTTP/1.1',
        b"GET /",
        b"EHLO localhost",
        b"OPTIONS * RTSP/1.0",
        b"\x16\x03\x01\x02\0\x01\0",
        b"null",
        b"true",
        b'"x"',
        b"17",
        b"-",
        b"x",
        b"  x",
        b" ",
        b"\t \t",
        b"\xef\xbb\xbf{}",
        b"\0{}",
        b"\x0b{}",
        b"}",
        b"]",
    )

    def session(self):
        return Session(begins_as_json=True)

    def assert_refused(self, session):
        self.assertEqual(session.requests(), [])
        (line,) = session.take()
        self.assertEqual(json.loads(line)["error"]["code"], -32600)
        self.assertTrue(session.finished)
        session.receive([self.RUNS])
        session.receive_part(b"x")
        self.assertEqual((session.requests(), session.take(), session.finished), ([], [], True))

    def test_nothing_is_run_behind_a_first_line_that_does_not_begin_as_a_request(self):
        for stranger in self.STRANGERS:
            session = self.session()
            session.receive([stranger, b"Host: a", self.RUNS])
            self.assert_refused(session)

    def test_nothing_is_run_in_later_reads_either(self):
        for stranger in self.STRANGERS:
            session = self.session()
            session.receive([stranger])
            self.assert_refused(session)

    def test_a_stranger_is_refused_before_its_first_line_has_ended(self):
        for stranger in self.STRANGERS:
            if stranger.strip(b" \t"):
                session = self.session()
                for place in range(len(stranger)):
                    session.receive_part(stranger[place : place + 1])
                self.assert_refused(session)

    def test_the_beginning_of_a_request_may_come_in_any_pieces(self):
        for pieces in [b" "], [b"\r\n", b"\n ", b"\t"], [], [b" {"], [b"[", b"1"], [b"\n\n{", b"xyz"]:
            session = self.session()
            for piece in pieces:
                session.receive_part(piece)
            session.receive([b"  " + self.RUNS])
            self.assertEqual(len(session.requests()), 1, pieces)

    def test_a_malformed_first_line_that_begins_as_a_request_is_an_error_like_any_other(self):
        for line in b"{", b"[", b"{}", b"[]", b"[ / HTTP/1.1", b"\t{x":
            session = self.session()
            session.receive([line, self.RUNS])
            self.assertEqual(len(session.requests()), 1)
            self.assertEqual(len(session.take()), 1)

    def test_a_later_line_is_only_an_error(self):
        session = self.session()
        session.receive([self.RUNS, b"POST / HTTP/1.1", self.RUNS])
        self.assertEqual(len(session.requests()), 2)
        self.assertFalse(session.closing)
