"""The tables of states."""

import itertools

from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import StateError
from taskd.scheduler import TaskState, WorkerState
from taskd.scheduler.states import STOP_STEPS, TASK_STEPS, WORKER_STEPS, StopStep, check_stop, check_task
from taskd.scheduler.workers import WorkerView


def step_worker(old, new):
    worker = WorkerView(1, generation=1, since=0.0, state=old)
    worker.step(new, 1.0)
    return worker.state


class StateTests(SynchronousTestCase):
    def test_the_tables_list_every_state(self):
        for kind, steps in (TaskState, TASK_STEPS), (WorkerState, WORKER_STEPS), (StopStep, STOP_STEPS):
            self.assertEqual(set(steps), set(kind))
            for before, after in steps.items():
                self.assertNotIn(before, after)
        self.assertFalse(TASK_STEPS[TaskState.DONE])
        self.assertFalse(WORKER_STEPS[WorkerState.GONE])
        self.assertFalse(STOP_STEPS[StopStep.KILLED])

    def test_a_step_that_its_table_does_not_list_is_a_bug_and_every_other_is_taken(self):
        checks = [
            (TaskState, TASK_STEPS, check_task),
            (WorkerState, WORKER_STEPS, step_worker),
            (StopStep, STOP_STEPS, check_stop),
        ]
        for kind, steps, check in checks:
            for old, new in itertools.product(kind, kind):
                if new in steps[old]:
                    self.assertEqual(check(old, new), new)
                else:
                    error = self.assertRaises(StateError, check, old, new)
                    self.assertIn(f"cannot go from {old.name} to {new.name}", str(error))
