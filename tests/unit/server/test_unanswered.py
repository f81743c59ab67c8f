"""Failures that no reply carries: what is counted, and what is logged how often."""

from msgspec import Raw
from twisted.internet.task import Clock

from taskd.errors import Cancelled, MethodNotFound, TaskFailed
from taskd.model import Failure, Result
from taskd.protocol.method_names import CANCEL
from taskd.protocol.methods import WAS_DONE
from taskd.server.unanswered import LOG_INTERVAL, MAX_NAMES, Unanswered
from tests.unit.pools import LoggingCase

FAILED = Failure.of(TaskFailed("ValueError: no paper"))
NOT_FOUND = Failure.of(MethodNotFound("no such function"))


class UnansweredTests(LoggingCase):
    def setUp(self):
        super().setUp()
        self.clock = Clock()
        self.unanswered = Unanswered(self.clock)

    def test_the_first_failure_of_a_function_is_logged_at_once(self):
        self.unanswered.notification_ended("f", FAILED)
        self.assertEqual(self.logged, ["unanswered failure of f (task failed): ValueError: no paper"])
        self.assertEqual(self.unanswered.counts, {"task_failed": 1})

    def test_a_result_is_neither_counted_nor_logged(self):
        self.unanswered.notification_ended("f", Result(Raw(b"1")))
        self.unanswered.caller_was_gone("f", Result(Raw(b"1")))
        self.assertEqual((self.logged, self.unanswered.counts), ([], {}))

    def test_repeated_failures_are_logged_once_a_minute_with_their_number(self):
        for _ in range(313):
            self.unanswered.notification_ended("f", FAILED)
        self.assertEqual(len(self.logged), 1)
        self.clock.advance(LOG_INTERVAL)
        self.assertEqual(
            self.logged[1:],
            ["unanswered failures of f (task failed): 312 more since; the last one: ValueError: no paper"],
        )
        self.unanswered.notification_ended("f", FAILED)
        self.clock.advance(LOG_INTERVAL)
        self.assertIn("1 more since", self.logged[2])
        self.assertEqual(self.unanswered.counts, {"task_failed": 314})

    def test_after_a_quiet_minute_the_next_failure_is_logged_at_once(self):
        self.unanswered.notification_ended("f", FAILED)
        self.clock.advance(LOG_INTERVAL)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.unanswered.notification_ended("f", FAILED)
        self.assertEqual(len(self.logged), 2)

    def test_each_reason_and_function_has_lines_of_its_own(self):
        for function in "f", "g":
            for failure in FAILED, NOT_FOUND:
                self.unanswered.notification_ended(function, failure)
        self.clock.advance(LOG_INTERVAL / 2)
        self.unanswered.notification_ended("h", FAILED)
        self.unanswered.notification_ended("h", FAILED)
        self.clock.advance(LOG_INTERVAL / 2)
        self.assertEqual(len(self.logged), 5)
        self.clock.advance(LOG_INTERVAL / 2)
        self.assertEqual(len(self.logged), 6)

    def test_made_up_names_fill_neither_the_log_nor_the_memory(self):
        for number in range(5000):
            self.unanswered.notification_ended(f"made up {number}", NOT_FOUND)
        self.unanswered.notification_ended("f", FAILED)
        self.assertEqual(len(self.logged), MAX_NAMES + 2)
        self.assertIn("failure of other functions (method not found)", self.logged[MAX_NAMES])
        self.assertIn("failure of f (task failed)", self.logged[-1])
        self.clock.advance(LOG_INTERVAL)
        [line] = self.logged[MAX_NAMES + 2 :]
        more = 5000 - MAX_NAMES - 1
        self.assertIn(f"failures of other functions (method not found): {more} more since", line)
        self.assertEqual(self.unanswered.counts, {"method_not_found": 5000, "task_failed": 1})

    def test_names_and_messages_are_shortened_and_made_harmless(self):
        failure = Failure.of(TaskFailed("red \x1b[31m\n2026 all is well\u202e" + "x" * 10_000))
        self.unanswered.notification_ended("a\x1b[2J\r\n" + "z" * 10_000, failure)
        [line] = self.logged
        self.assertTrue(line.isprintable())
        self.assertLess(len(line), 400)
        self.assertIn(r"a\x1b[2J\r\nzzz", line)
        self.assertIn(r"red \x1b[31m\n2026 all is well\u202exxx", line)

    def test_a_cancel_of_nothing_is_noted(self):
        self.unanswered.notification_ended(CANCEL, WAS_DONE)
        self.unanswered.notification_ended("f", WAS_DONE)
        self.unanswered.notification_ended(CANCEL, Result(Raw(b'{"was":"waiting"}')))
        self.assertEqual(self.unanswered.counts, {"nothing_to_cancel": 1})

    def test_a_task_that_was_cancelled_after_its_caller_had_gone_is_not_noted(self):
        self.unanswered.caller_was_gone("f", Failure.of(Cancelled()))
        self.assertEqual(self.unanswered.counts, {})
        self.unanswered.notification_ended("f", Failure.of(Cancelled()))
        self.assertEqual(self.unanswered.counts, {"cancelled": 1})

    def test_an_error_that_this_version_does_not_know_is_counted(self):
        self.unanswered.notification_ended("f", Failure(-31999, "odd"))
        self.assertEqual(self.unanswered.counts, {"other_error": 1})

    def test_messages_dropped_with_their_connection_are_counted(self):
        self.unanswered.messages_were_dropped(12)
        self.assertIn("a message (disconnected): 12 messages were dropped", self.logged[0])
        self.assertEqual(self.unanswered.counts, {"disconnected": 12})

    def test_failures_that_were_only_counted_are_logged_at_the_end(self):
        self.unanswered.notification_ended("g", FAILED)
        for _ in range(3):
            self.unanswered.notification_ended("f", FAILED)
        self.unanswered.close()
        self.assertEqual(len(self.logged), 3)
        self.assertIn("failures of f (task failed): 2 more since", self.logged[2])
        self.unanswered.close()
        self.clock.advance(LOG_INTERVAL)
        self.assertEqual(len(self.logged), 3)


def notification(method="f", params=None, **options):
    """A JSON-RPC request without an id."""
    message = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    if options:
        message["options"] = options
    return message


class ServerTests(LoggingCase):
    """Which failures a server finds that no reply carries."""

    def counted(self):
        return self.server.status().unanswered

    def test_a_notification_that_is_refused(self):
        self.make(max_queue=1)
        client = self.connect()
        client.send(notification("nope"))
        client.send(notification("taskd.pong"))
        client.send(notification("taskd.ping", [1]))
        client.send(notification(), notification(), notification())
        self.server.stop_accepting()
        client.send(notification())
        self.assertEqual(
            self.counted(), {"method_not_found": 2, "invalid_params": 1, "busy": 1, "shutting_down": 1}
        )
        self.assertEqual(client.received(), [])
        self.assertTrue(self.has_logged("unanswered failure of nope (method not found)"))

    def test_a_notification_that_fails_in_its_worker(self):
        self.make(2)
        client = self.connect()
        client.send(notification("f"), notification("f"))
        self.pool.fail(1, message="E: no")
        self.pool.fail(2, code=-32602, message="f: argument 'a' is missing", traceback=None)
        self.assertEqual(self.counted(), {"task_failed": 1, "invalid_params": 1})
        self.assertTrue(self.has_logged("unanswered failure of f (invalid params): f: argument 'a'"))

    def test_a_notification_whose_worker_dies_or_whose_time_is_over(self):
        self.make(2)
        client = self.connect()
        client.send(notification("f"), notification("f", timeout=1))
        self.pool.begin(2)  # the worker that was ready last is given the first task
        self.pool.begin(1)
        self.pool.lose(2)
        self.turn(1)
        self.turn(1)
        self.pool.stop_task(1)
        client.send(*[notification("g", deadline=1)] * 3)
        self.turn(2)
        self.assertEqual((self.counted()["worker_lost"], self.counted()["timed_out"]), (1, 3))

    def test_a_notification_that_succeeds_is_not_noted(self):
        self.make()
        client = self.connect()
        client.send(notification())
        self.pool.finish(1)
        client.send(notification("taskd.ping"))
        self.assertEqual((self.counted(), self.has_logged("unanswered")), ({}, False))

    def test_a_batch_of_notifications(self):
        self.make()
        client = self.connect()
        wrong = notification("nope"), notification("f", colour=1), notification("taskd.cancel", {"id": 7})
        client.send([*wrong, notification()])
        self.assertEqual(
            self.counted(), {"method_not_found": 1, "invalid_request": 1, "nothing_to_cancel": 1}
        )
        self.assertTrue(self.has_logged("unanswered failure of f (invalid request): unknown option"))

    def test_a_cancel_of_a_task_in_flight_is_not_noted(self):
        self.make()
        client = self.connect()
        client.call()
        client.send(notification("taskd.cancel", {"id": 1}))
        self.pool.stop_task(1)
        self.assertEqual(self.counted(), {})

    def test_requests_that_are_answered_are_not_noted(self):
        self.make()
        client = self.connect()
        client.call("nope")
        client.send({"function": "nope"}, {"function": "f", "colour": 1})
        client.call("taskd.cancel", {"id": 99})
        client.call()
        self.pool.fail(1)
        self.assertEqual(len(client.received()), 5)
        self.assertEqual(self.counted(), {})

    def test_a_failure_whose_caller_is_gone(self):
        self.make(2)
        for message in {"function": "f"}, {"jsonrpc": "2.0", "id": 1, "method": "f"}:
            client = self.connect()
            client.send(message)
            client.disconnect()
        self.pool.fail(1, message="E: no")
        self.pool.begin(2)
        self.pool.lose(2)
        self.assertEqual(self.counted(), {"task_failed": 1, "worker_lost": 1})
        self.assertTrue(self.has_logged("unanswered failure of f (task failed): E: no"))

    def test_a_task_that_was_cancelled_with_its_connection_is_not_noted(self):
        self.make()
        client = self.connect()
        client.send({"function": "f", "options": {"on_disconnect": "cancel"}})
        client.disconnect()
        self.pool.stop_task(1)
        self.assertEqual(self.counted(), {})

    def test_messages_that_show_no_caller(self):
        self.make()
        for line in b"{nonsense", b"[" * 1000, b'{"method": "f", "params": []}', b"{}":
            client = self.connect()
            client.protocol.dataReceived(line + b"\n")
        self.assertEqual(self.counted(), {"parse_error": 2, "invalid_request": 2})
        self.assertTrue(self.has_logged("unanswered failure of a message (parse error): not JSON"))
        self.assertTrue(self.has_logged("unanswered failure of f (invalid request): "))

    def test_messages_that_were_not_read_before_their_connection_ended(self):
        self.make()
        client = self.connect()
        client.send(*[{"function": "f"}] * 1010)
        client.disconnect()
        self.assertEqual(self.counted(), {"disconnected": 10})
