"""The task server on a pool without processes, over connections in memory, with a clock of the test's."""

from twisted.logger import globalLogPublisher

from taskd.errors import StartError
from taskd.functions.stops import GRACE
from taskd.scheduler.batching import LATE_SECONDS
from taskd.scheduler.stops import KILL_DELAY
from taskd.server import task_server
from taskd.worker.messages import Interrupt
from tests.unit.pools import ServerCase, function

BUSY, SHUTTING_DOWN, NOT_FOUND = -32004, -32005, -32601
TIMED_OUT, CANCELLED, LOST = -32001, -32002, -32003
SIGTERM, SIGKILL = 15, 9


class LoggingCase(ServerCase):
    def setUp(self):
        super().setUp()
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)

    def log(self, event):
        if event.get("log_namespace", "").startswith("taskd") and "log_format" in event:
            self.logged.append(event["log_format"].format(**event))

    def has_logged(self, text):
        return any(text in line for line in self.logged)


class CallTests(LoggingCase):
    def test_a_call_is_given_to_a_worker_and_answered_with_its_result(self):
        self.make()
        client = self.connect()
        client.call("f", {"a": 1})
        [run] = self.pool.workers[1].runs
        self.assertEqual((run.function, bytes(run.args), run.number, run.flags), ("f", b'{"a":1}', 1, 0))
        self.pool.finish(1, b'{"b":2}')
        self.assertEqual(client.heard(), [{"jsonrpc": "2.0", "id": 1, "result": {"b": 2}}])
        self.assertEqual((self.server.counters.done, self.server.status().functions[0].done), (1, 1))

    def test_what_comes_in_one_turn_goes_to_the_worker_together(self):
        self.make()
        self.make_short("f")
        client = self.connect()
        client.say(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in range(5)])
        self.assertEqual(len(self.pool.workers[1].runs), 5)

    def test_a_failure_is_told_and_its_traceback_logged(self):
        self.make()
        client = self.connect()
        for data, expected in (b"null", None), (b'{"type":"E"}', {"type": "E"}):
            client.call()
            self.pool.fail(1, data=data, message="E: no", traceback="the trace\n")
            [reply] = client.heard()
            self.assertEqual(reply["error"].get("data"), expected)
            self.assertEqual((reply["error"]["code"], reply["error"]["message"]), (-32000, "E: no"))
        self.assertTrue(self.has_logged("f #1 failed after 0.100 s\nthe trace"))
        self.assertEqual(self.server.counters.failed, 2)

    def test_arguments_that_do_not_fit_say_nothing_of_the_function(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.fail(1, code=-32602, traceback=None)
        self.assertEqual(client.reply()["code"], -32602)
        self.assertEqual(self.server.status().functions, [])

    def test_progress_is_passed_on_to_who_asked_for_it(self):
        self.make(2)
        client = self.connect()
        client.call(progress=True)
        client.call()
        for number in 1, 2:
            self.pool.report(number, 1, 2, "half")
        [report] = client.heard()
        self.assertEqual(report["params"], {"id": 1, "done": 1, "total": 2, "message": "half"})

    def test_a_function_that_is_not_known_is_refused(self):
        self.make()
        client = self.connect()
        client.call("nope")
        self.assertEqual(client.reply()["code"], NOT_FOUND)

    def test_where_the_queue_is_full_a_caller_is_told_so(self):
        self.make(max_queue=0)
        client = self.connect()
        client.call()
        client.call()
        error = client.reply()
        self.assertEqual((error["code"], set(error["data"])), (BUSY, {"retry_after"}))
        self.assertEqual(self.server.counters.refused, 1)

    def test_what_is_asked_before_the_app_is_imported_waits(self):
        self.make(loaded=False)
        client = self.connect()
        for name in "f", "nope", "taskd.functions":
            client.call(name)
        self.assertEqual(client.heard(), [])
        self.pool.load(function("f"))
        codes = {reply["id"]: reply.get("error", {}).get("code") for reply in client.heard()}
        self.assertEqual(codes, {2: NOT_FOUND, 3: None})
        self.turn()
        self.pool.ready()
        self.turn()
        self.pool.finish(1)
        self.assertEqual(client.reply(), 1)

    def test_a_bug_of_ours_is_told_as_one_and_stops_nothing(self):
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
        self.assertEqual(len(self.pool.workers[1].runs), 1)

    def test_a_caller_that_reads_nothing_has_its_tasks_held(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        client.transport.producer.pauseProducing()
        self.pool.finish(1, b'"%s"' % (b"x" * 2000))
        self.turn()
        self.assertTrue(client.protocol.client.is_full)
        self.assertEqual((self.pool.workers[1].runs, self.server.status().waiting), ([], 1))
        client.transport.producer.resumeProducing()
        self.turn()
        self.assertEqual(len(self.pool.workers[1].runs), 1)

    def test_a_start_that_fails_is_told(self):
        self.make(loaded=False)
        self.pool.loaded.errback(StartError("no app"))
        self.failureResultOf(self.server.loaded, StartError)


class WorkerTests(LoggingCase):
    def test_as_many_workers_are_started_as_are_needed(self):
        self.make(1, 3)
        client = self.connect()
        for _ in range(5):
            client.call()
        self.assertEqual(len(self.pool.workers), 3)
        self.assertEqual(self.server.counters.workers_started, 3)

    def test_where_none_can_be_started_that_is_tried_again_when_told(self):
        self.make(0, 2)
        self.pool.can_start = False
        client = self.connect()
        client.call()
        self.assertEqual(self.pool.workers, {})
        self.pool.can_start = True
        self.pool.observer.can_start_workers()
        self.turn()
        self.assertEqual(len(self.pool.workers), 1)

    def test_the_surplus_ends_when_it_was_idle_for_long(self):
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

    def test_one_that_dies_as_it_is_to_end_harms_no_other(self):
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

    def test_a_task_is_lost_with_its_worker_and_all_that_is_known_is_told(self):
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

    def test_an_exit_and_the_end_of_a_fork_server_are_told_as_such(self):
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

    def test_a_task_that_had_not_begun_runs_elsewhere(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.lose(1)
        self.turn()
        self.assertEqual(client.heard(), [])
        self.pool.ready()
        self.turn()
        self.assertEqual(self.pool.workers[2].runs[0].number, 2)

    def test_one_that_has_grown_too_large_is_replaced_after_its_task(self):
        self.make(max_memory=2000)
        client = self.connect()
        for memory in 2000, 2001:
            client.call()
            self.pool.workers[1].memory = memory
            self.pool.finish(1, seconds=1.0)
            self.assertEqual(client.reply(), 1)
            self.turn()
        self.assertEqual((self.pool.orders, len(self.pool.workers)), ([("retire", 1)], 2))
        self.assertTrue(self.has_logged("worker 1 has 2001 KiB resident"))
        self.pool.lose(1, 0)

    def test_one_that_says_so_is_not_used_any_more(self):
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
        names = [self.pool.observer.task_name(*which) for which in ((1, 1), (1, 2), (5, 1))]
        self.assertEqual(names, ["f #1", "", ""])


class BatchTests(LoggingCase):
    def test_what_is_behind_a_task_that_takes_too_long_is_called_back_and_runs_elsewhere(self):
        self.make(2)
        last = self.make_short("f")
        client = self.connect()
        client.say(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in range(3)])
        self.assertEqual([run.task - last for run in self.pool.workers[2].runs], [1, 2, 3])
        self.pool.begin(2)
        self.turn(LATE_SECONDS)
        self.assertEqual(self.pool.orders, [])
        self.turn(LATE_SECONDS)
        self.assertEqual((self.pool.orders, self.server.counters.reclaimed), ([("reclaim", 2)], 1))
        self.pool.give_back(2, [last + 2, last + 3])
        self.turn()
        self.assertEqual(
            [(run.task - last, run.number) for run in self.pool.workers[1].runs], [(2, 2), (3, 2)]
        )

    def test_a_cancelled_task_of_a_batch_is_answered_when_it_comes_back(self):
        self.make()
        last = self.make_short("f")
        client = self.connect()
        client.say(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in (1, 2)])
        client.last_id = 2
        client.call("taskd.cancel", {"id": 2})
        self.assertEqual(self.pool.orders, [("interrupt", 1, Interrupt(last + 2, 1, True)), ("reclaim", 1)])
        self.pool.give_back(1, [last + 2])
        cancelled, answer = client.heard()
        self.assertEqual((cancelled["id"], cancelled["error"]["data"]), (2, {"was": "waiting"}))
        self.assertEqual((answer["id"], answer["result"]), (3, {"was": "waiting"}))

    def test_one_that_does_not_come_back_is_answered_after_its_grace(self):
        self.make()
        self.make_short("f")
        client = self.connect()
        client.say(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in (1, 2)])
        self.pool.begin(1)
        client.last_id = 2
        client.call("taskd.cancel", {"id": 2})
        self.turn(GRACE)
        cancelled, answer = client.heard()
        self.assertEqual((cancelled["error"]["code"], answer["result"]), (CANCELLED, {"was": "waiting"}))
        self.turn(GRACE)
        self.assertFalse([order for order in self.pool.orders if order[0] == "signal"])


class CancelTests(LoggingCase):
    def test_a_waiting_task_is_answered_at_once_and_before_who_cancelled_it(self):
        self.make()
        client = self.connect()
        client.call()
        waiting = client.call()
        client.call("taskd.cancel", {"id": waiting})
        cancelled, answer = client.heard()
        self.assertEqual((cancelled["id"], cancelled["error"]["code"]), (waiting, CANCELLED))
        self.assertEqual(cancelled["error"]["data"], {"was": "waiting"})
        self.assertEqual(answer["result"], {"was": "waiting"})
        self.assertEqual(self.server.counters.cancelled, 1)

    def test_a_running_task_is_interrupted_and_answered_when_it_has_ended(self):
        self.make()
        client, other = self.connect(), self.connect()
        client.call()
        self.pool.begin(1)
        other.call("taskd.cancel", {"task": 1})
        self.assertEqual(self.pool.orders, [("interrupt", 1, Interrupt(1, 1, True))])
        self.assertEqual(client.heard() + other.heard(), [])
        self.assertEqual(self.server.status().workers[0].stopping, "cancelled")
        self.turn(0.25)
        self.pool.stop_task(1)
        expected = {"was": "running", "stopped_after": 0.25, "killed": False}
        self.assertEqual((client.reply()["data"], other.reply()), (expected, expected))
        self.turn()
        self.assertEqual(self.server.status().workers[0].state, "idle")

    def test_a_running_task_that_does_not_end_is_killed(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.begin(1)
        client.call("taskd.cancel", {"id": 1})
        self.turn(GRACE)
        expected = {"was": "running", "stopped_after": GRACE, "killed": True}
        cancelled, answer = client.heard()
        self.assertEqual((cancelled["error"]["data"], answer["result"]), (expected, expected))
        self.assertEqual(self.pool.orders[1:], [("signal", 1, SIGTERM)])
        self.assertTrue(self.has_logged("f #1 has not ended within its grace"))
        self.assertEqual(len(self.pool.workers), 2)
        self.turn(KILL_DELAY)
        self.assertEqual(self.pool.orders[2:], [("signal", 1, SIGKILL)])
        self.pool.lose(1)
        self.assertEqual(client.heard(), [])

    def test_a_task_that_dies_while_it_is_cancelled_is_cancelled(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.begin(1)
        client.call("taskd.cancel", {"id": 1})
        self.turn(1.0)
        self.pool.lose(1)
        cancelled, answer = client.heard()
        self.assertEqual(cancelled["error"]["code"], CANCELLED)
        self.assertEqual(answer["result"], {"was": "running", "stopped_after": 1.0, "killed": True})

    def test_a_task_that_had_not_begun_when_its_worker_died_was_waiting(self):
        self.make()
        client = self.connect()
        client.call()
        client.call("taskd.cancel", {"id": 1})
        self.pool.lose(1)
        self.assertEqual(client.heard()[1]["result"], {"was": "waiting"})

    def test_a_task_that_ends_well_all_the_same_was_done(self):
        self.make()
        client = self.connect()
        client.call()
        client.call("taskd.cancel", {"id": 1})
        self.pool.finish(1)
        self.assertEqual([reply["result"] for reply in client.heard()], [1, {"was": "done"}])

    def test_what_has_ended_or_was_never_asked_for_was_done(self):
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
        client.heard()
        client.call("taskd.cancel", {"task": 1})
        self.assertEqual(client.reply(), {"was": "done"})

    def test_two_who_cancel_the_same_are_both_answered(self):
        self.make()
        client = self.connect()
        client.call()
        client.call("taskd.cancel", {"id": 1})
        client.call("taskd.cancel", {"task": 1})
        self.pool.stop_task(1)
        self.assertEqual([reply["id"] for reply in client.heard()], [1, 2, 3])
        self.assertEqual(len(self.pool.orders), 1)

    def test_what_its_cleaning_up_raises_is_logged(self):
        self.make()
        client = self.connect()
        client.call()
        client.call("taskd.cancel", {"id": 1})
        self.pool.stop_task(1, traceback="the trace")
        self.assertTrue(self.has_logged("f #1 failed after 0.100 s\nthe trace"))


class DisconnectTests(LoggingCase):
    def test_a_task_runs_on_without_its_caller(self):
        self.make()
        client = self.connect()
        client.call()
        client.disconnect()
        self.assertEqual(self.pool.orders, [])
        self.pool.finish(1)
        self.assertEqual(self.server.counters.done, 1)
        self.assertEqual(client.heard(), [])

    def test_a_task_that_asked_for_it_is_cancelled_with_its_connection(self):
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
            self.assertEqual(len(self.pool.workers[1].runs), 1)

    def test_one_that_only_ends_sending_is_told(self):
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

    def test_the_smaller_of_the_limits_counts(self):
        self.assertEqual(self.limits_of(None, 5, 100), [None, 5, 100])
        self.assertEqual(self.limits_of(None, 5, 100, timeout=10.0), [10.0, 5, 10.0])
        self.assertEqual(self.limits_of(None, 5, 100, own=20.0), [20.0, 5, 20.0])
        self.assertEqual(self.limits_of(None, 5, 100, timeout=10.0, own=20.0), [20.0, 5, 20.0])

    def test_a_task_over_its_limit_is_stopped_and_its_caller_told(self):
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

    def test_one_that_does_not_end_within_its_own_grace_is_killed(self):
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

    def test_a_task_that_waits_past_its_deadline_is_answered_and_not_started(self):
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
        self.assertEqual(self.pool.workers[1].runs, [])

    def test_urgent_tasks_come_first(self):
        self.make()
        client = self.connect()
        for priority in 5, 9, 0:
            client.call(priority=priority)
        self.pool.finish(1)
        self.turn()
        self.assertEqual(self.pool.workers[1].runs[0].task, 3)


class StatusTests(LoggingCase):
    def test_the_status_says_what_everyone_does(self):
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
                "tasks": 1,
                "stopping": None,
                "done": 0,
                "generation": 1,
                "memory_kib": 1000,
            },
        )
        self.assertEqual(status["workers"][1]["state"], "starting")
        self.assertEqual(status["counts"]["workers_started"], 2)

    def test_of_a_batch_the_task_that_was_begun_last_is_shown(self):
        self.make()
        last = self.make_short("f")
        client = self.connect()
        client.say(*[{"jsonrpc": "2.0", "id": number, "method": "f"} for number in range(3)])
        self.pool.workers[1].begun = last + 2
        [worker] = self.server.status().workers
        self.assertEqual((worker.task - last, worker.tasks, worker.function), (2, 3, "f"))
        self.pool.workers[1].begun = 7777
        self.assertEqual(self.server.status().workers[0].task, last + 1)

    def test_before_the_start_there_is_nothing_to_tell(self):
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
        """Begin a reload; its workers are started, and not ready."""
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
        self.assertEqual(len(self.pool.workers[4].runs), 1)

    def test_what_is_gone_is_refused_and_what_is_new_can_be_called(self):
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
        [run] = self.pool.workers[2].runs
        self.assertEqual(run.function, "new")

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

    def test_a_new_worker_that_ends_later_does_not(self):
        self.make()
        self.reload()
        self.pool.ready()
        self.pool.lose(2)
        self.turn()
        self.assertEqual((self.pool.abandoned, self.server.status().generation), ([], 2))

    def test_where_no_new_worker_can_be_started_nothing_of_the_new_code_is_left(self):
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

    def test_there_is_nothing_to_reload_before_the_app_is_imported_or_at_the_end(self):
        self.make(loaded=False)
        self.server.reload()
        self.assertTrue(self.has_logged("the app has not been loaded yet"))
        self.make()
        self.server.stop_accepting()
        self.server.reload()
        self.assertIsNone(self.pool.next)

    def test_the_end_ends_a_reload(self):
        self.make()
        self.reload()
        self.server.stop_accepting()
        self.assertEqual(self.pool.abandoned, [2])
        self.assertTrue(self.has_logged("not reloaded: the server is shutting down"))

    def test_a_fork_server_that_had_to_be_started_again_is_a_generation_of_its_own(self):
        self.make()
        self.pool.lose(1, None, reason="the fork server ended")
        self.pool.generation = 2
        self.pool.load(function("f"), generation=2)
        self.turn()
        self.assertEqual(self.server.status().generation, 2)
        self.assertEqual([worker.generation for worker in self.pool.workers.values()], [2])


class EndTests(LoggingCase):
    def test_a_server_that_has_nothing_to_do_is_drained_at_once(self):
        self.make()
        self.server.stop_accepting()
        self.successResultOf(self.server.drain())
        self.assertTrue(self.server.status().stopping)

    def test_what_was_taken_ends_and_nothing_more_is_taken(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        self.server.stop_accepting()
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

    def test_a_caller_that_reads_nothing_does_not_hold_up_the_end(self):
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
        self.assertEqual(client.heard()[1]["error"]["code"], SHUTTING_DOWN)

    def test_to_give_up_ends_all_that_waits_and_kills_all_that_runs(self):
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

    def test_what_still_waits_when_it_gives_up_is_answered(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        self.server.stop_accepting()
        self.server.drain()
        self.server.abort()
        error = client.reply()
        self.assertEqual((error["code"], self.server.status().waiting), (SHUTTING_DOWN, 0))

    def test_what_comes_back_after_it_gave_up_is_answered_and_not_run_again(self):
        self.make(2)
        client = self.connect()
        client.call()
        self.server.stop_accepting()
        drained = self.server.drain()
        self.server.abort()
        self.pool.lose(2)  # it had not begun
        self.turn()
        self.assertEqual(client.reply()["code"], SHUTTING_DOWN)
        self.assertFalse(any(worker.runs for worker in self.pool.workers.values()))
        self.successResultOf(drained)

    def test_the_end_is_that_of_the_pool(self):
        self.make()
        stopped = self.server.close()
        self.assertNoResult(stopped)
        self.server.abort()
        self.assertEqual(self.pool.orders, [("abort",)])
        self.pool.lose(1)
        self.successResultOf(stopped)
