"""New code while the old one works."""

import itertools

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import StateError
from taskd.functions.registry import FunctionInfo
from taskd.server.reload import RELOAD_STEPS, Reload, ReloadState

FUNCTIONS = [FunctionInfo("f", "f()", "", {})]


class ReloadTests(SynchronousTestCase):
    def setUp(self):
        self.can_start = True
        self.started = []
        self.switched = []
        self.logged = []
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)
        self.reload = Reload(2, self.start_worker, self.switched.append)

    def log(self, event):
        if event.get("log_namespace") == "taskd.reload":
            self.logged.append((event["log_level"].name, event["log_format"].format(**event)))

    def start_worker(self, generation):
        self.started.append(generation)
        return self.can_start is True or len(self.started) <= int(self.can_start)

    def test_all_its_workers_are_started_and_awaited_before_the_switch(self):
        self.assertTrue(self.reload.is_in_flight)
        self.reload.loaded(FUNCTIONS, 3)
        self.assertEqual((self.started, self.reload.state), ([2, 2, 2], ReloadState.WARMING))
        for _ in range(2):
            self.reload.worker_ready()
            self.assertEqual(self.switched, [])
        self.reload.worker_ready()
        self.assertEqual((self.switched, self.reload.is_in_flight), ([FUNCTIONS], False))
        self.assertEqual(self.logged, [("info", "reloaded: 1 functions, generation 2")])

    def test_one_worker_at_least_proves_that_the_code_works(self):
        self.reload.loaded(FUNCTIONS, 0)
        self.assertEqual(self.started, [2])
        self.reload.worker_ready()
        self.assertEqual(self.switched, [FUNCTIONS])

    def test_where_fewer_can_be_started_those_have_to_do(self):
        self.can_start = 1
        self.reload.loaded(FUNCTIONS, 3)
        self.reload.worker_ready()
        self.assertEqual(self.switched, [FUNCTIONS])

    def test_where_none_can_be_started_it_has_failed(self):
        self.can_start = False
        self.reload.loaded(FUNCTIONS, 3)
        self.assertEqual(self.reload.state, ReloadState.FAILED)
        [(level, text)] = self.logged
        self.assertEqual(level, "error")
        self.assertTrue(text.startswith("not reloaded: no worker of the new code could be started"), text)

    def test_workers_that_are_ready_later_switch_nothing_again(self):
        self.reload.loaded(FUNCTIONS, 1)
        for _ in range(3):
            self.reload.worker_ready()
        self.assertEqual(self.switched, [FUNCTIONS])

    def test_after_a_failure_nothing_is_switched(self):
        self.reload.loaded(FUNCTIONS, 1)
        self.reload.failed("no good")
        self.reload.worker_ready()
        self.assertEqual((self.switched, self.reload.is_in_flight), ([], False))
        self.assertIn("not reloaded: no good", self.logged[0][1])

    def test_a_step_that_the_table_does_not_list_is_a_bug(self):
        self.assertEqual(set(RELOAD_STEPS), set(ReloadState))
        for old, new in itertools.product(ReloadState, ReloadState):
            self.reload.state = old
            if new in RELOAD_STEPS[old]:
                self.reload._step(new)
            else:
                self.assertRaises(StateError, self.reload._step, new)
