"""Calls over several servers, without a network."""

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.client.balanced import BalancedLink
from taskd.client.pending import CANCELLED_UNSENT, NO_REPLY
from taskd.errors import InvalidParams, Unreachable
from taskd.model import Call, Failure, Result
from taskd.protocol.dialects import BARE, JSON_RPC

CALL = Call("f", Raw(b"[1]"))
GONE = Unreachable("gone", sent=True)
AWAY = Unreachable("away", sent=False)
UNKNOWN = Failure.of(InvalidParams("there is no task t", argument="task"))
METER = object()
DONE = Result(Raw(b'"done"'))


class FakeCall:
    """A call that the test ends; `asked` records what the caller did with it."""

    def __init__(self, *arguments):
        self.arguments = arguments
        self.outcome = Deferred()
        self.asked = []

    def cancel(self):
        self.asked.append("cancel")

    def detach(self):
        self.asked.append("detach")


class FakeLink:
    """A link that answers nothing by itself; `calls` has each call that was made."""

    def __init__(self):
        self.calls = []

    def call(self, *arguments):
        self.calls.append(FakeCall(*arguments))
        return self.calls[-1]

    def close(self):
        for call in self.calls:
            if not call.outcome.called:
                call.outcome.errback(AWAY)

    def answer(self, outcome=DONE):
        self.calls[-1].outcome.callback(outcome)

    def fail(self, error):
        self.calls[-1].outcome.errback(error)


class BalancedLinkTests(SynchronousTestCase):
    def setUp(self):
        self.fakes = {name: FakeLink() for name in "abc"}
        self.clock = Clock()
        self.link = BalancedLink(self.clock, "abc", self.fakes.__getitem__)
        self.a, self.b, self.c = self.fakes.values()

    def test_an_outcome_reaches_the_caller_and_frees_its_server(self):
        for _ in range(2):
            pending = self.link.call(CALL)
            self.a.answer()
            self.assertEqual(self.successResultOf(pending.outcome), DONE)

    def test_a_call_is_passed_on_with_its_progress_and_its_dialect(self):
        self.link.call(CALL, print, BARE, METER)
        self.a.fail(AWAY)
        self.link.call(CALL)
        arguments = [call.arguments for fake in (self.a, self.b, self.c) for call in fake.calls]
        self.assertEqual(
            arguments, [(CALL, print, BARE, METER), (CALL, print, BARE, METER), (CALL, None, JSON_RPC, None)]
        )

    def test_an_unsent_call_goes_to_the_next_server(self):
        pending = self.link.call(CALL)
        self.a.fail(AWAY)
        self.b.fail(AWAY)
        self.assertNoResult(pending.outcome)
        self.c.answer()
        self.assertEqual(self.successResultOf(pending.outcome), DONE)

    def test_the_outcome_has_all_the_reasons_if_no_server_can_be_reached(self):
        pending = self.link.call(CALL)
        for fake in (self.a, self.b, self.c):
            fake.fail(AWAY)
        outcome = self.successResultOf(pending.outcome)
        self.assertEqual((outcome.message, outcome.data), ("away; away; away", {"sent": False}))

    def test_a_call_that_was_sent_is_not_sent_again(self):
        pending = self.link.call(CALL)
        self.a.fail(AWAY)
        self.b.fail(GONE)
        self.assertEqual(self.successResultOf(pending.outcome), Failure.of(GONE))
        self.assertEqual(self.c.calls, [])

    def test_a_call_is_cancelled_and_detached_at_its_current_server(self):
        first, moved = self.link.call(CALL), self.link.call(CALL)
        self.b.fail(AWAY)
        for pending, fake in ((first, self.a), (moved, self.c)):
            pending.cancel()
            pending.detach()
            self.assertEqual(fake.calls[0].asked, ["cancel", "detach"])
            fake.answer(NO_REPLY)
            self.assertEqual(self.successResultOf(pending.outcome), NO_REPLY)

    def test_a_detached_call_is_detached_from_the_next_server_too(self):
        pending = self.link.call(CALL)
        pending.detach()
        self.a.fail(AWAY)
        self.assertEqual(self.b.calls[0].asked, ["detach"])

    def test_a_call_cancelled_before_it_was_sent_counts_neither_for_nor_against_its_server(self):
        self.link.call(CALL)
        self.a.fail(GONE)
        for _ in "bc":
            self.link.call(CALL)
        self.clock.advance(1.5)
        pending = self.link.call(CALL)
        self.assertEqual(len(self.a.calls), 2)
        pending.cancel()
        self.a.answer(CANCELLED_UNSENT)
        self.assertEqual(self.successResultOf(pending.outcome), CANCELLED_UNSENT)
        # Its failures are still counted: the next one has a longer penalty.
        self.link.call(CALL)
        self.a.fail(GONE)
        self.clock.advance(1.5)
        self.link.call(CALL)
        self.assertEqual(len(self.a.calls), 3)

    def test_closing_fails_every_call_and_sends_none_again(self):
        pending = [self.link.call(CALL) for _ in range(3)]
        self.link.close()
        for call in pending:
            self.assertEqual(self.successResultOf(call.outcome), Failure.of(AWAY))
        self.assertEqual([len(fake.calls) for fake in (self.a, self.b, self.c)], [1, 1, 1])

    def test_a_single_server_is_called_directly(self):
        link = BalancedLink(self.clock, "a", self.fakes.__getitem__)
        for end, outcome in (
            (lambda: self.a.answer(), DONE),
            (lambda: self.a.fail(AWAY), Failure.of(AWAY)),
            (lambda: self.a.fail(GONE), Failure.of(GONE)),
        ):
            pending = link.call(CALL, print, BARE, METER)
            self.assertEqual(self.a.calls[-1].arguments, (CALL, print, BARE, METER))
            end()
            self.assertEqual(self.successResultOf(pending.outcome), outcome)


class StoredCallTests(SynchronousTestCase):
    def setUp(self):
        self.fakes = {name: FakeLink() for name in "abc"}
        self.link = BalancedLink(Clock(), "abc", self.fakes.__getitem__)

    def answer(self, name, outcome):
        self.fakes[name].answer(outcome)

    def asked(self):
        return [len(fake.calls) for fake in self.fakes.values()]

    def submit(self, **params):
        """Submit something; return which server has got it."""
        before = self.asked()
        self.link.call(Call("taskd.submit", Raw(msgspec.json.encode({"function": "f", **params}))))
        [asked] = [number for number in range(3) if self.asked()[number] > before[number]]
        return asked

    def test_a_call_about_a_stored_task_goes_on_until_a_server_knows_it(self):
        for method in ("get", "wait", "events", "cancel", "retry", "why"):
            pending = self.link.call(Call(f"taskd.{method}", Raw(b'{"task":"t"}')))
            self.answer("a", UNKNOWN)
            self.assertNoResult(pending.outcome)
            self.answer("b", DONE)
            self.assertEqual(self.successResultOf(pending.outcome), DONE)
        self.assertEqual(self.asked(), [6, 6, 0])

    def test_a_task_that_no_server_knows_is_unknown(self):
        pending = self.link.call(Call("taskd.get", Raw(b'{"task":"t"}')))
        for name in "abc":
            self.answer(name, UNKNOWN)
        self.assertEqual(self.successResultOf(pending.outcome), UNKNOWN)

    def test_a_task_is_not_unknown_while_a_server_cannot_be_reached(self):
        pending = self.link.call(Call("taskd.get", Raw(b'{"task":"t"}')))
        self.answer("a", UNKNOWN)
        self.fakes["b"].fail(AWAY)
        self.answer("c", UNKNOWN)
        self.assertEqual(self.successResultOf(pending.outcome), Failure.of(AWAY))

    def test_the_refusal_of_any_other_call_is_its_outcome(self):
        for function, outcome in (
            ("f", UNKNOWN),
            ("taskd.get", Failure.of(InvalidParams("no", argument="x"))),
        ):
            pending = self.link.call(Call(function, Raw(b"{}")))
            self.answer("a", outcome)
            self.assertEqual(self.successResultOf(pending.outcome), outcome)

    def test_submits_with_the_same_token_or_key_have_the_same_server(self):
        tokens = [str(number) for number in range(20)]
        first = [self.submit(token=token) for token in tokens]
        self.assertEqual([self.submit(args=[1], token=token) for token in tokens], first)
        self.assertEqual(set(first), {0, 1, 2})
        first = [self.submit(options={"key": token}) for token in tokens]
        self.assertEqual(
            [self.submit(options={"key": token, "delay": 1}, token="other") for token in tokens], first
        )
        batch = Call("taskd.submit_batch", Raw(b'["f",[[1]],{},null,"token"]'))
        before = self.asked()
        for _ in range(3):
            self.link.call(batch)
        self.assertEqual(sorted(a - b for a, b in zip(self.asked(), before, strict=True)), [0, 0, 3])

    def test_submits_without_a_token_or_with_wrong_arguments_go_to_the_least_busy_server(self):
        self.assertEqual([self.submit() for _ in range(3)], [0, 1, 2])
        self.assertEqual([self.submit(options={"key": 5}) for _ in range(3)], [0, 1, 2])

    def test_a_submit_with_a_token_goes_to_no_other_server(self):
        home = self.submit(token="t")
        pending = self.link.call(Call("taskd.submit", Raw(b'{"function":"f","token":"t"}')))
        self.fakes["abc"[home]].fail(AWAY)
        self.assertEqual(self.successResultOf(pending.outcome), Failure.of(AWAY))
        self.assertEqual(sum(self.asked()), 2)
