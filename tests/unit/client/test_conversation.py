"""The conversation on one connection: calls, events, the heartbeat, and every end."""

import json

from twisted.trial.unittest import SynchronousTestCase

from taskd.client.conversation import PING_INTERVAL, PING_TIMEOUT, Conversation
from taskd.client.waiting import Reply
from taskd.errors import Unreachable
from taskd.model import Call, Failure, Progress

CALL = Call("f")
PING = {"jsonrpc": "2.0", "id": "ping", "method": "taskd.ping"}
PONG = b'{"jsonrpc":"2.0","id":"ping","result":"pong"}\n'


def reply(number, result="done"):
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode() + b"\n"


class ConversationTests(SynchronousTestCase):
    def setUp(self):
        self.events = []
        self.make()

    def make(self, **options):
        self.conversation = Conversation("host:1", on_event=self.events.append, **options)
        self.conversation.opened(100.0)

    def add(self):
        waiter = Reply()
        return self.conversation.call(CALL, waiter), waiter

    def sent(self, now=100.0):
        return [json.loads(line) for line in self.conversation.data_to_send(now).splitlines()]

    # --- calls ---

    def test_calls_are_sent_once_and_replies_find_them(self):
        (first, one), (second, two) = self.add(), self.add()
        self.assertEqual([message["id"] for message in self.sent()], [int(first), int(second)])
        self.assertEqual(self.conversation.data_to_send(100.0), b"")
        self.conversation.receive(reply(2, "two") + reply(1, "one"), 101.0)
        self.assertEqual([bytes(each.outcome.value) for each in (one, two)], [b'"one"', b'"two"'])
        self.assertEqual(len(self.conversation), 0)

    def refuse(self, number):
        error = {"code": -32005, "message": "the server is shutting down"}
        line = json.dumps({"jsonrpc": "2.0", "id": number, "error": error}).encode() + b"\n"
        self.conversation.receive(line, 101.0)

    def test_a_server_that_is_about_to_stop_gets_no_more_calls_and_its_replies_are_awaited(self):
        (_, one), (_, two) = self.add(), self.add()
        self.sent()
        self.refuse(1)
        self.assertEqual((one.outcome.code, self.conversation.takes_calls), (-32005, False))
        self.assertFalse(self.conversation.is_over)
        self.conversation.receive(reply(2), 101.0)
        self.assertTrue(two.is_done)
        self.assertEqual(self.conversation.fault, "it is shutting down")

    def test_a_gateway_gets_calls_although_one_of_its_task_servers_is_about_to_stop(self):
        self.make(is_gateway=True)
        self.add()
        self.sent()
        self.refuse(1)
        self.assertTrue(self.conversation.takes_calls)

    def test_lines_may_be_cut_anywhere(self):
        _, waiter = self.add()
        for byte in reply(1):
            self.assertFalse(waiter.is_done)
            self.conversation.receive(bytes([byte]), 101.0)
        self.assertTrue(waiter.is_done)

    def test_a_lone_line_ends_in_one_lf_like_several(self):
        self.add()
        self.assertTrue(self.conversation.data_to_send(100.0).endswith(b'"f"}\n'))
        self.add()
        self.add()
        self.assertEqual(self.conversation.data_to_send(100.0).count(b"\n"), 2)

    def test_messages_of_a_websocket_have_no_line_ends(self):
        _, waiter = self.add()
        [message] = self.conversation.messages_to_send(100.0)
        self.assertNotIn(b"\n", message)
        self.conversation.receive_message(reply(1).rstrip(), 101.0)
        self.assertTrue(waiter.is_done)

    def test_a_call_can_be_cancelled_and_left(self):
        request_id, waiter = self.add()
        self.sent()
        self.conversation.cancel(request_id)
        self.assertEqual(self.sent()[0]["method"], "taskd.cancel")
        self.conversation.detach(request_id)
        self.assertTrue(waiter.is_done)
        self.conversation.receive(reply(1), 101.0)
        self.assertEqual(len(self.conversation), 0)

    def test_progress_and_events_are_passed_on(self):
        waiter = Reply(self.events.append)
        self.conversation.call(CALL, waiter)
        self.conversation.receive(
            b'{"jsonrpc":"2.0","method":"taskd.progress","params":{"id":1,"done":1}}\n'
            b'{"jsonrpc":"2.0","method":"taskd.event","params":{"task":"7"}}\n',
            101.0,
        )
        waiter.report()
        self.assertEqual([Progress(1)], self.events[1:])
        self.assertEqual(bytes(self.events[0]), b'{"task":"7"}')

    def test_progress_that_nobody_wants_is_dropped(self):
        waiter = Reply()
        waiter.progressed(Progress(1))
        waiter.report()
        self.assertFalse(waiter.is_done)

    def test_more_calls_than_the_window_wait(self):
        self.make(window=1)
        self.add()
        self.add()
        self.assertEqual(len(self.sent()), 1)
        self.conversation.receive(reply(1), 101.0)
        self.assertEqual([message["id"] for message in self.sent()], [2])

    # --- ends ---

    def test_a_lost_connection_fails_what_was_sent_and_what_was_not_differently(self):
        self.make(window=1)
        (_, one), (_, two) = self.add(), self.add()
        self.conversation.lost("it broke")
        self.assertTrue(self.conversation.is_over)
        self.assertEqual([one.error.data["sent"], two.error.data["sent"]], [True, False])
        self.assertIn("the task server host:1 was lost before it answered", str(one.error))
        one.was_written = True
        self.assertEqual([one.was_not_sent, two.was_not_sent], [False, True])

    def test_a_conversation_that_is_over_takes_no_call_and_has_nothing_to_send(self):
        self.add()
        self.conversation.lost("it broke")
        self.conversation.lost("again")
        self.assertEqual(self.conversation.fault, "it broke")
        error = self.assertRaises(Unreachable, self.conversation.call, CALL, Reply())
        self.assertIs(error.data["sent"], False)
        self.assertEqual(self.sent(), [])
        self.assertIs(self.conversation.next_beat(), None)

    def test_the_other_end_may_be_no_task_server(self):
        for data, words, has_run in (
            (b"HTTP/1.1 400 Bad Request\r\n", "that port speaks HTTP", False),
            (b"220 mail ESMTP\r\n", "it is no task server", True),
        ):
            self.make()
            _, waiter = self.add()
            self.conversation.receive(data + reply(1), 101.0)
            self.assertIn(words, waiter.error.message)
            self.assertIs(waiter.error.data["sent"], has_run)
            self.assertIs(self.conversation.is_foreign, not has_run)

    def test_a_foreign_end_is_recognised_by_an_unfinished_line_when_it_closes(self):
        _, waiter = self.add()
        self.conversation.receive(b"\x15\x03\x01\x00\x02\x02\x46", 101.0)
        self.conversation.lost("it closed the connection")
        self.assertIn("speaks TLS", waiter.error.message)
        self.assertTrue(waiter.was_not_sent)

    def test_a_reply_over_the_limit_ends_it_after_those_before(self):
        self.make(max_reply=100)
        (_, one), (_, two) = self.add(), self.add()
        self.conversation.receive(reply(1) + reply(2, "x" * 100), 101.0)
        self.assertIsNot(one.outcome, None)
        self.assertIn("its reply is over 100 bytes", two.error.message)

    def test_a_server_that_is_busy_refuses_every_call(self):
        (_, one), (_, two) = self.add(), self.add()
        self.conversation.receive(
            b'{"jsonrpc":"2.0","id":null,"error":{"code":-32004,"message":"busy"}}\n', 101.0
        )
        self.assertEqual(one.outcome, Failure(-32004, "busy"))
        self.assertEqual(two.outcome, Failure(-32004, "busy"))
        self.assertFalse(one.was_not_sent)

    def test_a_message_that_is_refused_is_that_of_the_only_call(self):
        _, one = self.add()
        self.conversation.refused(Failure(-32006, "too long"))
        self.assertEqual(one.outcome, Failure(-32006, "too long"))
        (_, two), (_, three) = self.add(), self.add()
        self.conversation.refused(Failure(-32006, "too long"))
        self.assertEqual((two.is_done, three.is_done), (False, False))

    # --- the heartbeat ---

    def test_nothing_is_due_while_nothing_is_awaited(self):
        self.assertIs(self.conversation.next_beat(), None)
        self.conversation.beat(500.0)
        self.assertEqual(self.sent(), [])

    def test_a_silent_connection_is_pinged_while_a_reply_is_awaited(self):
        self.add()
        self.sent(100.0)
        for _ in range(50):
            due = self.conversation.next_beat()
            self.conversation.beat(due - 0.01)
            self.assertEqual(self.sent(due - 0.01), [])
            self.conversation.beat(due)
            self.assertEqual(self.sent(due), [PING])
            self.conversation.receive(PONG, due + 0.1)
            self.assertLessEqual(self.conversation.next_beat() - due, PING_INTERVAL + 0.1)
        self.assertFalse(self.conversation.is_over)

    def test_a_gateway_is_asked_what_it_answers_itself(self):
        self.make(is_gateway=True)
        self.add()
        self.sent(100.0)
        self.conversation.beat(self.conversation.next_beat())
        cancel = {"jsonrpc": "2.0", "id": "ping", "method": "taskd.cancel", "params": {"id": "nothing"}}
        self.assertEqual(self.sent(102.0), [cancel])

    def test_a_connection_on_which_only_progress_comes_is_pinged_too(self):
        self.add()
        self.sent(100.0)
        progress = b'{"jsonrpc":"2.0","method":"taskd.progress","params":{"id":1,"done":1}}\n'
        self.conversation.receive(progress, 101.9)
        self.conversation.beat(102.0)
        self.assertEqual(self.sent(102.0), [PING])

    def test_a_connection_that_was_idle_is_not_pinged_at_once(self):
        self.add()
        self.sent(100.0)
        self.conversation.receive(reply(1), 101.0)
        self.add()
        self.sent(500.0)
        self.assertEqual(self.conversation.next_beat(), 500.0 + PING_INTERVAL)

    def test_a_connection_that_is_watched_is_pinged_without_any_call(self):
        self.conversation.is_watching = True
        self.assertEqual(self.conversation.next_beat(), 100.0 + PING_INTERVAL)
        self.conversation.beat(102.0)
        self.assertEqual(self.sent(102.0), [PING])

    def test_a_server_that_answers_no_ping_is_dead(self):
        _, waiter = self.add()
        self.sent(100.0)
        while (due := self.conversation.next_beat()) is not None:
            self.conversation.beat(due)
            self.sent(due)
            last = due
        self.assertEqual(last, 100.0 + PING_INTERVAL + PING_TIMEOUT)
        self.assertIn("it has not answered for 10 s", waiter.error.message)
        self.assertIs(waiter.error.data["sent"], True)

    def test_any_answer_at_all_keeps_it_alive(self):
        self.add()
        self.sent(100.0)
        for now in range(102, 160, 2):
            self.conversation.beat(float(now))
            self.sent(float(now))
            self.conversation.receive(b"{", now + 0.5) if now % 8 == 0 else None
        self.assertFalse(self.conversation.is_over)

    def test_a_process_that_was_stopped_meanwhile_asks_once_more(self):
        self.add()
        self.sent(100.0)
        self.conversation.beat(102.0)
        self.sent(102.0)
        self.conversation.beat(500.0)
        self.assertFalse(self.conversation.is_over)
        self.assertEqual(self.sent(500.0), [PING])
        for now in (502.0, 504.0, 506.0, 508.0, 510.0):
            self.conversation.beat(now)
        self.assertTrue(self.conversation.is_over)
