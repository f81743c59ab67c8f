"""A task and its subscribers."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.model import Progress, Result
from taskd.scheduler import TaskState
from taskd.scheduler.task import NOBODY
from tests.unit.tasks import FakeSubscriber, make_task


class TaskTests(SynchronousTestCase):
    def test_a_task_is_in_flight_from_when_it_waits_until_it_is_done(self):
        in_flight = [state for state in TaskState if make_task(1, state=state).is_in_flight]
        self.assertEqual(in_flight, [TaskState.WAITING, TaskState.GIVEN])

    def test_others_can_subscribe_each_with_a_key_of_its_own(self):
        task = make_task(1, subscriber=FakeSubscriber(), key=7)
        self.assertIsNone(task.others)
        others = [(FakeSubscriber(), "a"), (FakeSubscriber(), "b")]
        for subscriber, key in others:
            task.subscribe(subscriber, key)
        self.assertEqual(task.others, others)

    def test_a_detached_task_has_a_subscriber_that_is_never_full_and_takes_everything(self):
        task = make_task(1, subscriber=FakeSubscriber(is_full=True), key=7)
        task.detach()
        self.assertEqual((task.subscriber, task.key, task.subscriber.is_full), (NOBODY, None, False))
        self.assertTrue(task.subscriber.needs(task.key))
        self.assertIsNone(task.subscriber.account())
        self.assertFalse(task.subscriber.wants_result(task.key, 1))
        task.subscriber.task_progressed(task.key, Progress(1))
        task.subscriber.task_ended(task.key, Result(b"null"))
        task.subscriber.flush()
