"""The event loop of a worker: whatever a task does to it, the next one finds one that works."""

import asyncio
import contextvars
import gc
import io
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from taskd.worker import event_loop
from taskd.worker.event_loop import EventLoop

variable = contextvars.ContextVar("variable", default="clean")


async def nothing():
    return "ran"


class EventLoopCase(SynchronousTestCase):
    def setUp(self):
        self.printed = io.StringIO()
        self.patch(sys, "stderr", self.printed)
        self.patch(event_loop, "LEFTOVER_SECONDS", 0.01)
        self.addCleanup(asyncio.set_event_loop_policy, None)
        asyncio.set_event_loop_policy(None)  # as in a new process
        self.made = []
        self.loop = EventLoop()
        self.addCleanup(lambda: self.loop.close())

    def ran(self, coroutine):
        """Run it, and settle, as after a task."""
        try:
            return self.loop.run(coroutine, contextvars.copy_context())
        finally:
            self.loop.settle()

    def new_loop(self):
        """Make a loop that the test closes if nobody else does."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        return loop

    def check_after(self, damage):
        """Do damage as a function would, and check that both kinds of functions have a loop after it."""
        damage()
        self.loop.settle()
        current = asyncio.get_event_loop_policy().get_event_loop()
        self.addCleanup(current.close)
        self.assertEqual(current.run_until_complete(nothing()), "ran")
        self.assertEqual(self.ran(nothing()), "ran")
        self.assertEqual(
            asyncio.get_event_loop_policy().get_event_loop().run_until_complete(nothing()), "ran"
        )


class EventLoopTests(EventLoopCase):
    def setUp(self):
        super().setUp()
        self.loop.enter()

    def test_one_loop_serves_all_functions(self):
        loops = [self.ran(self.running()) for _ in range(3)]
        self.assertEqual(len({*map(id, loops)}), 1)
        self.assertIs(asyncio.get_event_loop_policy().get_event_loop(), loops[0])
        self.loop.close()
        self.assertTrue(loops[0].is_closed())
        self.loop.close()

    async def running(self):
        return asyncio.get_running_loop()

    def test_a_coroutine_runs_in_the_given_context(self):
        async def function():
            before = variable.get()
            variable.set("dirty")
            return before

        self.assertEqual([self.ran(function()) for _ in range(2)], ["clean", "clean"])
        token = variable.set("of the start hook")
        self.addCleanup(variable.reset, token)
        self.assertEqual(self.ran(function()), "of the start hook")

    def test_the_next_task_has_a_loop_whatever_a_function_has_done_to_it(self):
        def own_policy():
            asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())

        for before in lambda: None, lambda: self.ran(nothing()):
            for damage in (
                lambda: None,
                lambda: asyncio.set_event_loop(None),
                lambda: asyncio.run(nothing()),
                lambda: asyncio.set_event_loop(self.new_loop()),
                lambda: asyncio.get_event_loop_policy().get_event_loop().close(),
                lambda: (asyncio.set_event_loop(self.new_loop()), asyncio.get_event_loop().close()),
                own_policy,
                lambda: (own_policy(), asyncio.set_event_loop(None)),
            ):
                self.loop.close()
                self.setUp()
                before()
                self.loop.settle()
                self.check_after(damage)

    def test_a_loop_that_a_thread_still_runs_is_replaced(self):
        loop = self.ran(self.running())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        while not loop.is_running():
            pass
        try:
            self.check_after(lambda: None)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def test_the_next_function_is_not_stopped_by_the_stop_of_an_earlier_one(self):
        async def function():
            asyncio.get_running_loop().stop()

        async def waiting():
            for _ in range(3):
                await asyncio.sleep(0)
            return "ran"

        self.ran(function())
        self.assertEqual(self.ran(waiting()), "ran")

    def test_the_settings_of_the_loop_are_put_back(self):
        async def function():
            loop = asyncio.get_running_loop()
            loop.set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))
            loop.set_exception_handler(lambda loop, context: None)
            loop.set_debug(True)

        async def settings():
            loop = asyncio.get_running_loop()
            return loop.get_task_factory(), loop.get_exception_handler(), loop.get_debug()

        before = self.ran(settings())
        self.ran(function())
        self.assertEqual(self.ran(settings()), before)

    def test_a_loop_whose_executor_was_shut_down_is_replaced(self):
        async def shut_down():
            await asyncio.get_running_loop().shutdown_default_executor()

        async def shut_down_own():
            with ThreadPoolExecutor(1) as executor:
                asyncio.get_running_loop().set_default_executor(executor)

        async def use():
            return await asyncio.to_thread(lambda: "ran")

        for damage in shut_down, shut_down_own:
            self.ran(damage())
            self.assertEqual(self.ran(use()), "ran")

    def test_the_loop_of_a_start_hook_is_used(self):
        loop = self.new_loop()
        asyncio.set_event_loop(loop)
        self.loop.settle()
        self.assertIs(self.ran(self.running()), loop)
        asyncio.run(nothing())
        self.loop.settle()
        self.assertIs(asyncio.get_event_loop_policy().get_event_loop(), loop)

    def test_asyncio_makes_a_loop_only_when_one_is_asked_for(self):
        made = []
        make = asyncio.get_event_loop_policy().new_event_loop
        self.patch(asyncio, "new_event_loop", lambda: made.append(1) or make())
        self.loop.settle()
        self.assertEqual(made, [])

    def test_nothing_happens_before_asyncio_is_imported(self):
        modules = {name: module for name, module in sys.modules.items() if name != "asyncio"}
        self.patch(sys, "modules", modules)
        self.loop.enter()
        self.loop.settle()
        sys.modules["asyncio"] = type(sys)("asyncio")  # a thread has just begun to import it
        self.loop.settle()


class BeforeTheForkTests(EventLoopCase):
    def test_a_loop_from_before_the_fork_is_not_used(self):
        """All workers would share its selector."""
        for leave in lambda: asyncio.set_event_loop(self.new_loop()), lambda: asyncio.run(nothing()):
            leave()
            try:
                inherited = asyncio.get_event_loop_policy().get_event_loop()
            except RuntimeError:
                inherited = None
            self.loop = EventLoop()
            self.loop.enter()
            self.loop.settle()
            current = asyncio.get_event_loop_policy().get_event_loop()
            self.addCleanup(current.close)
            self.assertIsNot(current, inherited)
            self.assertEqual(self.ran(nothing()), "ran")

    def test_the_fork_server_makes_no_loop(self):
        asyncio.run(nothing())
        self.loop.settle()
        self.assertRaises(RuntimeError, asyncio.get_event_loop_policy().get_event_loop)


class LeftoverTests(EventLoopCase):
    def setUp(self):
        super().setUp()
        self.loop.enter()
        self.seen = []
        self.patch(logging.getLogger("asyncio"), "disabled", True)

    async def leave(self, *coroutines):
        """Leave asyncio tasks behind."""
        self.left = [asyncio.ensure_future(each) for each in coroutines]
        await asyncio.sleep(0)

    async def wait(self):
        try:
            await asyncio.Event().wait()
        finally:
            self.seen.append("ended")

    def test_asyncio_tasks_that_are_left_are_cancelled(self):
        self.ran(self.leave(self.wait(), self.wait()))
        self.assertEqual(self.seen, ["ended", "ended"])
        self.assertTrue(all(task.cancelled() for task in self.left))

    def test_asyncio_tasks_of_an_ordinary_function_are_cancelled_too(self):
        loop = self.new_loop()
        asyncio.set_event_loop(loop)
        self.loop.settle()
        loop.run_until_complete(self.leave(self.wait()))
        self.loop.settle()
        self.assertEqual(self.seen, ["ended"])

    def test_an_asyncio_task_may_take_some_time_and_start_another(self):
        self.patch(event_loop, "LEFTOVER_SECONDS", 60.0)

        async def cleaning():
            try:
                await self.wait()
            finally:
                await asyncio.sleep(0)
                self.left.append(asyncio.ensure_future(self.wait()))
                await asyncio.sleep(0)

        self.ran(self.leave(cleaning()))
        self.assertEqual(self.seen, ["ended", "ended"])

    def test_the_loop_of_an_asyncio_task_that_does_not_end_is_replaced(self):
        async def deaf():
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.seen.append("cancelled")

        async def exiting():
            try:
                await asyncio.Event().wait()
            finally:
                raise SystemExit(3)

        async def stopping():
            try:
                await asyncio.Event().wait()
            finally:
                asyncio.get_running_loop().stop()
                await asyncio.sleep(0)

        for leftover in deaf, exiting, stopping:
            self.ran(self.leave(leftover()))
            self.assertEqual(self.ran(nothing()), "ran")
        self.assertEqual(self.seen, ["cancelled"])
        self.assertEqual(self.printed.getvalue().count("their loop is replaced"), 1 + 1 + 1)
        self.left.clear()
        gc.collect()  # asyncio logs what it thinks of such tasks when they are destroyed

    def test_a_function_that_stops_its_loop_does_not_go_on_under_the_next_one(self):
        async def function():
            asyncio.get_running_loop().stop()
            await self.wait()

        self.assertRaises(RuntimeError, self.ran, function())
        self.assertEqual(self.seen, ["ended"])
