"""What functions in a worker learn of their own task."""

import asyncio
import contextvars
import threading

from taskd.functions.current import NO_TASK, CurrentTask, current_task
from taskd.functions.registry import Registry
from taskd.worker.messages import IS_DESCRIBED, NULL, WANTS_PROGRESS, Attempt, DescribedAttempt
from tests.unit.worker.test_loop import WorkerCase


def described(task, *, flags=0, **more):
    return DescribedAttempt(task, 1, "f", NULL, flags | IS_DESCRIBED, **more)


class CurrentTaskTests(WorkerCase):
    def setUp(self):
        super().setUp()
        self.seen = []

    def run_each(self, *attempts, function=None):
        self.registry = Registry()
        self.add(function or (lambda: self.seen.append(current_task())))
        self.run_worker(*attempts)
        return self.seen

    def test_a_stored_task_knows_its_id_its_attempt_and_whether_it_was_interrupted(self):
        attempt = described(7, id="the-id", attempt=3, was_interrupted=True)
        self.assertEqual(self.run_each(attempt), [CurrentTask(7, "the-id", 3, None, True)])

    def test_the_seconds_that_are_left_are_counted_down(self):
        def function():
            self.seen.extend(current_task().deadline for _ in range(2))

        first, second = self.run_each(described(7, limit=100.0), function=function)
        self.assertTrue(100.0 >= first >= second > 0.0, (first, second))
        self.seen.clear()
        self.assertEqual(self.run_each(described(8, limit=0.0), function=function), [0.0, 0.0])

    def test_of_other_tasks_the_number_alone_is_known(self):
        self.assertEqual(self.run_each(Attempt(5, 2, "f", NULL, 0)), [CurrentTask(5)])

    def test_nothing_of_a_task_is_left_for_the_next_one(self):
        for flags in 0, WANTS_PROGRESS:
            self.seen.clear()
            self.run_each(described(1, id="one", flags=flags), Attempt(2, 1, "f", NULL, flags), described(3))
            self.assertEqual(self.seen, [CurrentTask(1, "one"), CurrentTask(2), CurrentTask(3)])
        self.assertIs(current_task(), NO_TASK)

    def test_async_functions_and_threads_belong_to_their_task(self):
        def in_thread():
            thread = threading.Thread(target=lambda: self.seen.append(current_task()))
            thread.start()
            thread.join()

        async def function():
            self.seen.append(current_task())
            in_thread()
            await asyncio.to_thread(in_thread)
            self.seen.append(await asyncio.to_thread(current_task))

        task = CurrentTask(1, "one")
        self.assertEqual(self.run_each(described(1, id="one"), function=function), [task] * 4)

    def test_code_that_a_task_leaves_behind_still_belongs_to_it(self):
        contexts = []

        def function():
            contexts.append(contextvars.copy_context())
            self.seen.append(contexts[0].run(current_task).id)

        self.assertEqual(
            self.run_each(described(1, id="one"), described(2, id="two"), function=function), ["one", "one"]
        )

    def test_a_thread_that_an_earlier_task_left_behind_is_of_no_task(self):
        go, done = threading.Event(), threading.Event()

        def wait():
            go.wait(30)
            self.seen.append(current_task())
            done.set()

        def function():
            if current_task().number == 1:
                threading.Thread(target=wait, daemon=True).start()
            else:
                go.set()
                done.wait(30)

        self.assertEqual(
            self.run_each(described(1, id="one"), described(2, id="two"), function=function), [NO_TASK]
        )
