"""Which store a daemon opens, when, and what it reports of that."""

import os
import threading

from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.opening import Opening, StoreChoice
from taskd.durable.writer import StoreWriter
from taskd.functions.durability import Durability
from taskd.functions.registry import FunctionInfo
from taskd.store.base import StoreError
from taskd.store.records import New


def function(name, durable):
    return FunctionInfo(name, "", "", {}, durable=Durability() if durable else None)


class Reactor(MemoryReactorClock):
    """A reactor to which the thread of a store reports at once."""

    def callFromThread(self, function, *args):
        function(*args)


class OpeningCase(SynchronousTestCase):
    def setUp(self):
        self.path = os.path.join(self.mktemp(), "taskd.db")
        os.makedirs(os.path.dirname(self.path))
        self.logged = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def opening(self, description=None):
        choice = StoreChoice(description or f"sqlite:{self.path}", is_default=description is None)
        opening = Opening(Reactor(), choice)
        self.addCleanup(opening.end_threads)
        self.addCleanup(opening.store.close)
        return opening

    def warnings(self):
        return [each["log_format"] for each in self.logged if each["log_level"] is LogLevel.warn]


class DefaultTests(OpeningCase):
    def test_a_durable_function_has_the_file_made(self):
        opening = self.opening()
        self.assertFalse(os.path.exists(self.path))
        opening.use([function("f", True), function("g", False)])
        self.assertTrue(opening.store.is_lasting)
        (line,) = [each for each in self.logged if each["log_namespace"] == "taskd.store"]
        self.assertEqual((line["path"], line["durable"]), (self.path, "f"))

    def test_without_a_durable_function_there_is_no_file(self):
        opening = self.opening()
        opening.use([function("g", False)])
        self.assertFalse(opening.store.is_lasting)
        self.assertFalse(os.path.exists(self.path))
        self.assertEqual(self.logged, [])

    def test_a_file_that_is_there_and_not_used_is_reported(self):
        open(self.path, "w").close()
        self.opening().use([function("g", False)])
        self.assertIn("no function is durable", self.warnings()[0])

    def test_functions_that_are_executed_before_run_once_the_store_is_open(self):
        opening = self.opening()
        done = opening.execute(lambda: opening.store.counts())
        self.assertNoResult(done)
        opening.use([function("g", False)])
        self.assertEqual(self.successResultOf(done), {})

    def test_tasks_submitted_before_the_store_is_open_wait_for_it(self):
        opening = self.opening()
        clock = Clock()
        writer = StoreWriter(opening.store, opening.execute, clock, clock.seconds, lambda claims, wants: None)
        accepted = []
        writer.submit(New("t", "f"), accepted.append)
        clock.advance(0)
        self.assertEqual(accepted, [])
        opening.use([function("g", False)])
        clock.advance(0)
        self.assertEqual([each.id for each in accepted], ["t"])

    def test_a_file_that_cannot_be_opened_is_an_error_that_names_the_choices(self):
        os.makedirs(self.path)
        opening = self.opening()
        held = opening.execute(list)
        opening.use([function("f", True)])
        self.assertIn("--store memory", str(opening.error))
        self.failureResultOf(held, StoreError)
        self.failureResultOf(opening.execute(list), StoreError)

    def test_a_stop_before_the_functions_are_known_opens_nothing(self):
        opening = self.opening()
        held = opening.execute(list)
        opening.give_up()
        self.failureResultOf(held, StoreError)
        self.assertFalse(os.path.exists(self.path))

    def test_functions_that_become_durable_later_are_warned_of(self):
        opening = self.opening()
        opening.use([function("g", False)])
        opening.use([function("g", True)])
        self.assertFalse(opening.store.is_lasting)
        self.assertIn("although durable", self.warnings()[0])


class NamedTests(OpeningCase):
    def test_a_store_that_was_named_is_opened_at_once(self):
        opening = self.opening(f"sqlite:{self.path}")
        self.assertTrue(os.path.exists(self.path))
        opening.use([function("f", True)])
        self.assertEqual(self.warnings(), [])

    def test_memory_for_durable_functions_is_warned_of(self):
        opening = self.opening("memory")
        opening.use([function("f", True)])
        self.assertIn("the store is memory", self.warnings()[0])

    def test_an_error_of_memory_is_passed_on(self):
        opening = self.opening("memory")
        self.failureResultOf(opening.execute(lambda: 1 / 0), ZeroDivisionError)

    def test_reading_does_not_wait_for_writing(self):
        opening = self.opening(f"sqlite:{self.path}")
        is_written, is_read = threading.Event(), threading.Event()
        self.addCleanup(is_written.set)
        opening.execute(is_written.wait)
        opening.read(is_read.set)
        self.assertTrue(is_read.wait(60))
