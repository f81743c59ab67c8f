"""A pool without processes, and a server on it, whose workers and clients the tests control."""

import json
from types import SimpleNamespace

from msgspec import Raw
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import ImpossibleMessage, StateError
from taskd.functions.registry import FunctionInfo
from taskd.listeners.gate import Gate
from taskd.listeners.tcp import TaskFactory, TcpLimits
from taskd.listeners.wire import UnsentLimits
from taskd.pool.exits import WorkerExit
from taskd.pool.generations import CodeStatus
from taskd.protocol.framing import MAX_MESSAGE
from taskd.scheduler.config import SchedulerConfig
from taskd.scheduler.stats import KNOWN_SHORT
from taskd.server.task_server import ServerConfig
from taskd.worker.messages import NULL, Done, Failed, Reported, Returned, Stopped


def function(name, **more):
    """Describe a function as the fork server does."""
    return FunctionInfo(name, f"{name}()", f"What {name} does.", {}, **more)


class FakePool:
    """A pool with the interface of `taskd.pool.pool.Pool` that records its orders.

    As with the real one, a worker that does not exist cannot be reached, and
    messages stay in order. The suite tests/contracts/test_pools.py runs with both.
    """

    def __init__(self, observer):
        self.observer = observer
        self.loaded = Deferred()
        self.generation = 1
        self.next = None
        self.abandoned = []
        self.can_start = True
        self.last_number = 0
        self.workers = {}
        self.orders = []
        """All orders except tasks: (what, worker, …)."""
        self.is_closing = False
        self.closed = Deferred()
        self.printed_stacks = ""
        self.output = {}
        """The tail of what a task has printed, by the numbers of its worker and its own."""

    # --- `Pool` ---

    def start_worker(self, generation):
        if not self.can_start or self.is_closing or generation not in (self.generation, self.next):
            return None
        self.last_number += 1
        self.workers[self.last_number] = SimpleNamespace(
            generation=generation, attempts=[], begun=0, is_ready=False, memory=1000
        )
        return self.last_number

    def send(self, number, attempts):
        self.workers[number].attempts += attempts

    def read_on(self, number):
        self.orders.append(("read on", number))

    def drop_result(self, number):
        self.orders.append(("drop result", number))

    def begun(self, number):
        return self.workers[number].begun

    def stacks(self, number):
        assert number in self.workers
        return succeed(self.printed_stacks)

    def printed(self, number, task):
        return self.output.get((number, task), "")

    def retire(self, number):
        assert number in self.workers
        self.orders.append(("retire", number))

    def interrupt(self, number, message):
        assert number in self.workers
        self.orders.append(("interrupt", number, message))

    def reclaim(self, number):
        assert number in self.workers
        self.orders.append(("reclaim", number))

    def signal(self, number, signal_number=9):
        self.orders.append(("signal", number, signal_number))

    def memory_kib(self, number):
        worker = self.workers.get(number)
        return worker.memory if worker else None

    def pid(self, number):
        return 1000 + number if number in self.workers else None

    def code_status(self):
        return CodeStatus("ready")

    def reload(self):
        if not self.loaded.called or self.is_closing:
            return None
        self.abandon_next()
        self.next = self.generation + 1 + len(self.abandoned)
        return self.next

    def switch(self):
        if self.next is None:
            raise StateError("there is nothing to switch to")
        self.generation, self.next = self.next, None

    def abandon_next(self):
        if self.next is not None:
            self.abandoned.append(self.next)
            self.next = None

    def close(self):
        self.is_closing = True
        self.check_closed()
        return self.closed

    def abort(self):
        self.orders.append(("abort",))

    def check_closed(self):
        if self.is_closing and not self.workers and not self.closed.called:
            self.closed.callback(None)

    # --- what its processes do ---

    def load(self, *functions, generation=1):
        """Report that the app is imported."""
        self.observer.code_loaded(generation, list(functions))
        if not self.loaded.called:
            self.loaded.callback(None)

    def ready(self, *numbers):
        """Report these workers as ready; without arguments, all that are not ready yet."""
        for number in numbers or [n for n, worker in self.workers.items() if not worker.is_ready]:
            self.workers[number].is_ready = True
            self.observer.worker_ready(number)

    def begin(self, number):
        """Let a worker begin its first attempt."""
        attempt = self.workers[number].attempts[0]
        self.workers[number].begun = attempt.task
        return attempt

    def finish(self, number, value=b"1", seconds=0.1):
        """Let a worker return the result of its first task."""
        attempt = self.begin(number)
        self._end(number, Done(attempt.task, seconds, False, Raw(value)))

    def fail(self, number, code=-32000, message="no", data=NULL, traceback="trace", **more):
        attempt = self.begin(number)
        self._end(number, Failed(attempt.task, 0.1, False, code, message, Raw(data), traceback, **more))

    def stop_task(self, number, traceback=None):
        """Let the first task of a worker end because it was interrupted."""
        attempt = self.begin(number)
        self._end(number, Stopped(attempt.task, 0.1, False, traceback))

    def _end(self, number, message):
        self.workers[number].attempts.pop(0)
        self.observer.worker_messages(number, [message])

    def say(self, number, *messages):
        """Let a worker send messages; as with the real one, an impossible one ends it."""
        try:
            self.observer.worker_messages(number, list(messages))
        except ImpossibleMessage as fault:
            self.signal(number)
            self.observer.worker_condemned(number)
            return str(fault)

    def report(self, number, done, total=None, message=None):
        attempt = self.begin(number)
        self.observer.worker_messages(number, [Reported(attempt.task, done, total, message)])

    def give_back(self, number, tasks):
        """Let a worker return tasks that it has not begun."""
        attempts = self.workers[number].attempts
        attempts[:] = [attempt for attempt in attempts if attempt.task not in tasks]
        self.observer.worker_messages(number, [Returned(tasks)])

    def lose(self, number, code=-9, **more):
        """Let a worker exit."""
        worker = self.workers.pop(number)
        ending = WorkerExit(code, worker.begun, was_ready=worker.is_ready, **more)
        self.observer.worker_exited(number, ending)
        self.check_closed()


class ServerCase(SynchronousTestCase):
    """A test case with a server on a fake pool, and connections to it."""

    def setUp(self):
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.logged = []

    def make(self, least=1, most=None, functions=None, loaded=True, **more):
        """Make a server with so many workers, all ready; its functions are f and g by default.

        With a `verifier`, its connections need tokens.
        """
        verifier = more.pop("verifier", None)
        timeout = more.pop("timeout", None)
        details = more.pop("error_details", "message")
        labels = more.pop("labels", ())
        config = SchedulerConfig(least, most or max(least, 1), **more)
        worker = SimpleNamespace(name="TaskWorker", max_result=MAX_MESSAGE, error_details=details)
        pool = SimpleNamespace(config=worker, start=self.start_pool)
        self.server = ServerConfig(pool, config, timeout, labels=labels).start(self.clock)
        limits = TcpLimits(unsent=UnsentLimits(max_unsent=1000))
        self.gate = None
        if verifier is not None:
            shared = config.shared_priorities
            self.gate = Gate(self.clock, verifier, now=self.clock.seconds, shared_priorities=shared)
        self.factory = TaskFactory(self.clock, self.server, limits, gate=self.gate)
        if loaded:
            self.pool.load(*(functions or [function("f"), function("g")]))
            self.turn()
            self.pool.ready()
            self.turn()
        return self.server

    def start_pool(self, reactor, observer):
        self.pool = FakePool(observer)
        return self.pool

    def make_short(self, name):
        """Run a function until it counts as short, even after a surprise; return the last number."""
        client = self.connect()
        for _ in range(2 * KNOWN_SHORT):
            client.call(name)
            [number] = [number for number, worker in self.pool.workers.items() if worker.attempts]
            self.pool.finish(number, seconds=0.0)
            self.turn()
        client.received()
        self.pool.orders.clear()
        return 2 * KNOWN_SHORT

    def turn(self, seconds=0.0):
        self.clock.advance(seconds)
        self.clock.advance(0)

    def connect(self, address="127.0.0.1"):
        return Connection(self, address)


class LoggingCase(ServerCase):
    """A test case that has what taskd logs as the lines of `logged`."""

    def setUp(self):
        super().setUp()
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)

    def log(self, event):
        if event.get("log_namespace", "").startswith("taskd") and "log_format" in event:
            self.logged.append(event["log_format"].format(**event))

    def has_logged(self, text):
        return any(text in line for line in self.logged)


class Connection:
    """A client's connection to the server, in memory."""

    def __init__(self, case, address):
        self.case = case
        self.last_id = 0
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", address, 50000))
        self.protocol = case.factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)

    def send(self, *messages):
        """Send messages, which the server receives in one read."""
        lines = b"".join(json.dumps(message, separators=(",", ":")).encode() + b"\n" for message in messages)
        self.protocol.dataReceived(lines)
        self.case.turn()

    def call(self, method="f", params=None, **options):
        """Send a request and return its id."""
        self.last_id += 1
        message = {"jsonrpc": "2.0", "id": self.last_id, "method": method}
        if params is not None:
            message["params"] = params
        if options:
            message["options"] = options
        self.send(message)
        return self.last_id

    def received(self):
        """Return the messages received since the last call of this method."""
        lines = self.transport.value().splitlines()
        self.transport.clear()
        return [json.loads(line) for line in lines]

    def reply(self):
        """Return the result or the error of the only message received."""
        [message] = self.received()
        return message.get("result", message.get("error"))

    def end_sending(self):
        self.protocol.readConnectionLost()
        self.case.turn()

    def disconnect(self):
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.case.turn()
