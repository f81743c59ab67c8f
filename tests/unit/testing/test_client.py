"""The clients for tests: they answer as with a real server, whose workers are threads here."""

import asyncio
import contextlib
import gc
import os
import re
import threading
import time
import warnings
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from taskd import current_task, progress
from taskd.client import Client as RealClient
from taskd.errors import Cancelled, InvalidParams, MethodNotFound, NotAllowed, TaskFailed, TimedOut
from taskd.functions.durability import Durability
from taskd.functions.registry import Registry
from taskd.functions.schedule import Schedule
from taskd.functions.stops import TaskCancelled, TaskTimeout
from taskd.protocol.nesting import MAX_NESTING, MAX_VALUE_NESTING
from taskd.testing import AsyncClient, Client, MemoryServer
from taskd.testing.aio import FixtureClient

LONG = 20.0
"""Seconds after which something that takes milliseconds will not happen any more."""


def add(a: int, b: int = 1) -> int:
    return a + b


def keyword(from_: str) -> dict:
    return {"from": from_, "pair": (1, 2)}


def boom() -> None:
    raise ValueError("boom")


def nest(levels: int) -> object:
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


def count_on(upto: int) -> None:
    progress(0, upto)
    for number in range(upto):
        progress(number + 1)


def not_a_number() -> list[float]:
    return [float("nan")]


def no_number_of_steps() -> None:
    progress(float("nan"))


async def later(value: int) -> int:
    return value


left = []


async def leave_something_behind() -> None:
    left.append(asyncio.ensure_future(asyncio.sleep(3600)))


def numbers(count: int):
    yield from range(count)


async def async_numbers(count: int):
    for number in range(count):
        yield number


def who() -> list:
    task = current_task()
    return [task.id, task.attempt]


def third_time_lucky() -> int:
    attempt = current_task().attempt
    if attempt < 3:
        raise ValueError(attempt)
    return attempt


def functions_of(*functions):
    made = Registry()
    for function in functions:
        made.add(function)
    return made


def open_descriptors():
    """Count the open descriptors of this process by their kind: socket:[], anon_inode:[eventpoll]."""
    found = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the list itself
            found[re.sub(r"\d+", "", os.readlink(f"/proc/self/fd/{name}"))] += 1
    return found


class Gate:
    """A function that waits for the test, and what became of it."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.order = []
        self.stops = []

    def wait(self, name: str = "") -> str:
        self.order.append(name)
        self.entered.release()
        try:
            while not self.opened.wait(0.001):
                pass
        except (TaskCancelled, TaskTimeout) as stop:
            self.stops.append(str(stop))
            raise
        return name

    def has_begun(self):
        assert self.entered.acquire(timeout=LONG)


class CallTests(SynchronousTestCase):
    def make(self, *functions, **more):
        client = Client(functions_of(*functions), **more)
        self.addCleanup(client.close)
        return client

    def test_a_call_gives_what_a_server_would_give(self):
        client = self.make(add, keyword, later)
        self.assertEqual(client.call("add", a=2, b=3), 5)
        self.assertEqual(client.call("add", 2), 3)
        self.assertEqual(client.call("keyword", from_="x"), {"from": "x", "pair": [1, 2]})
        self.assertEqual(client.call("later", value=7), 7)
        self.assertIn("unix:", repr(client))

    def test_a_generator_function_returns_the_list_of_its_values(self):
        client = self.make(numbers, async_numbers)
        self.assertEqual(client.call("numbers", count=3), [0, 1, 2])
        self.assertEqual(client.call("async_numbers", count=3), [0, 1, 2])

    def test_progress_is_reported(self):
        seen = []
        client = self.make(count_on)
        client.with_options(on_progress=seen.append).call("count_on", upto=2)
        self.assertEqual(seen[0].done, 0)
        self.assertEqual((seen[-1].done, seen[-1].total), (2, None))
        client.call("count_on", upto=2)

    def test_progress_and_the_current_task_are_nothing_outside_of_a_task(self):
        self.make(add).call("add", 1)
        progress(1)
        self.assertEqual(current_task().number, 0)

    def test_errors_are_those_of_a_server(self):
        client = self.make(add, boom, not_a_number, no_number_of_steps)
        self.assertRaises(MethodNotFound, client.call, "nope")
        error = self.assertRaises(InvalidParams, client.call, "add", a="x")
        self.assertEqual(error.data["argument"], "a")
        error = self.assertRaises(TaskFailed, client.call, "boom")
        self.assertEqual(error.data, {"type": "ValueError", "message": "boom"})
        error = self.assertRaises(TaskFailed, client.call, "not_a_number")
        self.assertEqual(error.data["message"], "result[0] is nan, which JSON cannot hold")
        reporting = client.with_options(on_progress=lambda _: None)
        error = self.assertRaises(TaskFailed, reporting.call, "no_number_of_steps")
        self.assertEqual(error.message, "ValueError: progress takes finite numbers, not nan")

    def test_nesting_is_limited_as_by_a_server(self):
        client = self.make(nest)
        self.assertEqual(client.call("nest", levels=MAX_VALUE_NESTING), nest(MAX_VALUE_NESTING))
        for levels in MAX_VALUE_NESTING + 1, 20_000:
            self.assertRaises(TaskFailed, client.call, "nest", levels=levels)
        self.assertRaises(ValueError, client.call, "nest", nest(MAX_NESTING))

    def test_asyncio_tasks_that_a_function_leaves_behind_are_cancelled(self):
        client = self.make(leave_something_behind, later, workers=1)
        client.call("leave_something_behind")
        self.assertTrue(left.pop().cancelled())
        self.assertEqual(client.call("later", 1), 1)

    def test_a_time_limit_ends_a_function(self):
        gate = Gate()
        client = self.make(gate.wait, add)
        hurried = client.with_options(timeout=0.05)
        error = self.assertRaises(TimedOut, hurried.call, "wait")
        self.assertEqual(error.data["limit"], "timeout")
        self.assertEqual(gate.stops, ["the time limit is over"])
        self.assertEqual(client.call("add", 1), 2)

    def test_a_function_that_cannot_be_interrupted_ends_for_its_caller_all_the_same(self):
        opened = threading.Event()

        def deaf() -> None:
            opened.wait()

        client = self.make(deaf, add, workers=1)
        error = self.assertRaises(TimedOut, client.with_options(timeout=0.05).call, "deaf")
        self.assertTrue(error.data["killed"])
        self.assertEqual(client.call("add", 1), 2)
        opened.set()

    def test_an_async_function_is_cancelled_at_its_time_limit(self):
        ended = []

        async def sleepy() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        client = self.make(sleepy)
        self.assertRaises(TimedOut, client.with_options(timeout=0.05).call, "sleepy")
        self.assertEqual(ended, ["cancelled"])

    def test_a_server_in_a_test_has_every_label_unless_some_are_named(self):
        functions = Registry()
        functions.add(add, needs=["gpu", "big"])
        with MemoryServer(functions) as server, RealClient(server.address) as client:
            self.assertEqual(client.call("add", 1), 2)
        with MemoryServer(functions, labels=["gpu"]) as server, RealClient(server.address) as client:
            refused = self.assertRaises(NotAllowed, client.call, "add", 1)
        self.assertIn("needs the label big", str(refused))

    def test_hooks_are_run_once_for_the_server(self):
        functions = functions_of(add)
        run = []
        functions.start_hooks.append(lambda: run.append("start"))
        functions.stop_hooks.append(lambda: run.append("stop"))
        with Client(functions) as client:
            list(client.map("add", range(20)))
            self.assertEqual(run, ["start"])
        client.close()
        self.assertEqual(run, ["start", "stop"])

    def test_a_closed_server_is_gone_and_leaves_no_thread_behind(self):
        before = set(threading.enumerate())
        server = MemoryServer(functions_of(add))
        client = AsyncClient(functions_of(add))
        asyncio.run(client.close())
        self.assertIn(server.address, repr(server))
        server.close()
        server.close()
        deadline = time.monotonic() + LONG
        while set(threading.enumerate()) - before and time.monotonic() < deadline:
            for thread in set(threading.enumerate()) - before:
                thread.join(LONG)
        self.assertEqual(set(threading.enumerate()) - before, set())

    def test_servers_leave_no_descriptor_open(self):
        def make():
            with MemoryServer(functions_of(add)) as server, RealClient(server.address) as client:
                client.call("add", 1)

        make()
        gc.collect()
        threads, before = set(threading.enumerate()), open_descriptors()
        for _ in range(5):
            make()
        deadline = time.monotonic() + LONG
        # Fewer is no fault: those of an earlier test may have been closed meanwhile.
        while open_descriptors() - before and time.monotonic() < deadline:
            for thread in set(threading.enumerate()) - threads:
                thread.join(LONG)
            gc.collect()
        self.assertEqual(open_descriptors() - before, Counter())

    def test_a_server_that_nobody_can_use_is_refused(self):
        self.assertRaisesRegex(ValueError, "@task", MemoryServer, Registry())
        self.assertRaisesRegex(ValueError, "workers", MemoryServer, functions_of(add), workers=0)
        self.assertRaises(OSError, MemoryServer, functions_of(add), socket="/nowhere/at/all")


class StoredTaskTests(SynchronousTestCase):
    def make(self, functions, **more):
        client = Client(functions, **more)
        self.addCleanup(client.close)
        return client

    def test_a_submitted_task_is_run_and_knows_its_id(self):
        client = self.make(functions_of(who))
        task = client.submit("who")
        self.assertEqual(task.result(LONG), [task.id, 1])
        self.assertEqual([each.event for each in task.events()], ["queued", "started", "succeeded"])

    def test_a_task_is_tried_again(self):
        functions = Registry()
        functions.add(third_time_lucky, durable=Durability(retries=2, backoff=0.001))
        self.assertEqual(self.make(functions).submit("third_time_lucky").result(LONG), 3)

    def test_values_of_a_generator_are_events(self):
        task = self.make(functions_of(numbers)).submit("numbers", 2)
        values = [each.data["value"] for each in task.events() if each.event == "partial"]
        self.assertEqual(values, [0, 1])

    def test_priorities_hold_and_a_waiting_task_can_be_cancelled(self):
        gate = Gate()
        client = self.make(functions_of(gate.wait), workers=1)
        first = client.submit("wait", "first")
        gate.has_begun()
        tasks = [
            client.with_options(priority=priority).submit("wait", f"of {priority}") for priority in (1, 9, 5)
        ]
        tasks[2].cancel()
        gate.opened.set()
        self.assertRaises(Cancelled, tasks[2].result, LONG)
        self.assertEqual([task.result(LONG) for task in [first, *tasks[:2]]], ["first", "of 1", "of 9"])
        self.assertEqual(gate.order, ["first", "of 1", "of 9"])

    def test_a_running_task_can_be_cancelled(self):
        gate = Gate()
        task = self.make(functions_of(gate.wait)).submit("wait")
        gate.has_begun()
        self.assertEqual(task.cancel(), "running")
        self.assertRaises(Cancelled, task.result, LONG)
        self.assertEqual(gate.stops, ["the task was cancelled"])

    def test_a_deadline_ends_a_task_that_waits(self):
        gate = Gate()
        client = self.make(functions_of(gate.wait), workers=1)
        client.submit("wait")
        gate.has_begun()
        error = self.assertRaises(TimedOut, client.with_options(deadline=0.05).call, "wait")
        self.assertEqual(error.data["limit"], "deadline")
        gate.opened.set()

    def test_a_schedule_does_not_run_by_itself(self):
        functions = Registry()
        functions.add(who, schedule=Schedule(every=0.001), durable=Durability())
        described = self.make(functions).functions()
        self.assertIsNone(described[0].get("schedule"))

    def test_the_end_of_the_server_interrupts_what_runs(self):
        gate = Gate()
        client = self.make(functions_of(gate.wait))
        client.submit("wait")
        gate.has_begun()
        client.close()
        self.assertRaises(RuntimeError, client.ping)


class OtherClientTests(SynchronousTestCase):
    def test_an_asyncio_program_has_the_same_calls(self):
        async def main():
            async with AsyncClient(functions_of(add)) as client:
                assert await client.with_options(timeout=5).call("add", 2, 3) == 5
                task = await client.submit("add", 1)
                return await task.result()

        self.assertEqual(asyncio.run(main()), 2)

    def test_the_connections_of_a_fixture_end_with_the_event_loop(self):
        server = MemoryServer(functions_of(add))
        self.addCleanup(server.close)
        client = FixtureClient(server.address)

        async def main():
            return [await client.call("add", 1), await client.with_options(timeout=5).call("add", 2)]

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                self.assertEqual(asyncio.run(main()), [2, 3])
            gc.collect()
        self.assertEqual([str(each.message) for each in caught if each.category is ResourceWarning], [])
