"""The pool of threads: what is known of a worker that was left alone."""

import queue
import threading

from msgspec import Raw
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.registry import Registry
from taskd.functions.stops import TaskCancelled
from taskd.protocol.framing import MAX_MESSAGE
from taskd.testing.pool import ThreadPoolConfig
from taskd.worker.messages import Attempt, WorkerConfig

LONG = 20.0
"""Seconds after which something that takes milliseconds will not happen any more."""


class Reactor(Clock):
    """A clock with the calls of threads, which the test makes one by one."""

    def __init__(self):
        super().__init__()
        self.asked = queue.Queue()

    def callFromThread(self, call, *args):
        self.asked.put((call, args))

    def make_call(self):
        call, args = self.asked.get(timeout=LONG)
        call(*args)


class Observer:
    """Notes what the pool reports of its workers."""

    def __init__(self):
        self.noted = []

    def code_loaded(self, generation, functions):
        self.noted.append("loaded")

    def worker_ready(self, number):
        self.noted.append("ready")

    def worker_messages(self, number, messages):
        self.noted.append(messages)

    def worker_exited(self, number, ending):
        self.noted.append("exited")


class ThreadPoolTests(SynchronousTestCase):
    def test_reports_of_a_worker_that_was_left_alone_are_dropped(self):
        begun, stopped = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            try:
                while not stopped.wait(0.001):
                    pass
            except TaskCancelled:
                stopped.set()
                raise

        registry, reactor, observer = Registry(), Reactor(), Observer()
        registry.add(wait)
        config = WorkerConfig([], ".", "TaskWorker", MAX_MESSAGE)
        pool = ThreadPoolConfig(registry, config).start(reactor, observer)
        reactor.advance(0)
        number = pool.start_worker(1)
        reactor.make_call()
        pool.send(number, [Attempt(1, 1, "wait", Raw(b"null"), 0)])
        self.assertTrue(begun.wait(LONG))
        pool.signal(number)
        self.assertTrue(stopped.wait(LONG))
        reactor.make_call()  # the end of the task, and then that of the thread
        reactor.make_call()
        reactor.advance(0)
        self.assertEqual(observer.noted, ["loaded", "ready", "exited"])
