"""The choice of the import of the app in use, with fork servers controlled by the tests."""

import itertools
from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import StartError, StateError
from taskd.pool.generations import STEPS, Closing, CodeStatus, Generations, Unusable
from tests.unit.descriptors import open_descriptors
from tests.unit.pool.processes import ForkServers


class GenerationsTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.servers = ForkServers()
        self.events = []
        self.logged = []
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)
        self.generations = Generations(self.clock, 2, self.servers.start, self)

    def log(self, event):
        if event.get("log_namespace") == "taskd.pool":
            self.logged.append(event["log_format"].format(**event))

    def code_loaded(self, generation, functions):
        self.events.append(("loaded", generation))

    def code_failed(self, generation, reason):
        self.events.append(("failed", generation, reason))

    def loaded(self):
        self.servers[0].load()
        self.events.clear()
        return self.generations

    def worker(self, generation, number):
        """Fork a worker of a generation."""
        self.generations.usable(generation).fork(SimpleNamespace(number=number, descriptors=(0, 1)))
        self.addCleanup(self.servers[generation - 1].hang_up, number)

    # --- fork servers that cannot be started ---

    def test_a_first_fork_server_that_cannot_be_started_ends_the_start(self):
        self.servers.cannot_start = OSError(24, "Too many open files")
        generations = Generations(self.clock, 2, self.servers.start, self)
        error = self.failureResultOf(generations.loaded, StartError).value
        self.assertEqual(str(error), "taskd: a fork server cannot be started: [Errno 24] Too many open files")
        self.assertEqual((generations.status().state, generations.reload()), ("failed", None))
        generations.stop_accepting()
        self.successResultOf(generations.close())

    def test_a_fork_server_that_cannot_be_started_is_tried_again_with_growing_delays(self):
        generations = self.loaded()
        self.servers.cannot_start = OSError(2, "No such file or directory")
        self.servers[0].end()
        self.clock.pump([0.1, 0.2])
        self.assertEqual(
            generations.status(),
            CodeStatus(
                "waiting", "a fork server cannot be started: [Errno 2] No such file or directory", 0.4
            ),
        )
        self.servers.cannot_start = None
        self.clock.advance(0.4)
        self.assertEqual((len(self.servers), generations.status()), (2, CodeStatus("importing")))
        self.servers[1].load()
        self.assertEqual((self.events, generations.status()), ([("loaded", 2)], CodeStatus("ready")))

    def test_a_reload_that_cannot_be_started_changes_nothing(self):
        generations = self.loaded()
        self.servers.cannot_start = OSError(12, "Cannot allocate memory")
        self.assertRaises(StartError, generations.reload)
        self.assertEqual(generations.status(), CodeStatus("ready"))
        self.servers[0].end()
        self.assertRaises(StartError, generations.reload)
        self.servers.cannot_start = None
        self.clock.advance(0.1)  # the delayed start goes on
        self.assertEqual((len(self.servers), generations.status().state), (2, "importing"))

    def test_a_start_that_fails_with_any_exception_is_tried_again(self):
        self.loaded()
        self.servers.cannot_start = RuntimeError("a bug")
        self.servers[0].end()
        self.clock.advance(0.1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.servers.cannot_start = None
        self.clock.advance(0.2)
        self.assertEqual(len(self.servers), 2)

    def test_a_failed_start_leaves_no_board_open(self):
        generations = self.loaded()
        self.servers.cannot_start = OSError(24, "Too many open files")
        before = open_descriptors()
        self.assertRaises(StartError, generations.reload)
        self.assertEqual(open_descriptors(), before)

    # --- the first import ---

    def test_nothing_is_usable_until_the_app_is_imported(self):
        self.assertIsNone(self.generations.usable(1))
        self.assertIsNone(self.generations.reload())
        self.assertNoResult(self.generations.loaded)
        self.servers[0].load()
        self.assertEqual(self.generations.usable(1).number, 1)
        self.assertEqual(self.events, [("loaded", 1)])
        self.successResultOf(self.generations.loaded)

    def test_nothing_is_started_if_the_first_import_fails(self):
        self.servers[0].observer.app_failed("no such module")
        self.servers[0].end()
        self.assertEqual(
            str(self.failureResultOf(self.generations.loaded, StartError).value), "taskd: no such module"
        )
        self.assertIsNone(self.generations.reload())
        self.clock.advance(100)
        self.assertEqual(len(self.servers), 1)
        self.generations.stop_accepting()
        self.successResultOf(self.generations.close())

    def test_a_fork_server_that_dies_during_the_import_is_reported_with_its_signal(self):
        self.servers[0].end("signal 9")
        error = self.failureResultOf(self.generations.loaded, StartError).value
        self.assertEqual(str(error), "taskd: the fork server ended while it imported the app (signal 9)")

    def test_a_stop_during_the_first_import_kills_the_fork_server(self):
        self.generations.stop_accepting()
        closed = self.generations.close()
        self.assertEqual(self.servers[0].ended, "abort")
        self.assertNoResult(closed)
        self.servers[0].load()  # too late
        self.servers[0].end()
        self.successResultOf(closed)
        self.failureResultOf(self.generations.loaded, StartError)
        self.assertEqual(self.events, [])

    # --- fork servers that end ---

    def test_a_fork_server_that_ends_is_replaced_after_a_growing_delay(self):
        generations = self.loaded()
        self.servers[0].end()
        for number, delay in enumerate((0.1, 0.2, 0.4), 1):
            self.assertIsNone(generations.usable(number))
            self.assertFalse(generations.is_current(number))
            self.clock.advance(0.99 * delay)
            self.assertEqual(len(self.servers), number)
            self.clock.advance(0.02 * delay)
            self.assertTrue(generations.is_current(number + 1))
            self.servers[-1].end()
        generations.reset_backoff()
        self.clock.advance(0.8)
        self.servers[-1].load()
        self.assertEqual(self.events, [("loaded", 5)])
        self.servers[-1].end("signal 11")
        self.assertEqual(self.logged[-1], "the fork server ended (signal 11); another one starts in 0.1 s")

    def test_the_reason_why_a_restarted_fork_server_cannot_import_the_app_is_logged(self):
        self.loaded()
        self.servers[0].end()
        self.clock.advance(0.1)
        self.servers[1].observer.app_failed("SyntaxError")
        self.servers[1].end()
        self.assertIn("SyntaxError", self.logged)

    # --- reloads ---

    def test_a_reload_is_imported_beside_the_code_in_use_and_switched_to(self):
        generations = self.loaded()
        self.assertEqual(generations.reload(), 2)
        self.servers[1].load()
        self.assertEqual(self.events, [("loaded", 2)])
        self.assertTrue(generations.usable(1))
        self.assertTrue(generations.usable(2))
        self.assertTrue(generations.is_current(1))
        generations.switch()
        self.assertTrue(generations.is_current(2))
        self.assertEqual((self.servers[0].ended, self.servers[1].ended), ("close", None))

    def test_an_older_generation_ends_with_its_last_worker(self):
        generations = self.loaded()
        self.worker(1, 1)
        self.worker(1, 2)
        old = generations.usable(1)
        generations.reload()
        self.servers[1].load()
        generations.switch()
        old.forget(1)
        self.assertIsNone(self.servers[0].ended)
        old.forget(2)
        self.assertEqual(self.servers[0].ended, "close")

    def test_the_generation_in_use_does_not_end_with_its_last_worker(self):
        generations = self.loaded()
        self.worker(1, 1)
        generations.usable(1).forget(1)
        self.assertIsNone(self.servers[0].ended)

    def test_a_reload_that_fails_leaves_the_code_in_use(self):
        generations = self.loaded()
        generations.reload()
        self.servers[1].observer.app_failed("SyntaxError")
        self.servers[1].end()
        self.assertEqual(self.events, [("failed", 2, "SyntaxError")])
        self.assertTrue(generations.is_current(1))
        self.assertRaises(StateError, generations.switch)

    def test_a_reload_can_be_abandoned(self):
        generations = self.loaded()
        generations.abandon_next()
        generations.reload()
        generations.abandon_next()
        self.assertEqual(self.servers[1].ended, "abort")
        self.servers[1].load()
        self.servers[1].end()
        self.assertEqual(self.events, [])
        self.assertTrue(generations.is_current(1))

    def test_a_second_reload_replaces_the_first(self):
        generations = self.loaded()
        self.assertEqual((generations.reload(), generations.reload()), (2, 3))
        self.assertEqual(self.servers[1].ended, "abort")
        self.servers[1].end()
        self.servers[2].load()
        self.assertEqual(self.events, [("loaded", 3)])

    def test_a_reload_fails_and_one_fork_server_starts_if_the_code_in_use_ends_meanwhile(self):
        generations = self.loaded()
        generations.reload()
        self.servers[0].end()
        self.assertEqual(self.events, [("failed", 2, "the fork server in use ended meanwhile")])
        self.assertEqual(self.servers[1].ended, "abort")
        self.servers[1].end()
        self.clock.advance(0.1)
        self.servers[2].load()
        self.assertTrue(generations.is_current(3))

    def test_a_reload_replaces_the_pending_restart_of_a_fork_server(self):
        generations = self.loaded()
        self.servers[0].end()
        self.assertEqual(generations.reload(), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(generations.reload(), 3)
        self.assertEqual(self.servers[1].ended, "abort")
        self.servers[2].load()
        self.assertFalse(generations.is_current(3))
        generations.switch()
        self.assertTrue(generations.is_current(3))

    def test_a_fork_server_is_restarted_later_if_that_reload_fails_or_is_abandoned(self):
        generations = self.loaded()
        self.servers[0].end()
        generations.reload()
        self.servers[1].observer.app_failed("SyntaxError")
        self.servers[1].end()
        self.assertEqual(self.events, [("failed", 2, "SyntaxError")])
        generations.reload()
        generations.abandon_next()
        self.servers[2].end()
        self.clock.advance(0.4)
        self.assertTrue(generations.is_current(4))

    # --- the end ---

    def test_closing_ends_every_fork_server_and_starts_none(self):
        generations = self.loaded()
        generations.reload()
        generations.stop_accepting()
        self.assertTrue(generations.is_closing)
        self.assertEqual((generations.usable(1), generations.reload()), (None, None))
        closed = generations.close()
        self.assertEqual([server.ended for server in self.servers], ["close", "abort"])
        self.servers[0].end()
        self.assertNoResult(closed)
        self.servers[1].end()
        self.successResultOf(closed)
        self.clock.advance(100)
        self.assertEqual(len(self.servers), 2)

    def test_closing_cancels_a_pending_restart(self):
        generations = self.loaded()
        self.servers[0].end()
        generations.stop_accepting()
        self.successResultOf(generations.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_every_state_is_in_the_table_and_only_the_closing_is_final(self):
        self.assertEqual([state for state, steps in STEPS.items() if not steps], [Closing])
        self.assertEqual(STEPS[Unusable], {Closing})
        self.assertLessEqual(set(itertools.chain(*STEPS.values())), set(STEPS))
        self.generations.stop_accepting()
        self.assertRaises(StateError, self.generations.stop_accepting)
