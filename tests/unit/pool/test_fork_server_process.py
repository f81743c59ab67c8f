"""One fork server process, with a reactor that starts no processes."""

import signal
from types import SimpleNamespace

from twisted.internet.error import ConnectionDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from taskd.pool.fork_server_process import EXIT_TIMEOUT, MAX_FORKS, ForkServerProcess
from taskd.worker.messages import (
    Exited,
    Fork,
    Forked,
    Loaded,
    LoadFailed,
    Signal,
    WorkerConfig,
    decode_config,
    decode_to_fork_server,
    encode,
)
from tests.unit.pool.processes import FUNCTIONS

CONFIG = WorkerConfig(["app"], "/srv", "TaskWorker", 1000, True)
BOARD = 5


class Control(StringTransport):
    """The daemon's end of the control socket."""

    def __init__(self):
        super().__init__()
        self.descriptors = []

    def sendFileDescriptor(self, descriptor):
        self.descriptors.append(descriptor)


class ForkServerReactor(Clock):
    """A reactor that starts no process, and adopts one control socket."""

    def __init__(self):
        super().__init__()
        self.control = Control()
        self.signals = []
        self.is_gone = False

    def adoptStreamConnection(self, descriptor, family, factory):
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.control)

    def spawnProcess(self, protocol, executable, args, **more):
        self.process, self.args, self.started = protocol, args, more
        return SimpleNamespace(signalProcess=self.signal_process)

    def signal_process(self, name):
        if self.is_gone:
            raise ProcessExitedAlready
        self.signals.append(name)


class ForkServerProcessTests(SynchronousTestCase):
    def setUp(self):
        self.events = []
        self.reactor = ForkServerReactor()
        self.process = ForkServerProcess(self.reactor, CONFIG, BOARD, self)
        self.config = self.sent()

    # --- its observer ---

    def app_loaded(self, functions):
        self.events.append(("loaded", functions))

    def app_failed(self, reason):
        self.events.append(("failed", reason))

    def worker_forked(self, number, pid, reason):
        self.events.append(("forked", number, pid, reason))

    def worker_reaped(self, exited):
        self.events.append(("reaped", exited))

    def fork_server_ended(self, how):
        self.events.append(("ended", how))

    # --- its process ---

    def sent(self):
        lines = self.reactor.control.value().splitlines()
        self.reactor.control.clear()
        return lines

    def send(self, *messages):
        self.reactor.protocol.dataReceived(b"".join(map(encode, messages)))

    def exit(self, code=0, signal_number=None):
        self.reactor.is_gone = True
        self.process.processEnded(Failure(ProcessTerminated(code, signal_number)))

    def hang_up(self):
        self.reactor.protocol.connectionLost(Failure(ConnectionDone()))

    def test_a_fork_server_is_started_in_the_directory_of_the_app_and_sent_its_configuration(self):
        self.assertEqual([decode_config(line) for line in self.config], [CONFIG])
        self.assertEqual(self.reactor.args[1:], ["-P", "-m", "taskd.worker.fork_server"])
        self.assertEqual((self.reactor.started["path"], self.reactor.started["childFDs"][4]), ("/srv", BOARD))

    def test_reports_of_the_fork_server_are_passed_on(self):
        exited = Exited(1, 0, 1000)
        self.send(LoadFailed("SyntaxError"), Loaded(FUNCTIONS), Forked(1, 100), Forked(2, None, "no"), exited)
        self.assertEqual(
            self.events,
            [
                ("failed", "SyntaxError"),
                ("loaded", FUNCTIONS),
                ("forked", 1, 100, ""),
                ("forked", 2, None, "no"),
                ("reaped", exited),
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

    def test_a_closed_fork_server_is_killed_if_it_does_not_end_in_time(self):
        self.process.close()
        self.assertTrue(self.reactor.control.disconnecting)
        self.reactor.advance(EXIT_TIMEOUT - 0.1)
        self.assertEqual(self.reactor.signals, [])
        self.reactor.advance(0.1)
        self.assertEqual(self.reactor.signals, ["KILL"])

    def test_a_closed_fork_server_that_ends_in_time_is_not_killed(self):
        self.process.close()
        self.exit()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_an_aborted_fork_server_is_killed_at_once(self):
        self.process.abort()
        self.reactor.advance(0)
        self.assertEqual(self.reactor.signals, ["KILL"])

    def test_aborting_a_fork_server_that_has_exited_sends_no_signal(self):
        self.reactor.is_gone = True
        self.process.abort()
        self.reactor.advance(0)
        self.assertEqual(self.reactor.signals, [])

    def test_the_end_of_a_fork_server_is_reported_after_all_its_messages(self):
        self.exit(1)
        self.send(Exited(1, 0, 1000))
        self.assertEqual([event[0] for event in self.events], ["reaped"])
        self.hang_up()
        self.assertEqual(self.events[-1], ("ended", "exit status 1"))

    def test_the_signal_that_ended_a_fork_server_is_named(self):
        self.hang_up()
        self.exit(None, signal.SIGKILL)
        self.assertEqual(self.events, [("ended", "signal 9")])

    def test_a_fork_server_that_sends_nonsense_is_disconnected(self):
        self.reactor.protocol.dataReceived(b'["hello"]\n' + encode(Loaded(FUNCTIONS)))
        self.assertTrue(self.reactor.control.disconnected)
        self.assertEqual(self.events, [])

    def test_the_output_of_the_app_is_logged(self):
        from twisted.logger import globalLogPublisher

        logged = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        self.process.outReceived(b"one\ntw\xff\n")
        self.process.errReceived(b"three")
        self.assertEqual([event["line"] for event in logged], ["one", "tw\\xff", "three"])
