"""The output of a worker: in the log without secrets, and its tail for the log of a failed attempt."""

import os

from taskd.pool.output_lines import BURST
from taskd.pool.worker_output import MAX_TAIL
from taskd.worker.messages import NULL, Done, Failed, Stopped
from tests.unit.pool.test_worker_process import WorkerCase


def failed(task=3):
    return Failed(task, 0.1, True, -32000, "no", NULL, None)


class WorkerOutputTests(WorkerCase):
    def setUp(self):
        super().setUp()
        self.born()

    def write(self, text):
        os.write(self.output, text.encode())
        self.reactor.turn()

    def reported(self):
        """Return the messages that were passed on."""
        return [each for kind, _, *more in self.events if kind == "messages" for each in more[0]]

    def test_secrets_are_masked_in_the_log(self):
        self.write("with hunter2\n")
        self.assertIn("f #3: with [secret]", self.logged[-1])

    def test_a_failed_attempt_has_the_tail_of_its_output(self):
        self.write("one\nhunter2\nhalf a")
        self.send(failed())
        [message] = self.reported()
        self.assertEqual(message.printed, "one\n[secret]\nhalf a")

    def test_so_has_one_that_was_stopped(self):
        self.write("one\n")
        self.send(Stopped(3, 0.1, True, None))
        self.assertEqual(self.reported()[0].printed, "one")

    def test_an_attempt_that_has_printed_nothing_has_none_of_another(self):
        self.write("one\n")
        self.send(Done(3, 0.1, True, NULL))
        self.home.task = 4
        self.send(failed(4))
        self.write("two\n")
        self.home.task = 5
        self.write("three\n")
        self.send(failed(5))
        self.assertEqual([each.printed for each in self.reported()[1:]], ["", "three"])

    def test_of_much_output_the_last_is_kept_even_if_the_log_leaves_it_out(self):
        self.write("".join(f"line {number}\n" for number in range(BURST)))
        self.write("".join(f"line {number}\n" for number in range(BURST, BURST + 50)))
        printed = self.worker.printed(3)
        self.assertTrue(printed.endswith(f"line {BURST + 48}\nline {BURST + 49}"))
        self.assertLessEqual(len(printed), MAX_TAIL)
        self.assertGreater(len(printed), MAX_TAIL - 20)
        self.assertNotIn(f"line {BURST + 49}", "\n".join(self.logged))

    def test_a_long_line_is_cut_after_its_secrets_are_masked(self):
        self.write("x" * 100 + "hunter2" + "y" * (MAX_TAIL - 4) + "\n")
        self.assertEqual(self.worker.printed(3), "ret]" + "y" * (MAX_TAIL - 4))

    def test_the_end_of_a_worker_has_the_output_of_its_last_task(self):
        self.write("one\ntwo")
        self.hang_up()
        self.reap(-11)
        [(_, _, ending)] = [each for each in self.events if each[0] == "gone"]
        self.assertEqual(ending.printed, "one\ntwo")

    def test_the_reason_for_a_workers_end_has_no_secrets(self):
        os.write(self.channel, b"hunter2\n")
        self.reactor.turn()
        self.hang_up()
        self.reap(-9)
        [(_, _, ending)] = [each for each in self.events if each[0] == "gone"]
        self.assertIn("[secret]", ending.reason)
