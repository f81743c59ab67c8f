"""The daemon's side of a worker from start to end, over real descriptors and without a process."""

import contextlib
import itertools
import os
import signal
import tracemalloc

from msgspec import Raw
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import ImpossibleMessage, StateError
from taskd.pool.exits import WorkerExit
from taskd.pool.fork_server_process import EXIT_TIMEOUT
from taskd.pool.suspension import SUSPENDED_SECONDS
from taskd.pool.task_label import TaskLabel
from taskd.pool.worker_process import PROCESS_STEPS, WorkerProcess, WorkerStage
from taskd.worker.messages import (
    NULL,
    POKE,
    Attempt,
    Done,
    Dropped,
    Exited,
    Interrupt,
    Ready,
    Reclaim,
    Reported,
    Returned,
    decode_to_worker,
    encode,
    encode_all,
)
from tests.unit.pool.processes import FakeReactor

DONE = Done(3, 0.1, True, Raw(b"1"))


class Home:
    """A stand-in for the generation of a worker."""

    number = 1

    def __init__(self):
        self.signals = []
        self.kept_lines = b""
        self.forgotten = []
        self.task = 3

    def begun(self, number):
        assert number not in self.forgotten
        return self.task

    def kept(self, number):
        return self.kept_lines

    def signal(self, number, signal_number, *, group):
        self.signals.append((number, signal_number, group))

    def forget(self, number):
        self.forgotten.append(number)


class WorkerCase(SynchronousTestCase):
    """A worker of whose process the tests play the part."""

    def setUp(self):
        self.reactor = FakeReactor()
        self.home = Home()
        self.events = []
        self.known = {3: TaskLabel("f", 3)}
        self.impossible = ""
        self.reads_on = True
        self.logged = []
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)
        self.worker = WorkerProcess(self.reactor, 7, self.home, self, self, "TaskWorker")
        channel, output = self.worker.descriptors
        self.channel, self.output = os.dup(channel), os.dup(output)
        self.addCleanup(self.end)

    def end(self):
        """End what the test has left of the worker."""
        self.hang_up()
        if not self.home.forgotten:
            self.reactor.turn()
            self.worker.fork_server_ended("the test is over")
        self.reactor.turn()

    def log(self, event):
        if event.get("log_namespace") in ("taskd.pool", "taskd.task"):
            self.logged.append(event["log_format"].format(**event))

    # --- its observer and its owner ---

    def worker_ready(self, number):
        self.events.append(("ready", number))

    def worker_messages(self, number, messages):
        if self.impossible:
            raise ImpossibleMessage(self.impossible)
        self.events.append(("messages", number, messages))

    def hide(self, number, text):
        return text.replace("hunter2", "[secret]")

    def task_label(self, number, task):
        return self.known.get(task)

    def task_count(self, number):
        return len(self.known)

    def result_grows(self, number, size):
        self.events.append(("grows", number, size))
        return self.reads_on

    def result_arrived(self, number):
        self.events.append(("arrived", number))

    def worker_condemned(self, number):
        self.events.append(("condemned", number))

    def worker_gone(self, worker, ending):
        self.events.append(("gone", worker.number, ending))

    # --- its process ---

    def hang_up(self):
        for descriptor in (self.channel, self.output):
            if descriptor is not None:
                os.close(descriptor)
        self.channel = self.output = None

    def born(self):
        self.worker.forked(2**22 + 7, "")  # no process has such an id

    def send(self, *messages):
        os.write(self.channel, b"".join(map(encode, messages)))
        self.reactor.turn()

    def received(self):
        return decode_to_worker(os.read(self.channel, 65536))

    def reap(self, code=0, **more):
        self.worker.reaped(Exited(7, code, 1000, **more))
        self.reactor.turn()


class WorkerProcessTests(WorkerCase):
    # --- messages ---

    def test_messages_of_a_worker_are_passed_on_in_order(self):
        self.born()
        self.send(Ready())
        self.send(Reported(3, 1, 2, None), DONE)
        self.assertEqual(self.events, [("ready", 7), ("messages", 7, [Reported(3, 1, 2, None), DONE])])

    def test_a_worker_can_be_sent_tasks_before_it_is_forked(self):
        attempts = [Attempt(task, 1, "f", NULL, 0) for task in (1, 2)]
        self.worker.send(attempts)
        self.assertEqual(self.received(), attempts)

    def received_all(self, size):
        """Read so many bytes as a worker does, while the daemon writes."""
        os.set_blocking(self.channel, False)
        data = b""
        while len(data) < size:
            with contextlib.suppress(BlockingIOError):
                data += os.read(self.channel, 65536)
            self.reactor.turn()
        return data

    def test_long_arguments_are_sent_in_order_and_never_copied(self):
        long = Raw(b'["%b"]' % (b"x" * 3_000_000))
        attempts = [Attempt(1, 1, "f", NULL, 3), Attempt(2, 1, "f", long, 2), Attempt(3, 1, "f", long, 0)]
        size = len(encode_all(attempts)) + len(encode(Reclaim())) + len(encode_all(attempts[:1]))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.worker.send(attempts)
        self.assertLess(tracemalloc.get_traced_memory()[0], 1_000_000)
        self.worker.poke(Reclaim())
        self.worker.send(attempts[:1])
        self.worker.retire()
        data = self.received_all(size)
        self.assertEqual(decode_to_worker(data), [*attempts, Reclaim(), attempts[0]])
        self.assertEqual(os.read(self.channel, 1), b"", "the end comes behind all of it")

    def test_a_worker_that_has_taken_long_arguments_can_be_retired(self):
        attempt = Attempt(2, 1, "f", Raw(b'["%b"]' % (b"x" * 300_000)), 2)
        self.worker.send([attempt])
        self.assertEqual(decode_to_worker(self.received_all(len(encode(attempt)))), [attempt])
        self.worker.retire()
        self.assertEqual(os.read(self.channel, 1), b"")

    def test_a_long_result_is_announced_held_up_and_dropped(self):
        self.born()
        line = encode(Done(3, 0.1, False, Raw(b'"%b"' % (b"x" * 1_000_000))))
        os.set_blocking(self.channel, False)
        self.reads_on = False
        sent = 0
        for _ in range(20):
            with contextlib.suppress(BlockingIOError):
                sent += os.write(self.channel, line[sent:])
            self.reactor.turn()
        [(_, _, size)] = self.events
        self.assertLess(size, 200_000)
        self.worker.read_on()
        self.reactor.turn()
        self.assertGreater(self.events[-1][2], size)
        self.worker.drop_result()
        while sent < len(line):
            with contextlib.suppress(BlockingIOError):
                sent += os.write(self.channel, line[sent:])
            self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(self.events[-1], ("messages", 7, [Dropped(3, 0.1, False)]))

    def test_a_poke_signals_the_process_and_not_its_group(self):
        self.born()
        for message in (Reclaim(), Interrupt(3, 1, True)):
            self.worker.poke(message)
            self.assertEqual(self.received(), [message])
        self.assertEqual(self.home.signals, [(7, POKE, False)] * 2)

    def assert_at_fault(self, *reported, why):
        """Assert that the worker is killed, that only so much was reported, and that one line says why."""
        killed = (7, signal.SIGKILL, True)
        self.assertEqual((self.home.signals, self.events), ([killed], [*reported, ("condemned", 7)]))
        self.send(DONE, Ready())  # whatever it sends until it is dead
        self.home.kept_lines = encode(DONE)
        self.reap(-9, out_of_memory=False)
        ending = self.gone()
        self.assertIn(why, ending.reason)
        self.assertEqual((ending.code, self.home.signals), (-9, [killed]))
        self.assertEqual(self.events[len(reported) + 1 :], [("gone", 7, ending)])
        [line] = self.logged
        self.assertIn(ending.reason, line)

    def test_a_worker_that_sends_nonsense_is_killed(self):
        self.born()
        os.write(self.channel, b'["hello"]\n')
        self.reactor.turn()
        self.assert_at_fault(why="lines that cannot be decoded, b'[\"hello\"]'")

    def test_messages_before_the_nonsense_count(self):
        self.born()
        os.write(self.channel, encode(DONE) + b"\xff\x00\n" + encode(DONE))
        self.reactor.turn()
        self.assert_at_fault(("messages", 7, [DONE]), why="cannot be decoded")

    def test_a_worker_that_is_ready_twice_is_killed(self):
        self.born()
        self.send(Ready(), Ready())
        self.assert_at_fault(("ready", 7), why="ready, for the second time")

    def test_a_worker_that_returns_the_task_that_it_has_begun_is_killed(self):
        self.born()
        self.send(Returned([4]), Returned([5, 3]))
        self.assert_at_fault(("messages", 7, [Returned([4])]), why="has not begun task 3")

    def test_a_worker_whose_message_the_observer_rejects_is_killed(self):
        self.born()
        self.impossible = "an outcome of task 3"
        self.send(DONE)
        self.assert_at_fault(why="an outcome of task 3")

    def test_a_worker_may_have_left_nonsense_on_the_board(self):
        self.born()
        self.home.kept_lines = b"nonsense\n"
        self.reap(-11)
        self.assertIn("it left what no worker leaves", self.gone().reason)
        self.assertEqual([event[0] for event in self.events], ["gone"])

    def test_a_worker_at_fault_that_ends_by_itself_is_logged_all_the_same(self):
        self.born()
        self.send(Ready(), Ready())
        self.worker.retire()
        self.reap(0)
        self.assertEqual(len(self.logged), 1)

    def test_the_output_of_a_task_is_logged_before_its_outcome_is_passed_on(self):
        self.born()
        os.write(self.output, b"half a line")
        self.send(DONE)
        self.assertEqual(self.logged, [f"TaskWorker[{2**22 + 7}] f #3: half a line"])
        self.known.clear()
        os.write(self.output, b"more\n")
        self.reactor.turn()
        self.assertEqual(self.logged[1:], [f"TaskWorker[{2**22 + 7}] no task: more"])

    # --- its suspension ---

    def test_a_worker_that_is_stopped_without_a_task_is_killed_after_a_while(self):
        self.known.clear()
        self.born()
        self.worker.suspended(is_suspended=True)
        self.reactor.advance(SUSPENDED_SECONDS - 0.1)
        self.assertEqual(self.home.signals, [])
        self.reactor.advance(0.1)
        self.assertEqual(self.home.signals, [(7, signal.SIGKILL, True)])
        self.assertEqual(self.events, [("condemned", 7)])
        self.reap(-9, out_of_memory=False)
        self.assertEqual((self.gone().code, self.gone().reason), (-9, "it was stopped by a signal for 5 s"))

    def test_a_worker_that_is_stopped_for_a_moment_is_left_alone(self):
        self.known.clear()
        self.born()
        self.worker.suspended(is_suspended=True)
        self.reactor.advance(SUSPENDED_SECONDS - 0.1)
        self.worker.suspended(is_suspended=False)
        self.reactor.advance(SUSPENDED_SECONDS)
        self.assertEqual((self.home.signals, self.logged), ([], []))

    def test_a_task_that_a_stopped_worker_has_begun_may_go_on(self):
        self.born()
        self.worker.suspended(is_suspended=True)
        self.reactor.pump([SUSPENDED_SECONDS] * 3)
        self.assertEqual(self.home.signals, [])
        name = f"worker 7 (process {2**22 + 7})"
        [line] = self.logged
        self.assertTrue(line.startswith(f"{name} was stopped by a signal while it runs f #3: kill -CONT"))
        self.worker.suspended(is_suspended=False)
        self.reactor.advance(SUSPENDED_SECONDS)
        self.assertEqual(self.logged[1:], [f"{name} goes on, or has ended"])

    def test_tasks_that_wait_behind_that_one_are_given_to_another_worker(self):
        self.born()
        self.worker.suspended(is_suspended=True)
        self.reactor.advance(SUSPENDED_SECONDS)
        self.known[4] = TaskLabel("f", 4)
        self.reactor.advance(SUSPENDED_SECONDS)
        self.assertEqual(self.home.signals, [(7, signal.SIGKILL, True)])

    # --- its end ---

    def gone(self):
        [(_, number, ending)] = [event for event in self.events if event[0] == "gone"]
        self.assertEqual((number, self.home.forgotten), (7, [7]))
        self.assertEqual((self.reactor.readers, self.reactor.getDelayedCalls()), (set(), []))
        return ending

    def test_messages_of_a_worker_are_passed_on_before_its_exit(self):
        self.born()
        os.write(self.channel, encode(DONE))
        self.hang_up()
        self.reap(3)
        self.assertEqual([event[0] for event in self.events], ["messages", "gone"])
        self.assertEqual(self.gone(), WorkerExit(3, begun=3, peak_kib=1000))
        self.assertEqual(self.logged, [f"worker 7 (process {2**22 + 7}) ended: exit status 3"])

    def test_a_child_process_that_keeps_the_channel_open_does_not_delay_the_end(self):
        self.born()
        os.write(self.channel, encode(DONE))
        self.reap(-9, out_of_memory=True)
        self.assertEqual([event[0] for event in self.events], ["messages", "gone"])
        self.assertTrue(self.gone().out_of_memory)

    def test_a_worker_that_closes_its_channel_and_does_not_end_is_killed(self):
        self.born()
        self.send(Ready())
        self.hang_up()
        self.reactor.turn()
        self.reactor.advance(EXIT_TIMEOUT - 0.1)
        self.assertEqual(self.home.signals, [])
        self.reactor.advance(0.1)
        self.assertEqual(self.home.signals, [(7, signal.SIGKILL, True)])
        self.reap(-9)
        self.assertTrue(self.gone().was_ready)

    def test_a_retired_worker_sees_the_end_of_its_channel_and_logs_no_warning(self):
        self.born()
        self.worker.retire()
        self.assertEqual(os.read(self.channel, 10), b"")
        self.hang_up()
        self.reactor.turn()
        self.reap(0)
        self.assertEqual((self.gone().code, self.logged, self.home.signals), (0, [], []))

    def test_a_retired_worker_that_does_not_end_is_killed(self):
        self.born()
        self.worker.retire()
        self.reactor.advance(EXIT_TIMEOUT)
        self.assertEqual(self.home.signals, [(7, signal.SIGKILL, True)])

    def test_a_worker_that_cannot_be_forked_ends(self):
        self.worker.forked(None, "out of processes")
        self.reactor.turn()
        self.assertEqual((self.gone().code, self.gone().reason), (None, "fork: out of processes"))

    def test_a_worker_ends_with_its_fork_server(self):
        self.born()
        self.worker.fork_server_ended("signal 9")
        self.worker.fork_server_ended("once more")
        self.reactor.turn()
        self.assertEqual(self.gone().reason, "the fork server ended (signal 9)")

    def test_a_worker_that_ended_before_its_fork_server_keeps_its_own_exit(self):
        self.born()
        self.worker.reaped(Exited(7, 3, 1000))
        self.worker.fork_server_ended("signal 9")
        self.reactor.turn()
        self.assertEqual(self.gone().code, 3)

    def test_unsent_outcomes_on_the_board_are_passed_on_once(self):
        self.born()
        ended_before = Done(2, 0.1, False, Raw(b"1"))
        self.home.kept_lines = b"".join(map(encode, (ended_before, Returned([4]), DONE)))
        self.reap(-9)
        self.assertEqual(self.events[0], ("messages", 7, [DONE]))
        self.gone()

    def test_the_stack_of_a_crash_is_part_of_its_exit(self):
        self.born()
        os.write(
            self.output, b'Current thread 0x1 (most recent call first):\n  File "/a/b.py", line 3 in f\n'
        )
        self.reap(-11)
        self.assertEqual(self.gone().stack, ("b.py:3 in f",))

    # --- memory, descriptors, stages ---

    def test_memory_is_read_from_the_process_of_the_worker(self):
        self.assertIsNone(self.worker.memory_kib())
        self.worker.forked(os.getpid(), "")
        self.assertGreater(self.worker.memory_kib(), 1000)
        self.worker.pid = 2**22 + 7  # not to be killed with its fork server
        self.assertIsNone(self.worker.memory_kib())

    def test_the_descriptors_are_closed_once_the_worker_is_forked(self):
        channel, output = self.worker.descriptors
        self.born()
        self.assertEqual(self.worker.descriptors, ())
        for descriptor in (channel, output):
            self.assertRaises(OSError, os.fstat, descriptor)

    def test_a_process_ends_once(self):
        self.born()
        self.reap(0)
        self.assertRaises(StateError, self.worker.reaped, Exited(7, 0, 1000))
        self.assertIn("gone", repr(self.worker))

    def test_every_stage_is_in_the_table_and_only_gone_is_final(self):
        self.assertEqual(set(PROCESS_STEPS), set(WorkerStage))
        self.assertEqual([stage for stage, steps in PROCESS_STEPS.items() if not steps], [WorkerStage.GONE])
        self.assertLessEqual(set(itertools.chain(*PROCESS_STEPS.values())), set(WorkerStage))
