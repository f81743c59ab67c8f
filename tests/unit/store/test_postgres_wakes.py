"""What a transaction of the PostgreSQL store has for other nodes, as notifications and back."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.store.nodes import Hint
from taskd.store.postgres.wakes import ALL, MAX_PAYLOAD, WAKE, Wakes, channel_of, hint_of, task_notices


class WakesTests(SynchronousTestCase):
    def notices(self, *wakes):
        together = Wakes()
        for each in wakes:
            together.add(each)
        return list(together.notices())

    def test_the_notices_of_several_transactions_go_out_together(self):
        first = Wakes(waiting={"a": "f", "b": "g"}, to_all={"pause"})
        second = Wakes(functions={"f", "h"}, to_all={"pause"})
        for node in (2, 3, 3):
            second.ask(node, "cancel")
        second.ask(3, "drain")
        self.assertEqual(
            self.notices(first, second),
            [
                (WAKE, "f g h"),
                (ALL, "pause"),
                ("taskd_node_2", "cancel"),
                ("taskd_node_3", "cancel"),
                ("taskd_node_3", "drain"),
            ],
        )

    def test_a_transaction_without_notices_sends_nothing(self):
        self.assertFalse(Wakes(waiting={"a": "f"}).has_notices)
        self.assertEqual(self.notices(Wakes()), [])
        for wakes in (Wakes(functions={"f"}), Wakes(is_any_waiting=True), Wakes(to_all={"pause"})):
            self.assertTrue(wakes.has_notices)

    def test_functions_that_are_not_named_or_too_many_to_be_named_are_any(self):
        many = Wakes(functions={f"function_{number}" for number in range(1000)})
        for wakes in (Wakes(functions={"f"}, is_any_waiting=True), many):
            self.assertEqual(self.notices(wakes), [(WAKE, "")])

    def test_tasks_go_out_in_notifications_that_are_short_enough(self):
        tasks = {f"{number:036}" for number in range(500)}
        notices = list(task_notices(7, tasks))
        self.assertEqual({channel for channel, _ in notices}, {channel_of(7)})
        self.assertTrue(all(len(payload) <= MAX_PAYLOAD for _, payload in notices))
        self.assertEqual({task for notice in notices for task in hint_of(*notice).tasks}, tasks)

    def test_each_notification_is_read_as_its_hint(self):
        for channel, payload, hint in (
            (WAKE, "f g", Hint(functions=["f", "g"])),
            (WAKE, "", Hint(functions=None)),
            (ALL, "pause", Hint(renews=True)),
            (ALL, "node", Hint(renews=True)),
            (channel_of(3), "cancel", Hint(renews=True)),
            (channel_of(3), "drain", Hint(renews=True)),
            (channel_of(3), "task a b", Hint(tasks=["a", "b"])),
            (channel_of(3), "of a newer version", Hint(everything=True)),
            (ALL, "", Hint(everything=True)),
        ):
            self.assertEqual(hint_of(channel, payload), hint)
