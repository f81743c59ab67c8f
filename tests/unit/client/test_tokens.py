"""The tokens of clients: what is one, when another is shown, and what a refusal means for the calls."""

import json
from time import time

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.caller import EXPIRED, REFUSED
from taskd.client.conversation import PING_INTERVAL, Conversation
from taskd.client.tokens import (
    RENEW_SECONDS,
    VARIABLE,
    Credentials,
    ShownToken,
    credentials_of,
    denial_of,
    has_expired,
)
from taskd.client.twisted_tokens import TokenKeeper
from taskd.client.waiting import Reply
from taskd.errors import NotAllowed, Unreachable
from taskd.model import Call, Failure, Result

NOW = 1_000_000.0
"""The seconds since 1970, for those who ask here."""

EXPIRED_FAILURE = Failure.of(NotAllowed("the token has expired", reason="expired"))
UNKNOWN_FAILURE = Failure.of(NotAllowed("the token is unknown", reason="unknown"))
UNKNOWN_METHOD = Failure(-32601, "there is no function taskd.auth")


def accepted(expires=None):
    return Result(Raw(json.dumps({"owner": "ann", "role": "submit", "expires": expires}).encode()))


def answer(outcome, request_id="auth"):
    members = (
        {"result": json.loads(bytes(outcome.value))}
        if isinstance(outcome, Result)
        else {"error": {"code": outcome.code, "message": outcome.message, "data": outcome.data or {}}}
    )
    return json.dumps({"jsonrpc": "2.0", "id": request_id, **members}).encode() + b"\n"


class CredentialsTests(SynchronousTestCase):
    def test_a_text_is_the_same_token_for_each_connection(self):
        credentials = Credentials("eyJhbGci.eyJzdWIi.x-_~+")
        self.assertEqual([credentials.next(), credentials.next()], ["eyJhbGci.eyJzdWIi.x-_~+"] * 2)
        self.assertFalse(credentials.is_renewable)

    def test_a_function_is_asked_for_each_connection(self):
        tokens = ["one", "two"]
        credentials = Credentials(lambda: tokens.pop(0))
        self.assertEqual([credentials.next(), credentials.next()], ["one", "two"])
        self.assertTrue(credentials.is_renewable)

    def test_the_environment_is_asked_if_there_is_no_other(self):
        self.patch(credentials_of.__globals__["os"], "environ", {VARIABLE: " secret\n"})
        found = credentials_of(None)
        self.assertEqual(found.next(), "secret")
        self.assertEqual(credentials_of("other").next(), "other")

    def test_an_empty_variable_is_none(self):
        self.patch(credentials_of.__globals__["os"], "environ", {VARIABLE: ""})
        self.assertIsNone(credentials_of(None))

    def test_a_wrong_token_in_the_environment_is_not_quoted(self):
        self.patch(credentials_of.__globals__["os"], "environ", {VARIABLE: "my secret"})
        error = self.assertRaises(ValueError, credentials_of, None)
        self.assertEqual(
            str(error),
            "TASKD_TOKEN in the environment: a token is a text of letters, digits and . _ ~ + -",
        )

    def test_only_a_refusal_for_an_expired_token_is_worth_another(self):
        self.assertTrue(has_expired(EXPIRED_FAILURE))
        for outcome in (UNKNOWN_FAILURE, accepted(), Failure(-32008, "no"), Failure(-32000, "expired")):
            self.assertFalse(has_expired(outcome))

    def test_the_close_codes_of_websockets_say_why(self):
        self.assertTrue(has_expired(denial_of(EXPIRED, "")))
        self.assertEqual(denial_of(REFUSED, "revoked").message, "revoked")
        self.assertIsNone(denial_of(1000, "bye"))


class ShownTokenTests(SynchronousTestCase):
    def shown(self, *, is_renewable=True):
        token = ShownToken(is_renewable=is_renewable, wall_clock=lambda: NOW)
        self.assertEqual(
            json.loads(token.first("one")),
            {"jsonrpc": "2.0", "id": "auth", "method": "taskd.auth", "params": {"token": "one"}},
        )
        return token

    def test_another_is_due_some_time_before_the_end_of_the_first(self):
        token = self.shown()
        self.assertIsNone(token.answered(accepted(NOW + 600)))
        self.assertEqual(token.renews_in, 600 - RENEW_SECONDS)
        self.assertTrue(token.was_accepted)

    def test_a_short_one_is_replaced_after_half_of_its_time(self):
        token = self.shown()
        token.answered(accepted(NOW + 10))
        self.assertEqual(token.renews_in, 5)

    def test_none_is_due_for_a_text_or_without_an_end_or_if_the_clocks_differ(self):
        for token, expires in (
            (self.shown(is_renewable=False), NOW + 600),
            (self.shown(), None),
            (self.shown(), NOW - 5),
        ):
            token.answered(accepted(expires))
            self.assertIsNone(token.renews_in)

    def test_a_refusal_is_that_of_the_calls_behind_it_but_not_for_a_second_token(self):
        token = self.shown()
        self.assertIs(token.answered(UNKNOWN_FAILURE), UNKNOWN_FAILURE)
        token.answered(accepted())
        self.assertIsNone(token.answered(UNKNOWN_FAILURE))

    def test_a_server_that_knows_no_tokens_needs_none(self):
        self.assertIsNone(self.shown().answered(UNKNOWN_METHOD))


class ConversationTests(SynchronousTestCase):
    def setUp(self):
        self.renewals = []
        self.conversation = Conversation(
            "host:1",
            shown=ShownToken(is_renewable=True, wall_clock=lambda: NOW),
            renew=lambda: self.renewals.append(1),
        )
        self.conversation.opened(100.0, "one")
        self.reply = Reply()
        self.conversation.call(Call("f"), self.reply)

    def receive(self, *outcomes):
        for outcome in outcomes:
            self.conversation.receive(outcome, 100.0)

    def sent(self):
        lines = self.conversation.data_to_send(100.0).splitlines()
        return [json.loads(line)["method"] for line in lines]

    def test_a_token_goes_out_in_one_piece_with_the_first_call(self):
        self.assertEqual(self.sent(), ["taskd.auth", "f"])

    def test_a_refusal_ends_all_calls_and_the_conversation(self):
        self.sent()
        self.receive(answer(UNKNOWN_FAILURE))
        self.assertEqual(self.reply.outcome.message, "the token is unknown")
        self.assertEqual(self.conversation.fault, "the token is unknown")
        self.assertFalse(self.conversation.takes_calls)

    def test_a_call_that_is_refused_as_too_late_ends_the_conversation_when_the_others_have_ended(self):
        other = Reply()
        self.conversation.call(Call("g"), other)
        self.sent()
        self.receive(answer(accepted()), answer(EXPIRED_FAILURE, 2))
        self.assertEqual((self.conversation.takes_calls, self.conversation.is_over), (False, False))
        self.receive(answer(accepted(), 1))
        self.assertTrue(self.reply.is_done)
        self.assertEqual(self.conversation.fault, "the token has expired")

    def test_a_server_that_closes_for_an_accepted_token_may_have_run_the_calls(self):
        self.sent()
        self.receive(answer(accepted()), answer(EXPIRED_FAILURE, None))
        self.conversation.lost("it closed the connection")
        self.assertTrue(self.reply.error.data["sent"])
        self.assertIn("the token has expired", str(self.reply.error))

    def test_a_websocket_that_is_closed_before_the_token_is_accepted_has_run_nothing(self):
        self.sent()
        self.conversation.turned_away(denial_of(REFUSED, "unknown"))
        self.assertEqual((self.reply.outcome.code, self.conversation.fault), (-32008, "unknown"))

    def test_a_websocket_that_is_closed_later_may_have_run_the_calls(self):
        self.sent()
        self.receive(answer(accepted()))
        self.conversation.turned_away(denial_of(EXPIRED, ""))
        self.assertTrue(self.reply.error.data["sent"])

    def test_another_token_is_asked_for_in_time_while_something_is_awaited(self):
        self.sent()
        self.receive(answer(accepted(NOW + 1)))
        self.assertEqual(self.conversation.next_beat(), 100.5)
        self.conversation.beat(100.4)
        self.assertEqual(self.renewals, [])
        self.conversation.beat(100.5)
        self.assertEqual(self.renewals, [1])
        self.conversation.show("two")
        self.assertEqual(self.sent(), ["taskd.auth"])
        self.receive(answer(accepted(NOW + 600)))
        self.assertEqual(self.conversation.next_beat(), 100.0 + PING_INTERVAL)

    def test_no_other_is_asked_for_while_nothing_is_awaited(self):
        self.sent()
        self.receive(answer(accepted(NOW + 1)), answer(accepted(), 1))
        self.assertIsNone(self.conversation.next_beat())
        self.conversation.beat(101.0)
        self.assertEqual(self.renewals, [])

    def test_without_a_token_there_is_nothing_to_be_sent(self):
        reply = Reply()
        self.conversation.deny(Failure.of(NotAllowed("there is no token", reason="no token")))
        self.assertEqual(self.reply.outcome.data, {"reason": "no token"})
        self.assertRaises(Unreachable, self.conversation.call, Call("f"), reply)


class TokenKeeperTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.connected, self.denied, self.shown = [], [], []

    def keep(self, token):
        keeper = TokenKeeper(self.clock, Credentials(token), self.shown.append)
        keeper.first(self.connected.append, self.denied.append)
        return keeper

    def test_a_text_is_there_at_once(self):
        self.keep("one")
        self.assertEqual(self.connected, ["one"])

    def test_a_deferred_is_awaited(self):
        token = Deferred()
        self.keep(lambda: token)
        self.assertEqual(self.connected, [])
        token.callback("one")
        self.assertEqual(self.connected, ["one"])

    def test_the_reason_why_there_is_none_is_passed_on(self):
        token = Deferred()
        self.keep(lambda: token)
        token.errback(LookupError("nobody"))
        (failure,) = self.denied
        self.assertEqual(failure.data, {"reason": "no token"})
        self.assertIn("LookupError: nobody", failure.message)

    def test_a_token_that_comes_after_the_end_is_dropped(self):
        token = Deferred()
        self.keep(lambda: token).stop()
        self.assertEqual((self.connected, self.denied), ([], []))

    def renew(self, keeper, seconds=1000.0):
        keeper.shown.first("one")
        keeper.shown.answered(Result(Raw(json.dumps({"expires": time() + seconds}).encode())))

    def test_another_is_shown_before_the_first_expires(self):
        tokens = ["one", "two"]
        keeper = self.keep(lambda: tokens.pop(0))
        self.renew(keeper)
        self.clock.advance(800 - RENEW_SECONDS)
        self.assertEqual(self.shown, [])
        self.clock.advance(200)
        self.assertEqual(self.shown, ["two"])
        keeper.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_asked_for_after_the_end(self):
        keeper = self.keep(lambda: "one")
        self.renew(keeper)
        keeper.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.renew(keeper)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_function_that_has_no_other_leaves_the_first(self):
        tokens = ["one"]
        keeper = self.keep(lambda: tokens.pop(0))
        self.renew(keeper)
        self.clock.advance(1000)
        self.assertEqual(self.shown, [])
        keeper.stop()
