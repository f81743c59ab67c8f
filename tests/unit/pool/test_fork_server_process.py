"""One fork server process, whose child process is the test's own."""

import os
import signal
import socket
from types import SimpleNamespace

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from taskd.pool.fork_server_process import (
    ANSWER_TIMEOUT,
    EXIT_TIMEOUT,
    LOOK_INTERVAL,
    MAX_FORKS,
    PROBE_INTERVAL,
    SLOW_IMPORT,
    ForkServerProcess,
    describe_end,
)
from taskd.worker.guard import DESCRIPTORS_GONE
from taskd.worker.messages import (
    POKE,
    Exited,
    Fork,
    Forked,
    Loaded,
    LoadFailed,
    Probe,
    Signal,
    Suspended,
    WorkerConfig,
    decode_config,
    decode_to_fork_server,
    encode,
)
from tests.unit.descriptors import open_descriptors
from tests.unit.pool.processes import FUNCTIONS, FakeReactor

CONFIG = WorkerConfig(["app"], "/srv", "TaskWorker", 1000)
BOARD = 5


class Control(StringTransport):
    """The daemon's end of the control socket."""

    def __init__(self):
        super().__init__()
        self.descriptors = []
        self.shut_down = []
        self.ours, self.theirs = socket.socketpair()

    def sendFileDescriptor(self, descriptor):
        self.descriptors.append(descriptor)

    def getHandle(self):
        return SimpleNamespace(shutdown=self.shut_down.append, fileno=self.ours.fileno)


class ForkServerReactor(FakeReactor):
    """A reactor that adopts one control socket, and whose child process is the test's own."""

    def __init__(self):
        super().__init__()
        self.control = Control()
        self.signals = []
        self.cannot_start = None

    def adoptStreamConnection(self, descriptor, family, factory):
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.control)

    def start_child(self, reactor, command, directory, passed, output, ended):
        if self.cannot_start:
            raise self.cannot_start
        self.command, self.directory, self.passed = command, directory, passed
        self.output, self.ended = os.dup(output), ended
        return SimpleNamespace(
            pid=os.getppid(),
            signal=self.signals.append,
            kill_group=lambda: self.signals.append("group"),
        )


class ForkServerProcessTests(SynchronousTestCase):
    def setUp(self):
        self.events = []
        self.logged = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)
        self.reactor = ForkServerReactor()
        self.process = self.start()
        self.addCleanup(os.close, self.reactor.output)
        self.addCleanup(self.reactor.control.theirs.close)
        self.addCleanup(self.reactor.control.ours.close)
        self.config = self.sent()

    def start(self):
        return ForkServerProcess(self.reactor, CONFIG, BOARD, self, self.reactor.start_child)

    def texts(self):
        """The messages in the log."""
        return [event["log_format"].format(**event) for event in self.logged]

    # --- its observer ---

    def app_loaded(self, functions):
        self.events.append(("loaded", functions))

    def app_failed(self, reason):
        self.events.append(("failed", reason))

    def worker_forked(self, number, pid, reason):
        self.events.append(("forked", number, pid, reason))

    def worker_reaped(self, exited):
        self.events.append(("reaped", exited))

    def worker_suspended(self, number, *, is_suspended):
        self.events.append(("suspended", number, is_suspended))

    def fork_server_ended(self, how):
        self.events.append(("ended", how))

    # --- its process ---

    def sent(self):
        lines = self.reactor.control.value().splitlines()
        self.reactor.control.clear()
        return lines

    def send(self, *messages):
        self.reactor.protocol.dataReceived(b"".join(map(encode, messages)))

    def exit(self, status=0):
        self.reactor.ended(status)
        self.reactor.turn()

    def wait(self, seconds):
        """Let time pass in a daemon that is not busy."""
        self.reactor.pump([LOOK_INTERVAL] * round(seconds / LOOK_INTERVAL))

    def hang_up(self):
        self.reactor.protocol.connectionLost(Failure(ConnectionDone()))

    def test_a_fork_server_is_started_in_the_directory_of_the_app_and_sent_its_configuration(self):
        self.assertEqual([decode_config(line) for line in self.config], [CONFIG])
        control, board = self.reactor.passed
        self.assertEqual(
            self.reactor.command[1:], ["-P", "-m", "taskd.worker.fork_server", str(control), str(board)]
        )
        self.assertEqual((self.reactor.directory, board), ("/srv", BOARD))

    def test_a_fork_server_that_cannot_be_started_leaves_nothing_open(self):
        self.reactor.control = control = Control()
        self.addCleanup(control.theirs.close)
        self.addCleanup(control.ours.close)
        before = open_descriptors()
        self.reactor.cannot_start = FileNotFoundError("/srv")
        self.assertRaises(FileNotFoundError, self.start)
        self.reactor.turn()
        self.assertTrue(self.reactor.control.disconnected)
        self.hang_up()
        self.assertEqual((open_descriptors(), self.events), (before, []))

    def test_a_fork_server_that_cannot_be_sent_its_configuration_is_ended_and_leaves_nothing_open(self):
        self.reactor.control = control = Control()
        self.addCleanup(control.theirs.close)
        self.addCleanup(control.ours.close)
        self.patch(control, "write", lambda _: os.read(-1, 0))
        before = open_descriptors()
        self.assertRaises(OSError, self.start)
        self.addCleanup(os.close, self.reactor.output)
        self.assertEqual(self.reactor.signals, ["group"])
        self.exit(-signal.SIGKILL)
        self.hang_up()
        # The test's own copy of the output is open.
        self.assertEqual((open_descriptors(), self.events), (before + 1, []))

    def test_reports_of_the_fork_server_are_passed_on(self):
        exited = Exited(1, 0, 1000)
        self.send(LoadFailed("SyntaxError"), Loaded(FUNCTIONS), Forked(1, 100), Forked(2, None, "no"), exited)
        self.send(Suspended(1, True))
        self.assertEqual(
            self.events,
            [
                ("failed", "SyntaxError"),
                ("loaded", FUNCTIONS),
                ("forked", 1, 100, ""),
                ("forked", 2, None, "no"),
                ("reaped", exited),
                ("suspended", 1, True),
            ],
        )

    def test_workers_forked_in_one_turn_are_ordered_together_in_bounded_messages(self):
        for number in range(MAX_FORKS + 1):
            self.process.fork(number, number + 1000, 2 * number, 2 * number + 1)
        self.assertEqual(self.sent(), [])
        self.reactor.advance(0)
        first, second = [decode_to_fork_server(line) for line in self.sent()]
        self.assertEqual(first, Fork([(number, number + 1000) for number in range(MAX_FORKS)]))
        self.assertEqual(second, Fork([(MAX_FORKS, MAX_FORKS + 1000)]))
        self.assertEqual(self.reactor.control.descriptors, list(range(2 * MAX_FORKS + 2)))

    def test_a_signal_does_not_overtake_the_fork_of_its_worker(self):
        self.process.fork(1, 2, 3, 4)
        self.process.signal(1, 15, group=True)
        self.assertEqual(
            [decode_to_fork_server(line) for line in self.sent()], [Fork([(1, 2)]), Signal(1, 15, True)]
        )

    def test_a_fork_server_whose_end_has_not_been_reported_yet_is_sent_no_descriptors(self):
        self.process.fork(1, 2, 3, 4)
        self.hang_up()
        self.process.signal(1, 15, group=True)
        self.process.fork(2, 2, 3, 4)
        self.reactor.turn()
        self.assertEqual(self.reactor.control.descriptors, [])

    def test_a_fork_server_whose_end_has_not_been_reported_yet_is_not_looked_at(self):
        self.process.signal(1, signal.SIGKILL, group=True)
        self.hang_up()
        self.reactor.control.getHandle = None  # as a lost transport has no socket
        self.process.signal(2, signal.SIGKILL, group=True)
        self.reactor.advance(LOOK_INTERVAL)
        self.assertEqual(self.reactor.signals, [])

    def test_a_closed_fork_server_is_killed_if_it_does_not_end_in_time(self):
        self.process.close()
        self.assertTrue(self.reactor.control.disconnecting)
        self.reactor.advance(EXIT_TIMEOUT - 0.1)
        self.assertEqual(self.reactor.signals, [])
        self.reactor.advance(0.1)
        self.assertEqual(self.reactor.signals, [signal.SIGKILL])

    def test_a_closed_fork_server_that_ends_in_time_is_not_killed(self):
        self.process.close()
        self.exit()
        self.assertEqual((self.reactor.getDelayedCalls(), self.reactor.signals), ([], []))

    def test_an_aborted_fork_server_is_killed_at_once(self):
        self.process.abort()
        self.reactor.advance(0)
        self.assertEqual(self.reactor.signals, [signal.SIGKILL])

    def test_the_end_of_a_fork_server_is_reported_after_all_its_messages(self):
        self.exit(1)
        self.assertEqual(self.reactor.control.shut_down, [socket.SHUT_RD])
        self.send(Exited(1, 0, 1000))
        self.assertEqual([event[0] for event in self.events], ["reaped"])
        self.hang_up()
        self.assertEqual(self.events[-1], ("ended", "exit status 1"))

    def test_the_signal_that_ended_a_fork_server_is_named(self):
        self.hang_up()
        self.exit(-signal.SIGKILL)
        self.assertEqual(self.events, [("ended", "killed by SIGKILL")])

    def test_an_exit_status_of_taskd_is_explained(self):
        self.assertIn("the app closed descriptors", describe_end(DESCRIPTORS_GONE, while_importing=False))

    def test_an_exit_during_the_import_is_explained_unless_it_has_a_traceback(self):
        self.assertIn("os._exit", describe_end(7, while_importing=True))
        self.assertEqual(describe_end(7, while_importing=False), "exit status 7")
        self.assertEqual(describe_end(1, while_importing=True), "exit status 1")

    def test_the_end_of_a_closed_fork_server_does_not_wait_for_other_processes_with_its_socket(self):
        self.process.close()
        self.exit()
        self.assertTrue(self.reactor.control.disconnected)

    def test_a_fork_server_that_closes_its_socket_and_does_not_end_is_killed(self):
        self.hang_up()
        self.reactor.advance(EXIT_TIMEOUT)
        self.assertEqual(self.reactor.signals, [signal.SIGKILL])

    def test_a_fork_server_that_sends_nonsense_is_disconnected(self):
        self.reactor.protocol.dataReceived(b'["hello"]\n' + encode(Loaded(FUNCTIONS)))
        self.assertTrue(self.reactor.control.disconnected)
        self.assertEqual(self.events, [])

    def test_the_output_of_the_app_is_logged_even_if_another_process_has_the_pipe_open(self):
        os.write(self.reactor.output, b"one\ntw\xff\nthree")
        self.exit()
        self.assertEqual(self.texts(), ["one", "tw\\xff", "three"])

    def test_the_records_of_the_app_are_logged_with_their_level(self):
        os.write(self.reactor.output, b"one\n\x1e4broken\x1fhere\n")
        self.exit()
        self.assertEqual(self.texts(), ["one", "broken\nhere"])
        self.assertEqual([event["log_level"].name for event in self.logged], ["info", "error"])

    def test_the_files_of_the_apps_and_warnings_are_logged(self):
        self.send(Loaded(FUNCTIONS, {"app": "/srv/app.py"}, ["a thread"]))
        self.assertEqual(self.texts(), ["the app app was loaded from /srv/app.py", "a thread"])
        self.assertEqual([event["log_level"].name for event in self.logged], ["info", "warn"])

    def test_the_log_shows_where_a_slow_import_is(self):
        self.reactor.advance(SLOW_IMPORT)
        self.assertEqual(self.reactor.signals, [POKE])
        self.assertEqual(self.texts(), ["the app is still being imported after 10 s; it is at:"])

    def test_an_import_that_has_ended_in_time_is_not_slow(self):
        self.send(Loaded(FUNCTIONS))
        self.reactor.advance(SLOW_IMPORT)
        self.assertEqual(self.reactor.signals, [])

    def test_a_fork_server_that_does_not_read_the_order_to_kill_a_worker_is_killed(self):
        self.send(Loaded(FUNCTIONS))
        self.reactor.control.ours.send(b"unread")
        self.process.signal(1, signal.SIGKILL, group=True)
        self.wait(ANSWER_TIMEOUT - 1)
        self.send(Exited(2, 0, 1000))  # it is slow, but it works
        self.wait(ANSWER_TIMEOUT - 1)
        self.assertEqual(self.reactor.signals, [])
        self.wait(1)
        self.assertEqual(self.reactor.signals, [signal.SIGKILL])
        self.assertEqual(
            self.texts(), ["the fork server has read nothing for 10 s (stopped, or hanging), and is killed"]
        )

    def test_a_fork_server_whose_worker_cannot_end_is_left_alone_if_it_reads(self):
        self.send(Loaded(FUNCTIONS))
        self.process.signal(1, signal.SIGKILL, group=True)
        self.wait(ANSWER_TIMEOUT)
        self.assertEqual((self.reactor.signals, self.texts()), ([], []))

    def test_a_fork_server_that_does_not_read_the_order_to_fork_is_killed(self):
        self.send(Loaded(FUNCTIONS))
        self.process.fork(1, 2, 3, 4)
        self.reactor.advance(0)
        self.reactor.control.ours.send(b"unread")
        self.wait(ANSWER_TIMEOUT)
        self.assertEqual(self.reactor.signals, [signal.SIGKILL])

    def test_a_busy_fork_server_with_something_unread_at_every_look_is_left_alone(self):
        self.send(Loaded(FUNCTIONS))
        sent = self.reactor.control.ours.send
        sent(b"unread")
        self.process.signal(1, signal.SIGKILL, group=True)
        for _ in range(int(2 * ANSWER_TIMEOUT / LOOK_INTERVAL)):
            sent(b"unread")
            self.reactor.advance(LOOK_INTERVAL)
            self.reactor.control.theirs.recv(100)
            sent(b"unread")
            self.reactor.advance(LOOK_INTERVAL)
        self.assertEqual(self.reactor.signals, [])

    def test_the_time_to_read_an_order_begins_with_that_order(self):
        self.send(Loaded(FUNCTIONS))
        self.process.signal(1, signal.SIGKILL, group=True)  # and it reads that
        self.wait(ANSWER_TIMEOUT - 1)
        self.process.signal(2, signal.SIGKILL, group=True)
        self.reactor.control.ours.send(b"unread")
        self.wait(ANSWER_TIMEOUT - 1)
        self.assertEqual(self.reactor.signals, [])
        self.wait(1)
        self.assertEqual(self.reactor.signals, [signal.SIGKILL])

    def test_a_fork_server_that_reads_no_probe_is_killed_though_nothing_else_is_asked_of_it(self):
        self.send(Loaded(FUNCTIONS))
        self.wait(3 * PROBE_INTERVAL)
        self.assertEqual([decode_to_fork_server(line) for line in self.sent()], [Probe()] * 3)
        self.assertEqual(self.reactor.signals, [])
        self.wait(LOOK_INTERVAL)
        self.reactor.control.ours.send(b"unread")
        self.wait(PROBE_INTERVAL + ANSWER_TIMEOUT - 2 * LOOK_INTERVAL)
        self.assertEqual(self.reactor.signals, [])
        self.wait(LOOK_INTERVAL)
        self.assertEqual(self.reactor.signals, [signal.SIGKILL])

    def test_no_probe_is_sent_during_the_import_nor_after_a_close_nor_after_the_end(self):
        self.wait(2 * PROBE_INTERVAL)
        self.assertEqual(self.sent(), [])
        self.send(Loaded(FUNCTIONS))
        self.process.close()
        self.wait(PROBE_INTERVAL)
        self.assertEqual(self.sent(), [])
        self.exit()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_fork_server_is_not_killed_for_what_it_leaves_unread_while_the_daemon_is_stopped_as_well(self):
        self.send(Loaded(FUNCTIONS))
        self.reactor.control.ours.send(b"unread")
        self.process.signal(1, signal.SIGKILL, group=True)
        self.reactor.advance(10 * ANSWER_TIMEOUT)
        self.assertEqual(self.reactor.signals, [])
        self.reactor.control.theirs.recv(100)
        self.wait(ANSWER_TIMEOUT)
        self.assertEqual(self.reactor.signals, [])

    def test_all_of_it_is_killed_without_the_reactor_but_no_process_that_is_not_its_own(self):
        for pid in 1, os.getppid():  # neither is a child of what stands for the fork server
            self.process.kill_child(pid)
        self.process.kill()
        self.assertEqual(self.reactor.signals, ["group"])
