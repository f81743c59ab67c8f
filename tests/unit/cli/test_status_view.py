"""What `taskd status` prints."""

import time

from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.console import out
from taskd.cli.status_view import print_status


def answer(**more):
    """Return an answer of `taskd.status` from a server without workers."""
    return {
        "name": "TaskWorker",
        "version": "1.0",
        "uptime": 12.0,
        "stopping": False,
        "generation": 2,
        "reloading": False,
        "connections": 1,
        "waiting": 3,
        "oldest_waiting": 1.5,
        "running": 0,
        "max_queue": 10000,
        "min_workers": 1,
        "max_workers": 4,
        "budget": {"limit": 268435456, "held": 0, "waiting": 0, "biggest": []},
        "counts": {},
        "unanswered": {},
        "workers": [],
        "functions": [],
        "parties": [],
        "code": {"state": "ready", "reason": None, "next_try": None},
        **more,
    }


class PrintStatusTests(SynchronousTestCase):
    def test_the_memory_that_is_held_is_shown_with_those_who_hold_most_of_it(self):
        use = {"party": "192.0.2.7", "held": 3 << 20, "connections": 2}
        budget = {"limit": 256 << 20, "held": 4 << 20, "waiting": 1, "biggest": [use]}
        self.assertIn(
            "4.0 MiB of 256.0 MiB held for clients, most for: 192.0.2.7 3.0 MiB", self.printed(budget=budget)
        )
        self.assertNotIn("held for clients", self.printed())

    def test_the_store_is_shown_with_its_fault_and_the_functions_that_are_paused(self):
        store = {"lasting": True, "claimed": 3, "fault": "the disk is full", "paused": ["f", "g"]}
        shown = self.printed(store=store)
        for line in (
            "stored tasks: in a file; 3 claimed",
            "the store has failed, and is tried every second: the disk is full",
            "paused: f, g",
        ):
            self.assertIn(f"\n{line}\n", shown)
        nothing = {"lasting": False, "claimed": 0, "fault": None, "paused": []}
        self.assertEqual(self.printed(store=nothing), self.printed())
        self.assertIn("stored tasks: in memory; 1 claimed", self.printed(store={**nothing, "claimed": 1}))

    def test_labels_and_the_number_of_the_node_are_shown(self):
        store = {"lasting": True, "claimed": 3, "fault": None, "paused": [], "node": 4}
        shown = self.printed(labels=["big", "gpu"], store=store)
        self.assertIn("\nlabels: big, gpu\n", shown)
        self.assertIn("\nstored tasks: shared, with this as node 4; 3 claimed\n", shown)
        self.assertNotIn("labels", self.printed(labels=[]))

    def test_a_node_that_others_cannot_wake_shows_why(self):
        store = {"lasting": True, "claimed": 3, "fault": None, "paused": [], "node": 4, "polls": "a pooler"}
        line = "\nother nodes cannot wake this one, which looks twice a second: a pooler\n"
        self.assertIn(line, self.printed(store=store))
        self.assertNotIn(line, self.printed(store={**store, "polls": None}))

    def test_schedules_are_shown_with_their_next_time(self):
        now = time.time()
        shown = self.printed(
            schedules=[
                {"function": "report", "schedule": "every 60 s", "next": now + 30, "last": 1.8e9},
                {"function": "leap", "schedule": "0 0 * 2 MON#5 (UTC)", "next": None, "last": None},
            ]
        )
        self.assertRegex(shown, r"report +every 60 s +20\d\d-.* in (30|29)\.\d s +2027-01-1\d ")
        self.assertRegex(shown, r"leap +0 0 \* 2 MON#5 \(UTC\) +never")
        self.assertNotIn("scheduled", self.printed())

    def printed(self, **more):
        with out.capture() as capture:
            print_status(answer(**more))
        return capture.get()

    def test_a_server_that_can_start_no_worker_shows_the_reason_and_the_next_try(self):
        code = {"state": "waiting", "reason": "too many open files", "next_try": 1.6}
        printed = self.printed(code=code)
        self.assertIn("no worker can be started: too many open files; the next try is in 1.6 s", printed)

    def test_a_server_that_would_take_no_task_shows_why(self):
        unready = {"reason": "store_down", "detail": "the store has failed: no space"}
        self.assertIn("not ready for tasks: the store has failed: no space", self.printed(unready=unready))
        self.assertNotIn("ready", self.printed(unready=None))

    def test_lines_that_the_log_has_lost_are_shown(self):
        self.assertIn("812 lines of the log were lost", self.printed(log_lines_lost=812))
        self.assertNotIn("log", self.printed(log_lines_lost=0))

    def test_the_parties_that_wait_are_shown_if_there_are_several(self):
        parties = [{"party": "192.0.2.7", "waiting": 9}, {"party": "\x1b[2J", "waiting": 1}]
        self.assertIn("waiting by party: 192.0.2.7 9, \\x1b[2J 1", self.printed(parties=parties))
        self.assertNotIn("party", self.printed(parties=parties[:1]))

    def test_the_start_of_workers_is_not_mentioned_while_it_is_possible(self):
        self.assertNotIn("can be started", self.printed())
