"""The task server on a pool without processes, over connections in memory, with a fake clock."""

from msgspec import Raw

from taskd.errors import StartError
from taskd.functions.stops import GRACE
from taskd.pool.task_label import TaskLabel
from taskd.scheduler.batching import LATE_SECONDS
from taskd.scheduler.stops import KILL_DELAY
from taskd.server import task_server
from taskd.server.status import SHOWN_PARTIES
from taskd.worker.messages import NULL, Done, Failed, Grown, Interrupt, Reported, Returned, Stopped
from tests.unit.pools import LoggingCase, function

BUSY, SHUTTING_DOWN, NOT_FOUND = -32004, -32005, -32601
TIMED_OUT, CANCELLED, LOST = -32001, -32002, -32003
SIGTERM, SIGKILL = 15, 9


class CallTests(LoggingCase):
    def test_a_call_is_given_to_a_worker_and_answered_with_its_result(self):
        self.make()
        client = self.connect()
        client.call("f", {"a": 1})
        [attempt] = self.pool.workers[1].attempts
        sent = (attempt.function, bytes(attempt.args), attempt.number, attempt.flags)
        self.assertEqual(sent, ("f", b'{"a":1}', 1, 0))
        self.pool.finish(1, b'{"b":2}')
        self.assertEqual(client.received(), [{"jsonrpc": "2.0", "id": 1, "result": {"b": 2}}])
        self.assertEqual((self.server.counters.done, self.server.status().functions[0].done), (1, 1))

    def test_short_tasks_submitted_in_one_turn_are_sent_to_the_worker_together(self):
        self.make()
        self.make_short("f")
        client = self.connect()
        client.send(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in range(5)])
        self.assertEqual(len(self.pool.workers[1].attempts), 5)

    def test_a_failure_is_reported_to_the_caller_and_its_traceback_logged(self):
        self.make()
        client = self.connect()
        for data, expected in (b"null", None), (b'{"type":"E"}', {"type": "E"}):
            client.call()
            self.pool.fail(1, data=data, message="E: no", traceback="the trace\n")
            [reply] = client.received()
            self.assertEqual(reply["error"].get("data"), expected)
            self.assertEqual((reply["error"]["code"], reply["error"]["message"]), (-32000, "E: no"))
        self.assertTrue(self.has_logged("f #1 failed after 0.100 s\nthe trace"))
        self.assertEqual(self.server.counters.failed, 2)

    def test_calls_with_invalid_arguments_do_not_count_in_the_statistics_of_the_function(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.fail(1, code=-32602, traceback=None)
        self.assertEqual(client.reply()["code"], -32602)
        self.assertEqual(self.server.status().functions, [])

    def test_progress_is_sent_only_to_clients_that_asked_for_it(self):
        self.make(2)
        client = self.connect()
        client.call(progress=True)
        client.call()
        for number in 1, 2:
            self.pool.report(number, 1, 2, "half")
        [report] = client.received()
        self.assertEqual(report["params"], {"id": 1, "done": 1, "total": 2, "message": "half"})

    def test_a_call_of_an_unknown_function_is_refused(self):
        self.make()
        client = self.connect()
        client.call("nope")
        self.assertEqual(client.reply()["code"], NOT_FOUND)

    def test_a_call_is_refused_with_a_time_to_retry_if_the_queue_is_full(self):
        self.make(max_queue=0)
        client = self.connect()
        client.call()
        client.call()
        error = client.reply()
        self.assertEqual((error["code"], set(error["data"])), (BUSY, {"retry_after"}))
        self.assertEqual(self.server.counters.refused, 1)

    def test_requests_wait_until_the_app_is_imported(self):
        self.make(loaded=False)
        client = self.connect()
        for name in "f", "nope", "taskd.functions":
            client.call(name)
        self.assertEqual(client.received(), [])
        self.pool.load(function("f"))
        codes = {reply["id"]: reply.get("error", {}).get("code") for reply in client.received()}
        self.assertEqual(codes, {2: NOT_FOUND, 3: None})
        self.turn()
        self.pool.ready()
        self.turn()
        self.pool.finish(1)
        self.assertEqual(client.reply(), 1)

    def test_an_internal_error_is_reported_with_a_reference_and_the_server_goes_on(self):
        self.make()
        client = self.connect()
        whole = task_server.Task
        task_server.Task = lambda *members: 1 / 0
        client.call()
        task_server.Task = whole
        client.call()
        error = client.reply()
        self.assertEqual((error["code"], set(error["data"])), (-32603, {"reference"}))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.pool.workers[1].attempts), 1)

    def test_the_tasks_of_a_caller_that_does_not_read_are_throttled(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        client.transport.producer.pauseProducing()
        self.pool.finish(1, b'"%s"' % (b"x" * 2000))
        self.turn()
        self.assertTrue(client.protocol.client.is_full)
        self.assertEqual((self.pool.workers[1].attempts, self.server.status().waiting), ([], 1))
        client.transport.producer.resumeProducing()
        self.turn()
        self.assertEqual(len(self.pool.workers[1].attempts), 1)

    def test_a_failed_start_of_the_pool_fails_loaded(self):
        self.make(loaded=False)
        self.pool.loaded.errback(StartError("no app"))
        self.failureResultOf(self.server.loaded, StartError)


class PartyTests(LoggingCase):
    LOCAL, REMOTE, OTHER = "127.0.0.1", "192.0.2.7", "192.0.2.8"

    def parties(self):
        """Return how many tasks and connections of each party wait, as the status shows it."""
        return {each.party: (each.waiting, each.connections) for each in self.server.status().parties}

    def call_many(self, client, count, **options):
        for _ in range(count):
            client.call(**options)

    def test_another_address_does_not_wait_behind_all_tasks_of_one(self):
        self.make()
        self.call_many(self.connect(self.REMOTE), 20)
        other = self.connect(self.OTHER)
        other.call()
        for _ in range(3):
            self.pool.finish(1)
            self.turn()
        self.assertEqual(other.reply(), 1)

    def test_the_status_names_the_parties_of_which_most_waits(self):
        self.make()
        self.assertEqual(self.parties(), {})
        self.call_many(self.connect(self.REMOTE), 5)
        self.call_many(self.connect(self.REMOTE), 2)
        self.call_many(self.connect(self.OTHER), 3)
        self.assertEqual(self.parties(), {self.REMOTE: (6, 2), self.OTHER: (3, 1)})
        for number in range(20):
            self.call_many(self.connect(f"192.0.2.{100 + number}"), 1)
        status = self.server.status()
        self.assertEqual((len(status.parties), status.parties[0].party), (SHOWN_PARTIES, self.REMOTE))

    def test_the_caller_that_a_gateway_names_is_believed_from_this_machine(self):
        self.make()
        gateway = self.connect(self.LOCAL)
        gateway.call()
        self.call_many(gateway, 3, caller="192.0.2.1 f3-1")
        self.call_many(gateway, 2, caller="192.0.2.1 f3-2")
        gateway.call(caller="uid 1000 f3-3")
        another = self.connect(self.LOCAL)
        another.call(caller="192.0.2.1 f3-1")
        self.assertEqual(self.parties(), {"192.0.2.1": (6, 2), "uid 1000": (1, 1)})

    def test_the_caller_that_anybody_else_names_is_ignored(self):
        self.make()
        client = self.connect(self.REMOTE)
        client.call()
        self.call_many(client, 3, caller="192.0.2.1 f3-1")
        self.assertEqual(self.parties(), {self.REMOTE: (3, 1)})

    def test_a_caller_without_a_name_or_with_a_very_long_one_is_an_error(self):
        self.make()
        client = self.connect(self.LOCAL)
        for caller in "", "x" * 301, 7:
            client.call(caller=caller)
            self.assertEqual(client.reply()["data"]["member"], "options.caller")

    def test_tasks_of_named_callers_are_throttled_with_the_connection_that_carries_them(self):
        self.make()
        gateway = self.connect(self.LOCAL)
        gateway.call()
        gateway.call(caller="192.0.2.1 f3-1")
        gateway.call(caller="192.0.2.2 f3-2")
        gateway.transport.producer.pauseProducing()
        self.pool.finish(1, b'"%s"' % (b"x" * 2000))
        self.turn()
        self.assertEqual((self.parties(), self.server.status().waiting), ({}, 2))
        gateway.transport.producer.resumeProducing()
        self.turn()
        self.assertEqual((len(self.pool.workers[1].attempts), self.server.status().waiting), (1, 1))

    def test_one_address_can_fill_the_queue_and_others_still_get_in(self):
        self.make(max_queue=10)
        first, other = self.connect(self.REMOTE), self.connect(self.OTHER)
        self.call_many(first, 20)
        self.assertEqual({each["error"]["code"] for each in first.received()}, {BUSY})
        self.call_many(other, 5)
        self.assertEqual(other.received(), [])
        other.call()
        self.assertEqual(other.reply()["code"], BUSY)


class WorkerTests(LoggingCase):
    def test_as_many_workers_are_started_as_are_needed(self):
        self.make(1, 3)
        client = self.connect()
        for _ in range(5):
            client.call()
        self.assertEqual(len(self.pool.workers), 3)
        self.assertEqual(self.server.counters.workers_started, 3)

    def test_missing_workers_are_started_when_the_pool_can_start_them_again(self):
        self.make(0, 2)
        self.pool.can_start = False
        client = self.connect()
        client.call()
        self.assertEqual(self.pool.workers, {})
        self.pool.can_start = True
        self.pool.observer.can_start_workers()
        self.turn()
        self.assertEqual(len(self.pool.workers), 1)

    def test_idle_workers_above_the_minimum_are_retired_after_the_idle_time(self):
        self.make(0, 2, idle_seconds=10.0)
        client = self.connect()
        client.call()
        self.pool.ready()
        self.turn()
        self.pool.finish(1)
        self.turn()
        self.turn(9.0)
        self.assertEqual(self.pool.orders, [])
        self.turn(1.0)
        self.assertEqual(self.pool.orders, [("retire", 1)])
        self.assertEqual(self.server.status().workers[0].state, "leaving")

    def test_a_worker_that_exits_just_before_it_is_retired_affects_no_other(self):
        self.make(3, 3, max_tasks=1)
        client = self.connect()
        for _ in range(3):
            client.call()
        for number in 1, 2:
            self.pool.finish(number)
        self.pool.lose(1, 0)
        self.turn()
        self.assertEqual(self.pool.orders, [("retire", 2)])
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(len(self.pool.workers), 4)

    def test_a_task_is_lost_with_its_worker_and_its_error_has_all_details_of_the_exit(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.begin(1)
        self.turn(2.5)
        self.pool.lose(
            1, -9, peak_kib=5000, out_of_memory=True, reason="why", stack=("a.py:1 in f", "a.py:2 in g")
        )
        error = client.reply()
        self.assertEqual(
            (error["code"], error["data"]),
            (
                LOST,
                {
                    "signal": "SIGKILL",
                    "seconds": 2.5,
                    "peak_memory_kib": 5000,
                    "out_of_memory": True,
                    "reason": "why",
                    "stack": ["a.py:1 in f", "a.py:2 in g"],
                },
            ),
        )
        self.assertIn("the kernel was out of memory", error["message"])
        self.assertTrue(self.has_logged("worker 1 was at: a.py:1 in f, a.py:2 in g"))
        self.turn()
        self.assertEqual((list(self.pool.workers), self.server.counters.lost), ([2], 1))

    def test_with_brief_errors_a_lost_task_has_only_how_the_process_ended_and_the_log_has_the_rest(self):
        self.make(error_details="type")
        client = self.connect()
        client.call()
        self.pool.begin(1)
        self.pool.lose(1, -9, peak_kib=5000, out_of_memory=False, reason="a secret", stack=("a.py:1 in f",))
        error = client.reply()
        data = {"signal": "SIGKILL", "seconds": 0.0, "out_of_memory": False, "task": 1}
        self.assertEqual((error["code"], error["data"]), (LOST, data))
        how = "killed by SIGKILL, see #1 in the server's log"
        self.assertEqual(error["message"], f"the worker process ended under f: {how}")
        self.assertTrue(self.has_logged("f #1 lost its worker process: killed by SIGKILL, since a secret"))

    def test_a_lost_task_reports_the_exit_status_or_the_end_of_the_fork_server(self):
        self.make(2)
        client = self.connect()
        client.call()
        client.call()
        for number in 1, 2:
            self.pool.begin(number)
        self.pool.lose(1, 3)
        self.assertEqual(client.reply()["data"], {"status": 3, "seconds": 0.0})
        self.pool.lose(2, None, reason="the fork server ended")
        error = client.reply()
        self.assertEqual(error["data"], {"seconds": 0.0, "reason": "the fork server ended"})
        self.assertIn("the fork server ended", error["message"])

    def test_a_task_that_a_crashed_worker_had_not_begun_runs_on_another_worker(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.lose(1)
        self.turn()
        self.assertEqual(client.received(), [])
        self.pool.ready()
        self.turn()
        self.assertEqual(self.pool.workers[2].attempts[0].number, 2)

    def test_a_worker_over_its_memory_limit_is_replaced_after_its_task(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.begin(1)
        self.pool.say(1, Grown(2001), Done(1, 0.001, False, Raw(b"1")))
        self.assertEqual(client.reply(), 1)
        self.turn()
        self.assertEqual((self.pool.orders, len(self.pool.workers)), ([("retire", 1)], 2))
        self.assertTrue(self.has_logged("worker 1 has 2001 KiB resident"))
        self.pool.lose(1, 0)

    def test_a_worker_that_reports_that_it_leaves_gets_no_more_tasks(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.fail(1, leaving=True)
        self.turn()
        self.assertEqual(self.pool.orders, [("retire", 1)])

    def test_tasks_are_named_for_the_log(self):
        self.make()
        client = self.connect()
        client.call()
        labels = [self.pool.observer.task_label(*which) for which in ((1, 1), (1, 2), (5, 1))]
        self.assertEqual(labels, [TaskLabel("f", 1), None, None])


class BatchTests(LoggingCase):
    def test_tasks_queued_behind_a_slow_task_are_reclaimed_and_run_on_another_worker(self):
        self.make(2)
        last = self.make_short("f")
        client = self.connect()
        client.send(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in range(3)])
        self.assertEqual([attempt.task - last for attempt in self.pool.workers[2].attempts], [1, 2, 3])
        self.pool.begin(2)
        self.turn(LATE_SECONDS)
        self.assertEqual(self.pool.orders, [])
        self.turn(LATE_SECONDS)
        self.assertEqual((self.pool.orders, self.server.counters.reclaimed), ([("reclaim", 2)], 1))
        self.pool.give_back(2, [last + 2, last + 3])
        self.turn()
        self.assertEqual(
            [(attempt.task - last, attempt.number) for attempt in self.pool.workers[1].attempts],
            [(2, 2), (3, 2)],
        )

    def test_a_cancelled_task_of_a_batch_is_answered_when_the_worker_returns_it(self):
        self.make()
        last = self.make_short("f")
        client = self.connect()
        client.send(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in (1, 2)])
        client.last_id = 2
        client.call("taskd.cancel", {"id": 2})
        self.assertEqual(self.pool.orders, [("interrupt", 1, Interrupt(last + 2, 1, True)), ("reclaim", 1)])
        self.pool.give_back(1, [last + 2])
        cancelled, answer = client.received()
        self.assertEqual((cancelled["id"], cancelled["error"]["data"]), (2, {"was": "waiting"}))
        self.assertEqual((answer["id"], answer["result"]), (3, {"was": "waiting"}))

    def test_a_cancelled_task_that_its_worker_does_not_return_is_answered_after_its_grace(self):
        self.make()
        self.make_short("f")
        client = self.connect()
        client.send(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in (1, 2)])
        self.pool.begin(1)
        client.last_id = 2
        client.call("taskd.cancel", {"id": 2})
        self.turn(GRACE)
        cancelled, answer = client.received()
        self.assertEqual((cancelled["error"]["code"], answer["result"]), (CANCELLED, {"was": "waiting"}))
        self.turn(GRACE)
        self.assertFalse([order for order in self.pool.orders if order[0] == "signal"])


class CancelTests(LoggingCase):
    def test_a_cancelled_task_that_waits_is_answered_at_once_and_before_the_request_to_cancel(self):
        self.make()
        client = self.connect()
        client.call()
        waiting = client.call()
        client.call("taskd.cancel", {"id": waiting})
        cancelled, answer = client.received()
        self.assertEqual((cancelled["id"], cancelled["error"]["code"]), (waiting, CANCELLED))
        self.assertEqual(cancelled["error"]["data"], {"was": "waiting"})
        self.assertEqual(answer["result"], {"was": "waiting"})
        self.assertEqual(self.server.counters.cancelled, 1)

    def test_a_cancelled_task_that_runs_is_interrupted_and_answered_when_it_has_ended(self):
        self.make()
        client, other = self.connect(), self.connect()
        client.call()
        self.pool.begin(1)
        other.call("taskd.cancel", {"task": 1})
        self.assertEqual(self.pool.orders, [("interrupt", 1, Interrupt(1, 1, True))])
        self.assertEqual(client.received() + other.received(), [])
        self.assertEqual(self.server.status().workers[0].stopping, "cancelled")
        self.turn(0.25)
        self.pool.stop_task(1)
        expected = {"was": "running", "stopped_after": 0.25, "killed": False}
        self.assertEqual((client.reply()["data"], other.reply()), (expected, expected))
        self.turn()
        self.assertEqual(self.server.status().workers[0].state, "idle")

    def test_a_cancelled_task_that_does_not_end_is_killed(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.begin(1)
        client.call("taskd.cancel", {"id": 1})
        self.turn(GRACE)
        expected = {"was": "running", "stopped_after": GRACE, "killed": True}
        cancelled, answer = client.received()
        self.assertEqual((cancelled["error"]["data"], answer["result"]), (expected, expected))
        self.assertEqual(self.pool.orders[1:], [("signal", 1, SIGTERM)])
        self.assertTrue(self.has_logged("f #1 has not ended within its grace"))
        self.assertEqual(len(self.pool.workers), 2)
        self.turn(KILL_DELAY)
        self.assertEqual(self.pool.orders[2:], [("signal", 1, SIGKILL)])
        self.pool.lose(1)
        self.assertEqual(client.received(), [])

    def test_a_task_whose_worker_crashes_while_it_is_cancelled_counts_as_cancelled(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.begin(1)
        client.call("taskd.cancel", {"id": 1})
        self.turn(1.0)
        self.pool.lose(1)
        cancelled, answer = client.received()
        self.assertEqual(cancelled["error"]["code"], CANCELLED)
        self.assertEqual(answer["result"], {"was": "running", "stopped_after": 1.0, "killed": True})

    def test_a_cancelled_task_that_a_crashed_worker_had_not_begun_was_waiting(self):
        self.make()
        client = self.connect()
        client.call()
        client.call("taskd.cancel", {"id": 1})
        self.pool.lose(1)
        self.assertEqual(client.received()[1]["result"], {"was": "waiting"})

    def test_a_cancelled_task_that_still_returns_a_result_was_done(self):
        self.make()
        client = self.connect()
        client.call()
        client.call("taskd.cancel", {"id": 1})
        self.pool.finish(1)
        self.assertEqual([reply["result"] for reply in client.received()], [1, {"was": "done"}])

    def test_cancelling_an_ended_or_unknown_task_answers_that_it_was_done(self):
        self.make()
        client, other = self.connect(), self.connect()
        client.call()
        for connection, params in (
            (client, {"id": 7}),
            (client, {"id": "1"}),
            (other, {"id": 1}),
            (client, {"task": 7}),
            (client, {"task": 0}),
        ):
            connection.call("taskd.cancel", params)
            self.assertEqual(connection.reply(), {"was": "done"})
        self.pool.finish(1)
        client.received()
        client.call("taskd.cancel", {"task": 1})
        self.assertEqual(client.reply(), {"was": "done"})

    def test_two_requests_to_cancel_the_same_task_are_both_answered(self):
        self.make()
        client = self.connect()
        client.call()
        client.call("taskd.cancel", {"id": 1})
        client.call("taskd.cancel", {"task": 1})
        self.pool.stop_task(1)
        self.assertEqual([reply["id"] for reply in client.received()], [1, 2, 3])
        self.assertEqual(len(self.pool.orders), 1)

    def test_an_exception_raised_while_a_cancelled_function_cleans_up_is_logged(self):
        self.make()
        client = self.connect()
        client.call()
        client.call("taskd.cancel", {"id": 1})
        self.pool.stop_task(1, traceback="the trace")
        self.assertTrue(self.has_logged("f #1 failed after 0.100 s\nthe trace"))


class DisconnectTests(LoggingCase):
    def test_a_task_runs_on_when_its_caller_disconnects(self):
        self.make()
        client = self.connect()
        client.call()
        client.disconnect()
        self.assertEqual(self.pool.orders, [])
        self.pool.finish(1)
        self.assertEqual(self.server.counters.done, 1)
        self.assertEqual(client.received(), [])

    def test_a_task_with_on_disconnect_cancel_is_cancelled_with_its_connection(self):
        for leave in (lambda client: client.disconnect()), (lambda client: client.end_sending()):
            self.make()
            client = self.connect()
            client.call(on_disconnect="cancel")
            client.call()
            client.call(on_disconnect="cancel")
            leave(client)
            self.assertEqual(self.pool.orders, [("interrupt", 1, Interrupt(1, 1, True))])
            self.assertEqual(self.server.status().waiting, 1)
            self.pool.stop_task(1)
            self.turn()
            self.assertEqual(self.server.counters.cancelled, 2)
            self.assertEqual(len(self.pool.workers[1].attempts), 1)

    def test_a_half_closed_connection_is_sent_the_replies_to_its_cancelled_tasks(self):
        self.make()
        client = self.connect()
        client.call(on_disconnect="cancel")
        client.end_sending()
        self.pool.stop_task(1)
        self.assertEqual(client.reply()["code"], CANCELLED)
        self.assertTrue(client.transport.disconnecting)

    def test_connections_are_counted(self):
        self.make()
        clients = [self.connect(), self.connect()]
        self.assertEqual(self.server.status().connections, 2)
        clients[0].disconnect()
        self.assertEqual(self.server.status().connections, 1)


class LimitTests(LoggingCase):
    def limits_of(self, *calls, timeout=None, own=None):
        self.make(len(calls), functions=[function("f", timeout=own)], timeout=timeout)
        client = self.connect()
        for asked in calls:
            client.call(**({} if asked is None else {"timeout": asked}))
        tasks = [self.server.find(number) for number in range(1, len(calls) + 1)]
        return [task.limit for task in tasks]

    def test_the_smaller_of_the_callers_and_the_servers_limit_applies(self):
        self.assertEqual(self.limits_of(None, 5, 100), [None, 5, 100])
        self.assertEqual(self.limits_of(None, 5, 100, timeout=10.0), [10.0, 5, 10.0])
        self.assertEqual(self.limits_of(None, 5, 100, own=20.0), [20.0, 5, 20.0])
        self.assertEqual(self.limits_of(None, 5, 100, timeout=10.0, own=20.0), [20.0, 5, 20.0])

    def test_a_task_over_its_time_limit_is_stopped_and_its_caller_is_sent_an_error(self):
        self.make(functions=[function("f", timeout=2.0)])
        client = self.connect()
        client.call()
        self.pool.begin(1)
        self.turn(1.9)
        self.assertEqual(self.pool.orders, [])
        self.turn(0.1)
        self.assertEqual(self.pool.orders, [("interrupt", 1, Interrupt(1, 1, False))])
        self.turn(0.5)
        self.pool.stop_task(1)
        error = client.reply()
        self.assertEqual(error["code"], TIMED_OUT)
        self.assertEqual(error["data"], {"limit": "timeout", "seconds": 2.0, "ran": 2.5, "killed": False})
        self.assertEqual(
            (self.server.counters.timed_out, self.server.status().functions[0].timed_out), (1, 1)
        )
        self.assertTrue(self.has_logged("ran over its time limit of 2 s"))

    def test_a_task_that_does_not_end_within_the_grace_of_its_function_is_killed(self):
        self.make(functions=[function("f", timeout=2.0, grace=1.0)])
        client = self.connect()
        client.call()
        self.pool.begin(1)
        self.turn(2.0)
        self.turn(1.0)
        self.assertEqual(self.pool.orders[1:], [("signal", 1, SIGTERM)])
        error = client.reply()
        self.assertEqual(error["data"], {"limit": "timeout", "seconds": 2.0, "ran": 3.0, "killed": True})
        self.turn(KILL_DELAY)
        self.assertEqual(self.pool.orders[2:], [("signal", 1, SIGKILL)])

    def test_a_task_that_waits_past_its_deadline_fails_and_is_not_started(self):
        self.make()
        client = self.connect()
        client.call()
        client.call(deadline=3)
        self.turn(3.0)
        error = client.reply()
        self.assertEqual((error["code"], error["data"]), (TIMED_OUT, {"limit": "deadline", "seconds": 3}))
        self.assertEqual((self.server.counters.expired, self.server.counters.timed_out), (1, 0))
        self.pool.finish(1)
        self.turn()
        self.assertEqual(self.pool.workers[1].attempts, [])

    def test_urgent_tasks_come_first(self):
        self.make()
        client = self.connect()
        for priority in 5, 9, 0:
            client.call(priority=priority)
        self.pool.finish(1)
        self.turn()
        self.assertEqual(self.pool.workers[1].attempts[0].task, 3)


class StatusTests(LoggingCase):
    def test_the_status_shows_the_server_its_workers_and_its_counts(self):
        self.make(1, 2, functions=[function("f", timeout=9.0)])
        client = self.connect()
        for _ in range(3):
            client.call()
        self.pool.begin(1)
        self.turn(2.0)
        client.call("taskd.status")
        status = client.reply()
        expected = {
            "name": "TaskWorker",
            "uptime": 2.0,
            "stopping": False,
            "generation": 1,
            "reloading": False,
            "connections": 1,
            "waiting": 2,
            "oldest_waiting": 2.0,
            "running": 1,
            "min_workers": 1,
            "max_workers": 2,
            "functions": [],
        }
        self.assertEqual({key: status[key] for key in expected}, expected)
        self.assertEqual(
            status["workers"][0],
            {
                "number": 1,
                "pid": 1001,
                "state": "busy",
                "seconds": 2.0,
                "function": "f",
                "task": 1,
                "owner": "",
                "tasks": 1,
                "stopping": None,
                "done": 0,
                "generation": 1,
                "memory_kib": 1000,
            },
        )
        self.assertEqual(status["workers"][1]["state"], "starting")
        self.assertEqual(status["counts"]["workers_started"], 2)

    def test_the_status_shows_the_task_of_a_batch_that_was_begun_last(self):
        self.make()
        last = self.make_short("f")
        client = self.connect()
        client.send(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in range(3)])
        self.pool.workers[1].begun = last + 2
        [worker] = self.server.status().workers
        self.assertEqual((worker.task - last, worker.tasks, worker.function), (2, 3, "f"))
        self.pool.workers[1].begun = 7777
        self.assertEqual(self.server.status().workers[0].task, last + 1)

    def test_the_status_is_empty_before_the_app_is_imported(self):
        self.make(loaded=False)
        status = self.server.status()
        self.assertEqual((status.workers, status.functions, status.oldest_waiting), ([], [], None))

    def test_functions_that_have_run_are_listed_with_their_times(self):
        self.make()
        client = self.connect()
        for seconds in 1.0, 3.0:
            client.call()
            self.pool.finish(1, seconds=seconds)
            self.turn()
        [stats] = self.server.status().functions
        self.assertEqual(
            (stats.name, stats.done, stats.mean, stats.longest, stats.short), ("f", 2, 2.0, 3.0, False)
        )


class ReloadTests(LoggingCase):
    def reload(self, *functions):
        """Begin a reload whose workers are started but not ready yet."""
        self.server.reload()
        self.pool.load(*(functions or [function("f")]), generation=self.pool.next)
        self.turn()

    def test_all_the_new_workers_are_ready_before_any_old_one_leaves(self):
        self.make(2)
        client = self.connect()
        client.call()
        self.reload()
        self.assertEqual((sorted(self.pool.workers), self.server.status().reloading), ([1, 2, 3, 4], True))
        self.pool.ready(3)
        self.turn()
        self.assertEqual((self.pool.orders, self.server.status().generation), ([], 1))
        self.pool.ready(4)
        self.turn()
        self.assertEqual((self.pool.generation, self.server.status().generation), (2, 2))
        self.assertFalse(self.server.status().reloading)
        self.assertEqual(self.pool.orders, [("retire", 1)])
        self.assertTrue(self.has_logged("reloaded: 1 functions, generation 2"))
        self.pool.finish(2)
        self.turn()
        self.assertEqual((client.reply(), self.pool.orders[1:]), (1, [("retire", 2)]))
        client.call()
        self.assertEqual(len(self.pool.workers[4].attempts), 1)

    def test_after_a_reload_removed_functions_are_refused_and_new_ones_can_be_called(self):
        self.make()
        client = self.connect()
        for name in "f", "g":
            client.call(name)
        client.call("new")
        self.assertEqual(client.reply()["code"], NOT_FOUND)
        self.reload(function("f"), function("new", timeout=3.0))
        self.pool.ready()
        self.assertEqual(client.reply()["code"], NOT_FOUND)
        self.turn()
        client.call("new")
        client.call("g")
        self.assertEqual(client.reply()["code"], NOT_FOUND)
        [attempt] = self.pool.workers[2].attempts
        self.assertEqual(attempt.function, "new")

    def test_waiting_tasks_get_the_limits_of_the_new_code(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        self.reload(function("f", timeout=3.0))
        self.pool.ready()
        self.turn()
        self.pool.begin(2)
        self.turn(1.0)
        self.turn(2.0)
        self.assertIn(("interrupt", 2, Interrupt(2, 1, False)), self.pool.orders)

    def test_code_that_cannot_be_imported_changes_nothing(self):
        self.make()
        self.server.reload()
        self.pool.observer.code_failed(2, "SyntaxError")
        self.assertTrue(self.has_logged("not reloaded: SyntaxError"))
        self.assertEqual((self.pool.abandoned, self.server.status().reloading), ([2], False))
        client = self.connect()
        client.call()
        self.pool.finish(1)
        self.assertEqual(client.reply(), 1)

    def test_a_new_worker_that_ends_before_it_is_ready_ends_the_reload(self):
        self.make(2)
        self.reload()
        self.pool.ready(3)
        self.pool.lose(4, 1)
        self.assertTrue(self.has_logged("not reloaded: a worker of the new code ended before it was ready"))
        self.assertEqual((self.pool.abandoned, self.server.status().generation), ([2], 1))
        self.pool.lose(3)
        self.turn()
        self.assertEqual(sorted(self.pool.workers), [1, 2])

    def test_a_new_worker_that_ends_after_the_switch_does_not_undo_the_reload(self):
        self.make()
        self.reload()
        self.pool.ready()
        self.pool.lose(2)
        self.turn()
        self.assertEqual((self.pool.abandoned, self.server.status().generation), ([], 2))

    def test_the_new_code_is_abandoned_if_no_new_worker_can_be_started(self):
        self.make()
        self.pool.can_start = False
        self.reload()
        self.assertTrue(self.has_logged("not reloaded: no worker of the new code could be started"))
        self.assertEqual((self.pool.abandoned, self.pool.next), ([2], None))

    def test_a_second_reload_takes_the_place_of_the_first(self):
        self.make()
        self.reload()
        self.server.reload()
        self.assertEqual(self.pool.abandoned, [2])
        self.assertTrue(self.has_logged("another reload was asked for"))
        self.pool.lose(2)
        self.pool.load(function("f"), generation=self.pool.next)
        self.pool.ready()
        self.turn()
        self.assertEqual(self.server.status().generation, 3)

    def test_a_reload_is_refused_before_the_app_is_imported_and_during_shutdown(self):
        self.make(loaded=False)
        self.server.reload()
        self.assertTrue(self.has_logged("the app has not been loaded yet"))
        self.make()
        self.server.stop_accepting()
        self.server.reload()
        self.assertIsNone(self.pool.next)

    def test_a_shutdown_abandons_a_reload_in_progress(self):
        self.make()
        self.reload()
        self.server.stop_accepting()
        self.assertEqual(self.pool.abandoned, [2])
        self.assertTrue(self.has_logged("not reloaded: the server is shutting down"))

    def test_a_restarted_fork_server_begins_a_new_generation(self):
        self.make()
        self.pool.lose(1, None, reason="the fork server ended")
        self.pool.generation = 2
        self.pool.load(function("f"), generation=2)
        self.turn()
        self.assertEqual(self.server.status().generation, 2)
        self.assertEqual([worker.generation for worker in self.pool.workers.values()], [2])


class ImpossibleMessageTests(LoggingCase):
    """A worker that sends what no worker sends: one with a task, beside another one's task."""

    STATES = ("starting", "idle", "busy", "being stopped", "with a batch", "leaving")

    def make_worker(self, state):
        """Make a worker in this state, and return its number and those of its tasks."""
        self.logged.clear()
        # The worker in question is the last to be started, and the first to get a task.
        self.make(2, loaded=state != "starting")
        if state == "starting":
            self.pool.load(function("f"))
            self.turn()
            self.pool.ready(1)
            self.turn()
        number = 2
        self.client, self.other = self.connect(), self.connect()
        if state == "with a batch":
            self.make_short("f")
        if state in ("busy", "being stopped", "leaving"):
            self.client.call()
        if state == "with a batch":
            self.other.call("g")  # takes one worker
            self.client.send(*[{"jsonrpc": "2.0", "id": each, "method": "f"} for each in range(3)])
            [number] = [n for n, worker in self.pool.workers.items() if len(worker.attempts) == 3]
        else:
            self.other.call("g" if state != "starting" else "f")
            if state == "idle":
                [number] = [n for n, worker in self.pool.workers.items() if not worker.attempts]
        tasks = [attempt.task for attempt in self.pool.workers[number].attempts]
        if tasks:
            self.pool.begin(number)
        if state == "being stopped":
            self.client.send(
                {"jsonrpc": "2.0", "id": "c", "method": "taskd.cancel", "params": {"task": tasks[0]}}
            )
        if state == "leaving":
            self.server.reload()
            self.pool.load(function("f"), function("g"), generation=self.pool.next)
            self.pool.ready()
            self.turn()
        return number, tasks

    def messages(self, tasks, others):
        """Every kind of message, about the worker's own tasks, about others, and about none."""
        for task in {*tasks, *others, 0, -1, 2**70}:
            for seconds in 0.1, -1.0, float("inf"):
                yield Done(task, seconds, False, Raw(b"1"))
                yield Failed(task, seconds, False, -32000, "no", NULL, None)
            yield Stopped(task, 0.1, False, None)
            yield Reported(task, 1, 2, None)
            yield Returned([task])
            yield Returned([*tasks, task])
        yield Returned([])

    def may_send(self, message, state, tasks):
        """Return whether a worker that is in this state may send this message."""
        if isinstance(message, Returned):
            named = message.tasks
            return bool(named) and set(named) <= set(tasks) and len(set(named)) == len(named)
        if isinstance(message, Reported):
            return message.task in tasks
        if isinstance(message, Stopped):
            return message.task in tasks and state == "being stopped"
        return tasks[:1] == [message.task] and 0 <= message.seconds < float("inf")

    def test_an_impossible_message_of_any_kind_in_any_state_ends_its_own_worker_alone(self):
        for state in self.STATES:
            _, tasks = self.make_worker(state)
            for message in self.messages(tasks, {1, 2, 3, 77} - {*tasks}):
                number, tasks = self.make_worker(state)
                fault = self.pool.say(number, message)
                with_state = f"{state}: {message}"
                self.assertEqual(fault is None, self.may_send(message, state, tasks), with_state)
                self.turn()
                if fault is None:
                    continue
                self.assertIn(("signal", number, SIGKILL), self.pool.orders, with_state)
                # Until it is dead it is given nothing, whatever waits.
                given = len(self.pool.workers[number].attempts)
                self.connect().call("f")
                self.assertEqual(len(self.pool.workers[number].attempts), given, with_state)
                self.pool.lose(number, reason="it sent nonsense")
                self.turn()
                [mine] = [n for n, worker in self.pool.workers.items() if worker.attempts][:1]
                self.pool.finish(mine, b'"theirs"')
                self.assertEqual(self.other.received()[-1].get("result"), "theirs", with_state)
                if state == "busy":
                    error = self.client.reply()
                    self.assertEqual((error["code"], error["data"]["reason"]), (LOST, "it sent nonsense"))

    def test_messages_before_an_impossible_one_count(self):
        self.make()
        client = self.connect()
        client.call()
        task = self.pool.begin(1).task
        done = Done(task, 0.1, False, Raw(b"5"))
        self.assertIn(f"an outcome of task {task}", self.pool.say(1, done, done, done))
        self.assertEqual(client.reply(), 5)

    def test_a_worker_that_has_left_meanwhile_cannot_be_condemned(self):
        self.make()
        self.pool.lose(1)
        self.pool.observer.worker_condemned(1)


class EndTests(LoggingCase):
    def test_a_server_without_tasks_drains_at_once(self):
        self.make()
        self.server.stop_accepting()
        self.successResultOf(self.server.drain())
        self.assertTrue(self.server.status().stopping)

    def test_accepted_tasks_end_and_new_calls_are_refused_while_the_server_drains(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        self.server.stop_accepting()
        self.assertEqual(self.server.in_flight().total(), 2)
        drained = self.server.drain()
        client.call()
        self.assertEqual(client.reply()["code"], SHUTTING_DOWN)
        client.call("nope")
        self.assertEqual(client.reply()["code"], SHUTTING_DOWN)
        client.call("taskd.ping")
        self.assertEqual(client.reply(), "pong")
        self.pool.finish(1)
        self.turn()
        self.assertNoResult(drained)
        self.pool.finish(1)
        self.turn()
        self.successResultOf(drained)

    def test_a_caller_that_does_not_read_does_not_delay_draining(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        client.transport.producer.pauseProducing()
        self.pool.finish(1, b'"%s"' % (b"x" * 2000))
        self.turn()
        self.server.stop_accepting()
        self.successResultOf(self.server.drain())
        client.transport.producer.resumeProducing()
        self.assertEqual(client.received()[1]["error"]["code"], SHUTTING_DOWN)

    def test_abort_kills_workers_with_tasks_and_then_the_server_is_drained(self):
        self.make(2)
        client = self.connect()
        client.call()
        self.server.stop_accepting()
        drained = self.server.drain()
        self.server.abort()
        self.assertEqual(self.pool.orders, [("signal", 2, SIGKILL)])
        self.assertNoResult(drained)
        self.pool.begin(2)
        self.pool.lose(2)
        self.turn()
        self.assertEqual(client.reply()["code"], LOST)
        self.successResultOf(drained)
        self.assertEqual(self.server.counters.workers_replaced, 0)

    def test_abort_answers_the_tasks_that_still_wait(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        self.server.stop_accepting()
        self.server.drain()
        self.server.abort()
        error = client.reply()
        self.assertEqual((error["code"], self.server.status().waiting), (SHUTTING_DOWN, 0))

    def test_tasks_that_come_back_after_an_abort_are_answered_and_not_run_again(self):
        self.make(2)
        client = self.connect()
        client.call()
        self.server.stop_accepting()
        drained = self.server.drain()
        self.server.abort()
        self.pool.lose(2)  # it had not begun
        self.turn()
        self.assertEqual(client.reply()["code"], SHUTTING_DOWN)
        self.assertFalse(any(worker.attempts for worker in self.pool.workers.values()))
        self.successResultOf(drained)

    def test_close_fires_when_the_pool_has_closed(self):
        self.make()
        stopped = self.server.close()
        self.assertNoResult(stopped)
        self.server.abort()
        self.assertEqual(self.pool.orders, [("abort",)])
        self.pool.lose(1)
        self.successResultOf(stopped)
