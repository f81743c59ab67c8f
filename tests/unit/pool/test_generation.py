"""One import of the app, with a fork server controlled by the test."""

import itertools
import os
import socket
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import StateError
from taskd.pool.generation import GENERATION_STEPS, SPARE_PLACES, Generation, GenerationStage
from taskd.worker.messages import Exited
from tests.unit.pool.processes import FUNCTIONS, ForkServers


class GenerationTests(SynchronousTestCase):
    def setUp(self):
        self.servers = ForkServers()
        self.events = []
        self.generation = Generation(1, 2, self.servers.start, self)
        [self.server] = self.servers

    # --- its observer ---

    def generation_loaded(self, generation, functions):
        self.events.append(("loaded", functions))

    def generation_emptied(self, generation):
        self.events.append(("emptied",))

    def generation_ended(self, generation, how, reason):
        self.events.append(("ended", how, reason))

    def worker(self, number):
        """Fork a worker, which only records what is reported of it."""
        channel, other = socket.socketpair()
        output = os.open("/dev/null", os.O_WRONLY)
        notes = []
        self.generation.fork(
            SimpleNamespace(
                number=number,
                descriptors=(channel.fileno(), output),
                forked=lambda *event: notes.append(("forked", *event)),
                reaped=lambda *event: notes.append(("reaped", *event)),
                suspended=lambda **named: notes.append(("suspended", named["is_suspended"])),
                pid=number + 100,
                fork_server_ended=lambda *event: notes.append(("fork server ended", *event)),
            )
        )
        channel.close()
        other.close()
        os.close(output)
        self.addCleanup(self.server.hang_up, number)
        return notes

    def test_workers_can_be_forked_once_the_app_is_imported(self):
        self.assertFalse(self.generation.has_place)
        self.server.load()
        self.assertTrue(self.generation.has_place)
        self.assertEqual(self.events, [("loaded", FUNCTIONS)])

    def test_reports_reach_the_worker_that_they_are_about(self):
        self.server.load()
        first, second = self.worker(1), self.worker(2)
        self.server.observer.worker_forked(1, 100, "")
        exited = Exited(2, 0, 1000)
        self.server.observer.worker_reaped(exited)
        self.assertEqual((first, second), ([("forked", 100, "")], [("reaped", exited)]))
        self.server.observer.worker_suspended(2, is_suspended=True)
        self.assertEqual(second[1:], [("suspended", True)])
        self.server.end("signal 9")
        self.assertEqual(first[1:], [("fork server ended", "signal 9")])

    def test_all_of_it_can_be_killed_the_workers_first(self):
        self.server.load()
        self.worker(1)
        self.worker(2)
        self.generation.kill()
        self.assertEqual(self.server.killed, [101, 102, "fork server"])

    def test_each_worker_has_a_place_on_the_board_until_it_is_forgotten(self):
        self.server.load()
        for number in range(2 * 2 + SPARE_PLACES):
            self.worker(number)
        self.assertFalse(self.generation.has_place)
        place = self.server.workers[5].place
        self.server.board.begin(place, 77)
        self.server.board.keep(place, b"kept\n")
        self.assertEqual((self.generation.begun(5), self.generation.kept(5)), (77, b"kept\n"))
        self.generation.forget(5)
        self.assertTrue(self.generation.has_place)
        self.worker(100)
        self.assertEqual(self.server.workers[100].place, place)
        self.assertEqual((self.generation.begun(100), self.generation.kept(100)), (0, b""))

    def test_a_generation_reports_that_its_last_worker_is_gone(self):
        self.server.load()
        self.worker(1)
        self.worker(2)
        self.events.clear()
        self.generation.forget(1)
        self.assertEqual((self.events, self.generation.is_empty), ([], False))
        self.generation.forget(2)
        self.assertEqual((self.events, self.generation.is_empty), ([("emptied",)], True))

    def test_signals_are_sent_while_there_is_a_fork_server(self):
        self.server.load()
        self.generation.signal(1, 15, group=True)
        self.server.end()
        self.generation.signal(1, 9, group=True)
        self.assertEqual(self.server.signals, [(1, 15, True)])

    def test_a_loaded_generation_is_closed_gracefully_and_once(self):
        self.server.load()
        self.generation.close()
        self.generation.close()
        self.assertEqual((self.server.ended, self.generation.has_place), ("close", False))

    def test_a_generation_closed_during_its_import_is_killed(self):
        self.generation.close()
        self.assertEqual(self.server.ended, "abort")

    def test_an_ended_generation_is_not_closed_again(self):
        self.server.end("exit status 1")
        self.generation.close()
        self.assertIsNone(self.server.ended)
        reason = "the fork server ended while it imported the app (exit status 1)"
        self.assertEqual(self.events, [("ended", "exit status 1", reason)])

    def test_a_failed_import_is_the_reported_reason_for_the_end(self):
        self.server.observer.app_failed("SyntaxError")
        self.server.end("exit status 1")
        self.assertEqual(self.events, [("ended", "exit status 1", "SyntaxError")])

    def test_the_board_is_closed_after_the_last_worker(self):
        self.server.load()
        self.worker(1)
        self.server.end()
        self.assertEqual(self.generation.begun(1), 0)
        self.generation.forget(1)
        self.assertRaises(KeyError, self.generation.begun, 1)
        self.assertEqual(repr(self.generation), "<generation 1, ended, 0 workers>")

    def test_every_stage_is_in_the_table_and_only_the_end_is_final(self):
        self.assertEqual(set(GENERATION_STEPS), set(GenerationStage))
        self.assertEqual(
            [stage for stage, steps in GENERATION_STEPS.items() if not steps], [GenerationStage.ENDED]
        )
        self.assertLessEqual(set(itertools.chain(*GENERATION_STEPS.values())), set(GenerationStage))
        self.server.load()
        self.assertRaises(StateError, self.server.load)
