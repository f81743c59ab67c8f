"""The pool as the task server uses it, with fork servers and workers controlled by the tests."""

import resource

from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import StateError
from taskd.pool import pool
from taskd.pool.fork_server_process import EXIT_TIMEOUT
from taskd.pool.generation import GENERATION_STEPS, SPARE_PLACES, GenerationStage
from taskd.pool.output import OutputReader
from taskd.pool.pool import Pool, PoolConfig
from taskd.pool.worker_socket import WorkerSocket
from taskd.worker.messages import Done, Interrupt, WorkerConfig
from tests.unit.descriptors import descriptors
from tests.unit.pool.processes import FakeReactor, ForkServers

CONFIG = WorkerConfig([], ".", "TaskWorker", 1000)


class PoolTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = FakeReactor()
        self.servers = ForkServers()
        self.events = []
        self.pool = Pool(self.reactor, PoolConfig(1, CONFIG), self, self.servers.start)
        self.addCleanup(self.end)
        self.server.load()
        self.events.clear()

    def end(self):
        """End every process that the test has left."""
        for server in self.servers:
            for number in list(server.workers):
                server.hang_up(number)
            if not server.is_gone:
                server.end()
        self.reactor.turn()

    @property
    def server(self):
        return self.servers[-1]

    # --- the observer ---

    def code_loaded(self, generation, functions):
        self.events.append(("loaded", generation))

    def code_failed(self, generation, reason):
        self.events.append(("failed", generation))

    def can_start_workers(self):
        self.events.append(("can start",))

    def worker_ready(self, number):
        self.events.append(("ready", number))

    def worker_messages(self, number, messages):
        self.events.append(("messages", number, messages))

    def worker_exited(self, number, ending):
        self.events.append(("exited", number, ending.code))

    def hide(self, number, text):
        return text

    def task_label(self, number, task):
        return None

    # --- workers ---

    def start(self, generation=1):
        number = self.pool.start_worker(generation)
        self.servers[generation - 1].ready(number)
        self.reactor.turn()
        return number

    def exit(self, number, code=0):
        self.server.exit(number, code)
        self.reactor.turn()

    def test_numbers_are_never_used_twice(self):
        self.assertEqual([self.start(), self.start()], [1, 2])
        self.exit(2)
        self.assertEqual(self.start(), 3)
        self.assertEqual(self.events, [("ready", 1), ("ready", 2), ("exited", 2, 0), ("ready", 3)])

    def test_a_worker_is_reached_by_its_number(self):
        number = self.start()
        self.pool.reclaim(number)
        self.pool.interrupt(number, Interrupt(1, 1, True))
        self.assertEqual(self.server.received(number), [b'["reclaim"]', b'["interrupt",1,1,true]'])
        self.server.signals.clear()
        self.pool.signal(number, 15)
        self.assertEqual(self.server.signals, [(number, 15, True)])
        self.server.board.begin(self.server.workers[number].place, 5)
        self.assertEqual((self.pool.begun(number), self.pool.pid(number)), (5, 2**22 + number))
        self.assertIsNone(self.pool.memory_kib(number))

    def test_an_ended_worker_has_no_process_and_receives_no_signal(self):
        number = self.start()
        self.exit(number)
        self.pool.signal(number)
        self.assertEqual((self.pool.pid(number), self.pool.memory_kib(number)), (None, None))
        self.assertEqual(self.server.signals, [])
        self.assertRaises(KeyError, self.pool.send, number, [])

    def test_the_place_of_an_ended_worker_on_the_board_is_cleared_for_the_next(self):
        number = self.start()
        place = self.server.workers[number].place
        self.server.board.begin(place, 5)
        self.exit(number)
        number = self.start()
        self.assertEqual(self.server.workers[number].place, place)
        self.assertEqual(self.pool.begun(number), 0)

    def test_no_more_workers_are_started_than_the_board_has_places(self):
        for _ in range(2 + SPARE_PLACES):
            self.assertIsNotNone(self.pool.start_worker(1))
        self.assertIsNone(self.pool.start_worker(1))
        self.assertIsNone(self.pool.start_worker(2))

    # --- workers that cannot start ---

    def die_young(self):
        number = self.pool.start_worker(1)
        self.server.born(number)
        self.exit(number, 3)

    def test_workers_that_die_young_delay_the_next_start_for_longer_each_time(self):
        for delay in (0.1, 0.2, 0.4):
            self.die_young()
            self.assertIsNone(self.pool.start_worker(1))
            self.assertEqual(self.reactor.delays, [delay])
            self.events.clear()
            self.reactor.advance(delay)
            self.assertEqual(self.events, [("can start",)])
        self.start()
        self.die_young()
        self.assertEqual(self.reactor.delays, [0.1])

    def test_workers_of_new_code_are_not_delayed_by_failures_of_the_old(self):
        self.die_young()
        self.pool.reload()
        self.server.load()
        self.assertIsNotNone(self.pool.start_worker(2))
        self.pool.switch()
        self.assertEqual(self.reactor.delays, [])

    def test_a_start_without_free_descriptors_is_delayed_and_leaves_none_open(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = descriptors()
        free = 0
        while str(free) in before:
            free += 1
        for limit in (free, free + 2):  # not one socket; the sockets, and no pipe
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                self.assertIsNone(self.pool.start_worker(1))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self.assertEqual(descriptors(), before)
            self.reactor.advance(1.0)
        self.assertEqual(self.events, [("can start",)] * 2)
        self.assertEqual(self.start(), 1)

    def test_a_start_that_fails_for_any_reason_is_delayed_for_longer_each_time_and_leaves_none_open(self):
        before = descriptors()
        add, failures = self.reactor.addReader, []

        def refuse(reader):
            if isinstance(reader, failures[0]):
                raise failures[1]
            add(reader)

        self.patch(self.reactor, "addReader", refuse)
        delay = 0.1
        for watched in OutputReader, WorkerSocket:
            for error, reason in (
                (OSError(28, "No space left"), "No space left"),
                (MemoryError(), "MemoryError"),
            ):
                failures[:] = watched, error
                self.assertIsNone(self.pool.start_worker(1))
                code = self.pool.code_status()
                self.assertEqual((code.state, round(code.next_try, 6)), ("waiting", delay))
                self.assertRegex(code.reason, f"^a worker cannot be started: .*{reason}")
                self.reactor.turn()
                self.assertEqual((descriptors(), self.events), (before, []))
                self.assertIsNone(self.pool.start_worker(1))
                self.reactor.advance(delay)
                self.assertEqual(self.events, [("can start",)])
                self.events.clear()
                delay *= 2
        failures[:] = (), None
        self.assertEqual(self.pool.code_status().state, "ready")
        self.assertEqual(self.start(), 1)

    def test_a_bug_that_prevents_a_start_is_logged_and_does_no_more_harm_than_other_failures(self):
        self.patch(pool, "WorkerProcess", None)
        self.assertIsNone(self.pool.start_worker(1))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertEqual(self.reactor.delays, [0.1])

    # --- fork servers ---

    def test_workers_end_with_their_fork_server_and_nothing_reaches_them_meanwhile(self):
        number = self.start()
        self.server.end()
        self.pool.signal(number)
        self.assertEqual(self.server.signals, [])
        self.reactor.turn()
        self.assertEqual(self.events[-1], ("exited", number, None))
        self.assertIsNone(self.pool.start_worker(1))
        self.reactor.advance(0.1)
        self.server.load()
        self.assertEqual(self.events[-1], ("loaded", 2))

    def test_a_step_that_is_not_in_the_table_is_refused(self):
        self.assertRaises(StateError, self.server.load)
        self.assertEqual(set(GENERATION_STEPS), set(GenerationStage))

    # --- the end ---

    def test_closing_ends_the_workers_gracefully_and_then_the_fork_server(self):
        first, second = self.start(), self.start()
        closed = self.pool.close()
        self.assertIsNone(self.pool.start_worker(1))
        self.assertEqual(self.server.received(first), [])
        self.server.send(second, Done(1, 0.1, False, Raw(b"1")))
        self.exit(second)
        self.assertEqual([event[0] for event in self.events[-2:]], ["messages", "exited"])
        self.assertIsNone(self.server.ended)
        self.exit(first)
        self.assertEqual(self.server.ended, "close")
        self.assertNoResult(closed)
        self.server.end()
        self.successResultOf(closed)
        self.assertEqual(self.reactor.delays, [])

    def test_a_worker_that_does_not_end_on_close_is_killed(self):
        number = self.start()
        self.pool.close()
        self.reactor.advance(EXIT_TIMEOUT)
        self.assertEqual(self.server.signals, [(number, 9, True)])

    def test_an_abort_kills_every_worker_at_once(self):
        number = self.start()
        self.pool.close()
        self.pool.abort()
        self.assertEqual(self.server.signals, [(number, 9, True)])

    def test_closing_cancels_a_pending_start(self):
        self.die_young()
        self.pool.close()
        self.assertEqual((self.reactor.delays, self.server.ended), ([], "close"))
