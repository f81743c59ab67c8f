"""Whether a task server would take a task now, and its figures for those who measure it."""

from types import SimpleNamespace

from taskd.pool.exits import WorkerExit
from taskd.pool.generations import CodeStatus
from taskd.scheduler.workers import WorkerView
from taskd.server.readiness import DRAINING
from taskd.server.worker_ends import cause_of
from tests.unit.pools import ServerCase, function
from tests.unit.tasks import make_task


class ReadinessTests(ServerCase):
    def reason(self):
        found = self.server.unready()
        return None if found is None else found.reason

    def test_a_server_with_an_idle_worker_is_ready(self):
        self.make()
        self.assertIsNone(self.reason())
        self.assertIsNone(self.server.status().unready)

    def test_a_server_whose_app_is_being_imported_is_starting(self):
        self.make(loaded=False)
        self.pool.code_status = lambda: CodeStatus("importing")
        self.assertEqual(self.reason(), "starting")

    def test_a_server_is_full_once_as_many_tasks_wait_as_may(self):
        self.make(max_queue=1)
        client = self.connect()
        client.call()
        self.assertIsNone(self.reason())
        client.call()
        self.assertEqual(self.reason(), "queue_full")
        self.pool.finish(1)
        self.turn()
        self.assertIsNone(self.reason())

    def test_a_server_without_workers_is_not_ready_while_none_can_be_started(self):
        self.make()
        self.pool.code_status = lambda: CodeStatus("waiting", "the fork server has ended", 1.0)
        self.assertIsNone(self.reason())  # there is still a worker
        self.pool.can_start = False
        self.pool.lose(1)
        self.turn()
        self.assertEqual(self.server.unready().detail, "the fork server has ended")
        self.pool.code_status = lambda: CodeStatus("ready")
        self.assertEqual(self.reason(), "no_worker")
        self.pool.can_start = True
        self.assertIsNone(self.reason())  # one is started for the next task

    def test_a_server_whose_store_has_failed_is_not_ready(self):
        self.make()
        self.server.stored = SimpleNamespace(status=SimpleNamespace(fault="the disk is full"))
        self.assertEqual(self.server.unready().detail, "the store has failed: the disk is full")

    def test_a_server_that_holds_as_much_as_it_may_is_not_ready(self):
        self.make()
        self.server.budget.count(self.server.budget.limit + 1)
        self.assertEqual(self.reason(), "memory_full")

    def test_a_server_that_will_stop_is_not_ready_and_still_takes_tasks(self):
        self.make()
        self.server.announce_stop()
        self.assertIs(self.server.unready(), DRAINING)
        client = self.connect()
        client.call()
        self.pool.finish(1)
        self.assertEqual(client.reply(), 1)

    def test_a_server_that_stops_is_draining(self):
        self.make()
        self.server.stop_accepting()
        self.assertIs(self.server.unready(), DRAINING)


class FiguresTests(ServerCase):
    def test_tasks_are_counted_by_function_and_outcome(self):
        self.make(functions=[function("f"), function("g")])
        client = self.connect()
        client.call("f")
        self.turn(2.0)
        self.pool.finish(1, seconds=2.0)
        client.call("f")
        self.pool.fail(1, code=-32602, traceback=None)
        client.call("g", deadline=1.0)
        client.call("g", deadline=1.0)
        self.turn(1.0)
        stats = {each.name: each for each in self.server.figures().functions}
        self.assertEqual((stats["f"].done, stats["f"].invalid, stats["g"].expired), (1, 1, 1))
        self.assertEqual(sum(stats["f"].waits), 2)
        self.assertEqual(sum(stats["f"].runs), 1)

    def test_a_task_whose_worker_dies_while_it_is_stopped_is_counted_once(self):
        self.make()
        client = self.connect()
        client.call("f", timeout=1.0)
        attempt = self.pool.begin(1)
        self.turn(1.0)
        self.pool.lose(1, code=-9)
        self.turn()
        client.call("g")
        self.pool.ready()
        self.turn()
        self.pool.begin(2)
        self.pool.lose(2, code=-9)
        stats = {each.name: each for each in self.server.figures().functions}
        self.assertEqual(attempt.function, "f")
        self.assertEqual((stats["f"].timed_out, stats["f"].lost), (1, 0))
        self.assertEqual((stats["g"].timed_out, stats["g"].lost), (0, 1))

    def test_workers_are_counted_by_state_and_their_ends_by_cause(self):
        self.make(2)
        client = self.connect()
        client.call()
        self.pool.lose(2, code=-11)
        self.turn()
        workers = self.server.figures().workers
        self.assertEqual((workers.states["busy"], workers.states["starting"]), (1, 1))
        self.assertEqual((workers.ends["crashed"], workers.ends["recycled"]), (1, 0))

    def test_the_oldest_waiting_task_is_timed(self):
        self.make()
        client = self.connect()
        client.call()
        client.call()
        self.turn(3.0)
        self.assertEqual(self.server.figures().oldest_waiting, 3.0)
        self.assertEqual(self.server.figures().running, 1)


class CauseTests(ServerCase):
    def cause(self, code, *tasks, dismissed=False, **more):
        worker = WorkerView(1, 1, 0.0, dismissed=dismissed)
        worker.tasks.update({task.number: task for task in tasks})
        return cause_of(WorkerExit(code, **{"was_ready": True, **more}), worker)

    def test_each_end_of_a_worker_has_a_cause(self):
        self.assertEqual(self.cause(0), "recycled")
        self.assertEqual(self.cause(0, dismissed=True), "dismissed")
        self.assertEqual(self.cause(-9, out_of_memory=True), "out_of_memory")
        self.assertEqual(self.cause(None, reason="the fork server ended"), "fork_server")
        self.assertEqual(self.cause(-11), "crashed")
        self.assertEqual(self.cause(3), "exited")
        self.assertEqual(self.cause(1, was_ready=False), "not_started")

    def test_a_worker_whose_task_was_stopped_has_not_crashed(self):
        task = make_task(1)
        task.stop = SimpleNamespace(reason="timeout")
        self.assertEqual(self.cause(-15, task), "task_stopped")
