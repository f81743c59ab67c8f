"""Reloads: the new code is imported and tried while the old code serves."""

import itertools

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import StartError, StateError
from taskd.functions.registry import FunctionInfo
from taskd.server.reload import RELOAD_STEPS, Reloader, ReloadState, next_state

FUNCTIONS = [FunctionInfo("f", "f()", "", {})]


class ReloadTests(SynchronousTestCase):
    """A reloader whose pool is the test case itself."""

    def setUp(self):
        self.can_start = True
        self.cannot_reload = ""
        self.generation = 1
        self.asked = []
        self.started = []
        self.used = []
        self.logged = []
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)
        self.reloader = Reloader(self, self.start_worker, lambda *used: self.used.append(used))

    def log(self, event):
        if event.get("log_namespace") == "taskd.reload":
            self.logged.append((event["log_level"].name, event["log_format"].format(**event)))

    def start_worker(self, generation):
        self.started.append(generation)
        return self.can_start is True or len(self.started) <= int(self.can_start)

    # --- `CodePool` ---

    def reload(self):
        if self.cannot_reload:
            raise StartError(self.cannot_reload)
        self.generation += 1
        return self.generation

    def switch(self):
        self.asked.append("switch")

    def abandon_next(self):
        self.asked.append("abandon")

    def start(self, workers):
        """Begin a reload whose app loads and needs so many workers; return how it ends."""
        ended = self.reloader.start()
        self.reloader.loaded(FUNCTIONS, workers)
        return ended

    # --- what must hold ---

    def test_a_reload_returns_a_deferred_that_fires_with_how_it_has_ended(self):
        ended = self.start(1)
        self.assertNoResult(ended)
        self.reloader.worker_is_ready()
        self.assertEqual(self.successResultOf(ended), "reloaded: 1 functions, generation 2")
        ended = self.start(1)
        self.reloader.fail("a reason")
        self.assertEqual(self.successResultOf(ended), "not reloaded, the old code goes on: a reason")
        self.cannot_reload = "too many open files"
        self.assertEqual(self.successResultOf(self.reloader.start()), "not reloaded: too many open files")

    def test_a_reload_that_is_given_up_for_another_one_ends_by_itself(self):
        first, second = self.start(1), self.start(1)
        self.assertIn("another reload was asked for", self.successResultOf(first))
        self.assertNoResult(second)

    def test_a_fork_server_that_cannot_be_started_is_the_reason_why_nothing_is_reloaded(self):
        self.cannot_reload = "too many open files"
        self.reloader.start()
        self.assertEqual(self.logged, [("error", "not reloaded: too many open files")])
        self.assertFalse(self.reloader.in_progress)
        self.cannot_reload = ""
        self.reloader.start()
        self.assertTrue(self.reloader.in_progress)

    def test_a_reload_switches_once_all_its_workers_are_ready(self):
        self.reloader.start()
        self.assertTrue(self.reloader.in_progress)
        self.assertTrue(self.reloader.is_loading(2))
        self.assertFalse(self.reloader.is_loading(1))
        self.reloader.loaded(FUNCTIONS, 3)
        self.assertEqual(self.started, [2, 2, 2])
        for _ in range(2):
            self.reloader.worker_is_ready()
            self.assertEqual((self.used, self.asked), ([], []))
        self.reloader.worker_is_ready()
        self.assertEqual((self.used, self.asked), ([(2, FUNCTIONS)], ["switch"]))
        self.assertFalse(self.reloader.in_progress)
        self.assertEqual(self.logged[-1], ("info", "reloaded: 1 functions, generation 2"))

    def test_a_reload_starts_at_least_one_worker_to_prove_that_the_code_works(self):
        self.start(0)
        self.assertEqual(self.started, [2])
        self.reloader.worker_is_ready()
        self.assertEqual(self.used, [(2, FUNCTIONS)])

    def test_a_reload_makes_do_with_the_workers_that_can_be_started(self):
        self.can_start = 1
        self.start(3)
        self.reloader.worker_is_ready()
        self.assertEqual(self.used, [(2, FUNCTIONS)])

    def test_a_reload_fails_if_no_worker_can_be_started(self):
        self.can_start = False
        self.start(3)
        self.assertFalse(self.reloader.in_progress)
        self.assertEqual(self.asked, ["abandon"])
        level, text = self.logged[-1]
        self.assertEqual(level, "error")
        self.assertTrue(text.startswith("not reloaded: no worker of the new code could be started"), text)

    def test_workers_that_are_ready_after_the_switch_do_not_switch_again(self):
        self.start(1)
        for _ in range(3):
            self.reloader.worker_is_ready()
        self.assertEqual(self.used, [(2, FUNCTIONS)])

    def test_a_failed_reload_does_not_switch_later(self):
        self.start(1)
        self.reloader.fail("no good")
        self.reloader.worker_is_ready()
        self.assertEqual((self.used, self.asked, self.reloader.in_progress), ([], ["abandon"], False))
        self.assertIn("not reloaded: no good", self.logged[-1][1])

    def test_a_reload_replaces_the_one_in_progress(self):
        self.start(1)
        self.reloader.start()
        self.assertEqual(self.asked, ["abandon"])
        self.assertTrue(self.reloader.is_loading(3))
        self.reloader.loaded(FUNCTIONS, 1)
        self.reloader.worker_is_ready()
        self.assertEqual(self.used, [(3, FUNCTIONS)])

    def test_a_reload_is_refused_before_the_app_is_loaded(self):
        self.reload = lambda: None
        self.reloader.start()
        self.assertFalse(self.reloader.in_progress)
        self.assertEqual(self.logged, [("warn", "not reloaded: the app has not been loaded yet")])

    def test_a_step_that_the_table_does_not_list_is_a_bug(self):
        self.assertEqual(set(RELOAD_STEPS), set(ReloadState))
        for old, new in itertools.product(ReloadState, ReloadState):
            if new in RELOAD_STEPS[old]:
                self.assertIs(next_state(old, new), new)
            else:
                self.assertRaises(StateError, next_state, old, new)
