"""Long results on their way to whoever asked, and calls that are refused while the memory is spent."""

from taskd.protocol.session import SHORT
from taskd.scheduler.arrivals import WAIT
from taskd.worker.messages import Dropped
from tests.unit.pools import ServerCase

MIB = 1024 * 1024


class LongResultTests(ServerCase):
    def grows(self, size, number=1):
        return self.pool.observer.result_grows(number, size)

    def arrived(self, number=1):
        self.pool.observer.result_arrived(number)

    def orders(self):
        orders, self.pool.orders[:] = list(self.pool.orders), []
        return orders

    def drop(self, number=1):
        """Let a worker's result be replaced, as its socket does."""
        attempt = self.pool.begin(number)
        self.pool.workers[number].attempts.pop(0)
        self.pool.say(number, Dropped(attempt.task, 0.1, False))
        self.turn()

    def test_a_result_counts_for_whom_it_is_until_it_is_complete(self):
        self.make()
        client = self.connect()
        client.call()
        self.assertTrue(self.grows(MIB))
        self.assertTrue(self.grows(3 * MIB))
        self.assertEqual(self.server.budget.held, 3 * MIB)
        self.arrived()
        self.pool.finish(1)
        self.turn()
        self.assertEqual((self.server.budget.held, client.reply()), (0, 1))

    def test_a_task_whose_result_arrives_has_no_time_limit_any_more(self):
        self.make(timeout=1.0)
        client = self.connect()
        client.call()
        self.pool.begin(1)
        self.grows(MIB)
        self.turn(5)
        self.assertEqual(self.orders(), [])
        self.pool.finish(1)
        self.assertEqual(client.reply(), 1)

    def test_a_result_waits_while_its_client_reads_nothing_and_is_dropped_after_a_time(self):
        self.make()
        client = self.connect()
        client.call()
        self.server.budget.account("others", None).update(self.server.budget.limit - 8 * MIB)
        self.assertFalse(self.grows(MIB))
        self.turn(0.1)
        self.assertEqual(self.orders(), [("read on", 1)], "it is the first that waits")
        self.assertTrue(self.grows(2 * MIB))
        other = self.connect()
        other.call("g")
        self.arrived()
        for _ in range(3):
            self.turn(WAIT)
        self.pool.finish(1)
        self.assertEqual(client.reply(), 1)

    def test_a_result_that_is_dropped_fails_with_the_reason(self):
        self.make(2)
        client = self.connect()
        client.call()
        client.call("g")
        self.pool.observer.result_grows(1, MIB)
        self.server.budget.account("others", None).update(self.server.budget.limit - 8 * MIB)
        self.assertFalse(self.grows(2 * MIB, 2))
        self.assertFalse(self.grows(3 * MIB, 1))
        for _ in range(120):
            self.turn(0.1)
        orders = self.orders()
        self.assertIn(("drop result", 1), orders)
        self.drop()
        reply = client.reply()
        self.assertEqual(reply["code"], -32006)
        self.assertIn("there was no room for it", reply["message"])
        self.assertEqual(self.server.counters.done, 1)

    def test_a_result_that_nobody_waits_for_is_dropped_at_once_and_was_a_success(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.begin(1)
        self.grows(MIB)
        client.disconnect()
        self.assertTrue(self.grows(2 * MIB))
        self.assertEqual(self.orders(), [("drop result", 1)])
        self.assertEqual(self.server.budget.held, 0)
        self.drop()
        self.assertEqual(self.server.counters.done, 1)
        self.assertEqual(sum(self.server.unanswered.counts.values()), 0)

    def test_a_result_without_a_task_is_dropped(self):
        self.make()
        self.assertTrue(self.grows(MIB))
        self.assertEqual(self.orders(), [("drop result", 1)])

    def test_a_result_for_a_cancelled_task_is_dropped(self):
        self.make()
        client = self.connect()
        client.call()
        task = self.server.find(1)
        self.turn()
        self.server.cancel(task)
        self.orders()
        self.turn(60)
        self.grows(MIB)
        self.assertIn(("drop result", 1), self.orders())

    def test_a_lost_worker_leaves_nothing_counted(self):
        self.make()
        client = self.connect()
        client.call()
        self.pool.begin(1)
        self.grows(MIB)
        self.pool.lose(1)
        self.turn()
        self.assertEqual(self.server.budget.held, 0)
        self.assertEqual(client.reply()["code"], -32003)

    def test_a_dropped_message_with_an_output_that_is_impossible_ends_the_worker(self):
        self.make()
        self.connect().call()
        self.pool.begin(1)
        self.assertIn("task 99", self.pool.say(1, Dropped(99, 0.1, False)))


class SpentTests(ServerCase):
    def test_new_calls_are_refused_while_the_whole_is_spent_but_not_the_servers_own_methods(self):
        self.make()
        client = self.connect()
        account = self.server.budget.account("others", None)
        account.update(self.server.budget.limit + 1)
        client.call()
        reply = client.reply()
        self.assertEqual((reply["code"], reply["data"]), (-32004, {"retry_after": 1.0}))
        self.assertIn("--max-buffered is 268435456", reply["message"])
        self.assertEqual(self.server.counters.refused, 1)
        client.call("taskd.ping")
        self.assertEqual(client.reply(), "pong")
        client.call("taskd.status")
        budget = client.reply()["budget"]
        self.assertEqual((budget["limit"], budget["held"]), (268435456, 268435457))
        self.assertEqual(budget["biggest"], [{"party": "others", "held": 268435457, "connections": 1}])
        account.close()
        client.call()
        self.pool.finish(1)
        self.assertEqual(client.reply(), 1)

    def test_the_arguments_of_a_task_count_until_it_ends_though_its_caller_is_gone(self):
        self.make()
        client = self.connect()
        client.call(params=["x" * 100_000])
        self.pool.begin(1)
        self.assertGreater(self.server.budget.held, 100_000)
        client.disconnect()
        self.assertTrue(100_000 + SHORT < self.server.budget.held < 101_000 + SHORT)
        self.pool.finish(1)
        self.turn()
        self.assertEqual(self.server.budget.held, 0)

    def test_a_task_that_ends_with_its_connection_leaves_nothing(self):
        self.make(least=1)
        client = self.connect()
        client.call(params=["x" * 100_000])
        client.call(params=["x" * 100_000], on_disconnect="cancel")
        self.pool.begin(1)
        client.disconnect()
        self.assertTrue(100_000 + SHORT < self.server.budget.held < 101_000 + SHORT)
        self.pool.finish(1)
        self.turn()
        self.assertEqual(self.server.budget.held, 0)

    def test_a_task_that_has_ended_keeps_no_arguments_wherever_it_still_has_a_place(self):
        self.make(least=1)
        client = self.connect()
        client.call(params=["x" * 100_000], deadline=60.0)  # among the deadlines
        client.call(params=["x" * 100_000])  # in the middle of its line
        client.call()
        tasks = [self.server.find(number) for number in (1, 2)]
        self.pool.begin(1)
        client.call("taskd.cancel", params={"task": 2})
        self.pool.finish(1)
        self.assertEqual([task.call.args for task in tasks], [None, None])
        self.assertEqual([task.key for task in tasks], [None, None])
