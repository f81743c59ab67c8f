"""The work of a drill: every kind of task, no more than the workers can bear, and all from the seed."""

from __future__ import annotations

from collections import Counter
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from taskd.drill.work import PER_BATCH, Asked, AskedBatch, Mix


def made(mix: Mix, count: int) -> list[Asked | AskedBatch]:
    return [mix.next() for _ in range(count)]


class MixTests(SynchronousTestCase):
    def test_every_kind_is_asked_for(self) -> None:
        mix = Mix(Random(1), 50.0, 4)
        made(mix, 2000)
        functions = Counter(asked.function for asked in mix.asked)
        self.assertEqual(set(functions), {"quick", "nap", "once", "flaky"})
        self.assertTrue(mix.batches)
        for holds in (
            [asked for asked in mix.asked if asked.delay],
            [asked for asked in mix.asked if asked.delay and asked.cancel_after is not None],
            [asked for asked in mix.asked if asked.function == "nap" and asked.cancel_after is not None],
            [asked for asked in mix.asked if asked.waits],
        ):
            self.assertTrue(holds)

    def test_each_task_has_a_number_of_its_own(self) -> None:
        mix = Mix(Random(1), 50.0, 4)
        made(mix, 500)
        self.assertEqual([asked.number for asked in mix.asked], list(range(1, len(mix.asked) + 1)))

    def test_a_batch_has_its_tasks(self) -> None:
        mix = Mix(Random(1), 50.0, 4)
        batches = [each for each in made(mix, 1000) if isinstance(each, AskedBatch)]
        self.assertEqual(batches, mix.batches)
        for batch in batches:
            self.assertEqual([row.batch for row in batch.rows], [batch.number] * PER_BATCH)

    def test_the_workers_can_bear_it(self) -> None:
        for rate, workers in ((1.0, 1), (50.0, 4), (1000.0, 4), (1000.0, 100)):
            mix = Mix(Random(1), rate, workers)
            made(mix, 20_000)
            busy = sum(asked.seconds or 0.0 for asked in mix.asked) / (len(mix.asked) / rate)
            self.assertLess(busy, 0.6 * workers, (rate, workers))

    def test_the_work_follows_from_the_seed(self) -> None:
        def args(seed: int) -> list[object]:
            mix = Mix(Random(seed), 50.0, 4)
            made(mix, 100)
            return [(asked.function, asked.args, asked.delay, asked.cancel_after) for asked in mix.asked]

        self.assertEqual(args(7), args(7))
        self.assertNotEqual(args(7), args(8))
