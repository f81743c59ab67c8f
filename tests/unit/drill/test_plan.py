"""The plan of a drill: each kind is in it, it ends with the load, and follows from the seed."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from taskd.drill.plan import FROZEN_SECONDS, HELD_SECONDS, LINK, NODES, TARGETS, WORKERS, How, planned

SEEDS = range(50)


class PlanTests(SynchronousTestCase):
    def test_only_what_was_chosen_is_in_the_plan(self) -> None:
        chosen = {
            WORKERS: {How.WORKER},
            NODES: {How.KILL, How.STOP, How.FREEZE},
            LINK: {How.CUT, How.HOLD},
        }
        for target, hows in chosen.items():
            plan = planned(Random(1), 300.0, 3, {target})
            self.assertEqual({each.how for each in plan}, hows)
        self.assertEqual(planned(Random(1), 300.0, 3, ()), [])

    def test_the_plan_is_in_order_and_ends_with_the_load(self) -> None:
        for seed in SEEDS:
            plan = planned(Random(seed), 60.0, 3, TARGETS)
            times = [each.at for each in plan]
            self.assertEqual(times, sorted(times))
            self.assertTrue(all(each.at > 0 and each.at + each.seconds <= 60.0 for each in plan), plan)

    def test_a_short_drill_kills_a_worker_and_a_node(self) -> None:
        for seed in SEEDS:
            hows = {each.how for each in planned(Random(seed), 3.0, 1, TARGETS)}
            self.assertLessEqual({How.WORKER, How.KILL}, hows)

    def test_nodes_are_hit_one_after_the_other(self) -> None:
        for seed in SEEDS:
            for each, following in pairwise(planned(Random(seed), 300.0, 3, {NODES})):
                self.assertLessEqual(each.at + each.seconds, following.at)

    def test_a_node_among_others_is_frozen_until_they_take_it_for_dead(self) -> None:
        least, most = FROZEN_SECONDS
        frozen = [each for each in planned(Random(1), 600.0, 2, {NODES}) if each.how is How.FREEZE]
        self.assertTrue(frozen)
        self.assertTrue(all(least <= each.seconds <= most for each in frozen))
        alone = [each for each in planned(Random(1), 600.0, 1, {NODES}) if each.how is How.FREEZE]
        self.assertTrue(all(0 < each.seconds < least for each in alone))

    def test_some_silences_of_the_link_outlast_a_lease(self) -> None:
        held = [each.seconds for each in planned(Random(1), 3600.0, 2, {LINK}) if each.how is How.HOLD]
        self.assertGreater(max(held), 10.0)
        self.assertLess(max(held), HELD_SECONDS[1])

    def test_the_plan_follows_from_the_seed(self) -> None:
        self.assertEqual(planned(Random(7), 60.0, 2, TARGETS), planned(Random(7), 60.0, 2, TARGETS))
        self.assertNotEqual(planned(Random(7), 60.0, 2, TARGETS), planned(Random(8), 60.0, 2, TARGETS))
