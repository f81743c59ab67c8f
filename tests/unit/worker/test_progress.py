"""The worker's side of progress: few reports, but always the last one; with a fake clock."""

import contextlib
import contextvars
import json
import threading
from _thread import start_new_thread
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.raised import encodable
from taskd.worker import progress
from taskd.worker.messages import Reported, decode_from_worker, encode
from taskd.worker.progress import PROGRESS_INTERVAL, ProgressReporter, running_task


class NothingToDo(Exception):
    """Raised where the reporter's thread would wait for ever."""


class FakeCondition:
    """A `threading.Condition` for one thread, whose `wait` lets time pass."""

    def __init__(self, clock):
        self.clock = clock
        self.notified = 0

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return None

    def notify(self):
        self.notified += 1

    def wait(self, timeout=None):
        if timeout is None:
            raise NothingToDo
        self.clock.now += timeout


class FakeClock:
    """A stand-in for the `time` of the module under test."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class ProgressReporterTests(SynchronousTestCase):
    def setUp(self):
        self.clock = FakeClock()
        self.condition = FakeCondition(self.clock)
        self.threads = []
        self.patch(progress, "time", self.clock)
        self.patch(threading, "Thread", self.thread)
        self.patch(threading, "Condition", lambda lock: self.condition)
        self.sent = []
        self.reporter = ProgressReporter(self.sent.append)

    def thread(self, target, args, name, daemon):
        self.threads.append(lambda: target(*args))
        return SimpleNamespace(start=lambda: None)

    def run_thread(self):
        """Run the reporter's thread until it is idle, however long that takes."""
        [target] = self.threads
        self.assertRaises(NothingToDo, target)

    def test_at_most_twenty_reports_are_sent_per_second(self):
        self.assertEqual(PROGRESS_INTERVAL, 0.05)
        self.reporter.begin(1)
        for step in range(1000):
            self.reporter.report(step)
            self.clock.now += 0.001
        self.assertLessEqual(len(self.sent), 21)
        self.assertGreaterEqual(len(self.sent), 19)

    def test_the_first_report_is_sent_at_once(self):
        for task in 1, 2:
            self.reporter.begin(task)
            self.reporter.report(0, 10, "begun")
            self.assertEqual(self.sent[-1], Reported(task, 0, 10, "begun"))
            self.reporter.end()
        self.assertEqual(len(self.sent), 2)

    def test_the_last_report_is_sent_when_the_task_ends(self):
        self.reporter.begin(1)
        for step in range(5):
            self.reporter.report(step)
        self.reporter.end()
        self.assertEqual([report.done for report in self.sent], [0, 4])

    def test_a_report_without_a_total_forgets_the_one_before(self):
        for task in 1, 2:
            self.reporter.begin(task)
            self.reporter.report(0)
            self.reporter.report(1, 10)
            self.reporter.report(2)
            self.reporter.end()
        self.assertEqual([(report.done, report.total) for report in self.sent], [(0, None), (2, None)] * 2)

    def test_a_report_that_was_sent_is_not_sent_again(self):
        self.reporter.begin(1)
        self.reporter.report(1)
        self.reporter.report(2)
        self.clock.now += PROGRESS_INTERVAL
        self.reporter.report(3)
        self.reporter.end()
        self.assertEqual([report.done for report in self.sent], [1, 3])

    def test_a_kept_report_is_sent_when_it_is_due(self):
        self.reporter.begin(1)
        self.reporter.report(1)
        self.reporter.report(2)
        self.reporter.report(3)
        begun = self.clock.now
        self.run_thread()
        self.assertEqual([report.done for report in self.sent], [1, 3])
        self.assertAlmostEqual(self.clock.now - begun, PROGRESS_INTERVAL)
        self.reporter.report(4)
        self.assertEqual(len(self.sent), 2)
        self.run_thread()
        self.assertEqual([report.done for report in self.sent], [1, 3, 4])
        self.reporter.end()
        self.assertEqual(len(self.sent), 3)

    def test_no_thread_is_started_without_need(self):
        self.reporter.begin(1)
        for step in range(5):
            self.reporter.report(step)
            self.clock.now += 1
        self.assertEqual(self.threads, [])

    def test_all_tasks_share_one_thread(self):
        for task in range(3):
            self.reporter.begin(task)
            self.reporter.report(1)
            self.reporter.report(2)
            self.reporter.end()
        self.assertEqual(len(self.threads), 1)

    def test_the_thread_wakes_when_there_is_something_to_send(self):
        self.reporter.begin(1)
        for step in range(4):
            self.reporter.report(step)
        self.assertEqual(self.condition.notified, 3)

    def test_nothing_is_sent_outside_a_task(self):
        self.reporter.report(1)
        self.reporter.begin(1)
        self.reporter.end()
        self.reporter.report(2)
        self.reporter.end()
        self.assertEqual(self.sent, [])

    def test_nothing_of_a_task_is_sent_after_its_end(self):
        self.reporter.begin(1)
        self.reporter.report(1)
        self.reporter.report(2)
        self.reporter.end()
        self.run_thread()
        self.assertEqual([report.done for report in self.sent], [1, 2])

    def test_a_long_message_is_cut(self):
        self.reporter.begin(1)
        self.reporter.report(1, None, "x" * 1_000_000)
        self.assertLess(len(self.sent[0].message), 100_000)

    def test_invalid_progress_is_refused(self):
        self.reporter.begin(1)
        for report in [
            (float("nan"),),
            (float("inf"),),
            (1, float("-inf")),
            ("1",),
            (1, "2"),
            ([],),
            (1, 2, 3),
            (1, 2, b"m"),
        ]:
            try:
                self.reporter.report(*report)
            except (TypeError, ValueError):
                continue
            self.fail(f"{report} was taken")
        self.assertEqual(self.sent, [])

    def test_progress_without_a_number_is_refused_or_can_be_read(self):
        self.reporter.begin(1)
        try:
            self.reporter.report(None)
        except (TypeError, ValueError):
            return
        self.assert_readable(self.sent)

    def test_number_types_of_other_libraries_are_accepted(self):
        """For example, numpy.float64 is a subclass of float."""
        for number in type("Float", (float,), {})(1.5), type("Int", (int,), {})(3):
            del self.sent[:]
            self.reporter.begin(1)
            self.reporter.report(number)
            self.assertEqual(self.sent, [Reported(1, number, None, None)])
            self.assert_readable(self.sent)

    def assert_readable(self, reports):
        """Check that the daemon can read the messages: it kills a worker whose messages it cannot read."""
        for report in reports:
            line = encode(report)
            json.loads(line)
            decode_from_worker(line)

    @given(
        st.integers() | st.floats() | st.booleans() | st.none(),
        st.integers() | st.floats() | st.booleans() | st.none(),
        st.none() | st.text() | st.text(st.characters(categories=["Cs", "L"])),
        st.booleans(),
    )
    @example(True, None, None, False)
    @example(1, True, None, False)
    @example(10**400, None, None, False)
    @example(1, None, "\udcff", False)
    @example(1, None, "\udcff", True)
    @example(10**400, None, None, True)
    def test_any_report_is_refused_or_can_be_read(self, done, total, message, is_kept):
        del self.sent[:]
        self.reporter.begin(1)
        if is_kept:
            self.reporter.report(0)
        with contextlib.suppress(TypeError, ValueError):
            self.reporter.report(done, total, message)
        self.reporter.end()
        self.assert_readable(self.sent)


class LeftBehindTests(SynchronousTestCase):
    """Whoever reports while a task runs: only what belongs to the task is sent."""

    def setUp(self):
        self.sent = []
        self.reporter = ProgressReporter(self.sent.append)
        self.addCleanup(running_task.set, None)
        self.released = threading.Event()
        self.addCleanup(self.release)
        self.threads = []

    def release(self):
        self.released.set()
        for thread in self.threads:
            thread.join()

    def begin(self, task):
        running_task.set(task)
        self.reporter.begin(task)

    def thread(self, target):
        thread = threading.Thread(target=target)
        thread.start()
        self.threads.append(thread)
        return thread

    def report_when_released(self):
        self.released.wait()
        self.reporter.report(1)

    def reported(self):
        self.reporter.end()
        return [report.task for report in self.sent]

    def test_a_thread_that_an_earlier_task_has_left_reports_nothing(self):
        self.begin(1)
        self.thread(self.report_when_released)
        self.reporter.end()
        self.begin(2)
        self.release()
        self.assertEqual(self.reported(), [])

    def test_a_thread_of_a_task_whose_progress_nobody_wanted_reports_nothing(self):
        self.thread(self.report_when_released)
        self.begin(2)
        self.release()
        self.assertEqual(self.reported(), [])

    def test_a_thread_of_the_running_task_reports(self):
        self.begin(1)
        self.thread(self.report_when_released)
        self.release()
        self.assertEqual(self.reported(), [1])

    def test_a_pool_that_is_kept_between_tasks_reports_for_the_running_one(self):
        for pool in ThreadPoolExecutor(1), ThreadPool(1):
            run = pool.apply if isinstance(pool, ThreadPool) else lambda f, pool=pool: pool.submit(f).result()
            for task in 1, 2:
                self.begin(task)
                run(lambda: self.reporter.report(1))
                self.reporter.end()
                while isinstance(pool, ThreadPoolExecutor) and not pool._idle_semaphore._value:
                    pass  # its thread is still on the way back to its queue
            self.assertEqual([report.task for report in self.sent], [1, 2])
            self.sent.clear()
            pool.terminate() if isinstance(pool, ThreadPool) else pool.shutdown()

    def test_a_job_that_an_earlier_task_has_left_in_a_pool_reports_nothing(self):
        for pool in ThreadPoolExecutor(2), ThreadPool(2):
            self.released.clear()
            entered = threading.Event()

            def job(entered=entered):
                entered.set()
                self.report_when_released()

            self.begin(1)
            left = pool.apply_async(job) if isinstance(pool, ThreadPool) else pool.submit(job)
            entered.wait()
            self.reporter.end()
            self.begin(2)
            self.released.set()
            left.get() if isinstance(pool, ThreadPool) else left.result()
            self.assertEqual(self.reported(), [])
            pool.terminate() if isinstance(pool, ThreadPool) else pool.shutdown()

    def test_a_context_of_a_task_decides_to_which_task_a_report_belongs(self):
        """`asyncio.to_thread`, callbacks and asyncio tasks run in the context of the task that made them."""
        self.begin(1)
        old = contextvars.copy_context()
        self.reporter.end()
        self.begin(2)
        new = contextvars.copy_context()
        self.thread(lambda: self.released.wait() and new.run(self.reporter.report, 1))
        self.reporter.begin(2)  # that thread is there already
        old.run(self.reporter.report, 1)
        self.thread(lambda: old.run(self.reporter.report, 1)).join()
        self.assertEqual(self.sent, [])
        self.release()
        self.assertEqual(self.reported(), [2])

    def test_a_thread_that_was_started_without_threading_reports_nothing(self):
        """Nothing shows since when it runs."""
        entered, ended = threading.Event(), threading.Event()

        def run():
            entered.set()
            self.report_when_released()
            ended.set()

        start_new_thread(run, ())
        entered.wait()
        self.begin(2)
        self.release()
        ended.wait()
        self.assertEqual(self.reported(), [])


class ThreadTests(SynchronousTestCase):
    def test_a_real_thread_sends_a_kept_report(self):
        """The clock is real, so this takes `PROGRESS_INTERVAL`."""
        sent, both = [], threading.Event()

        def send(report):
            sent.append(report.done)
            if len(sent) == 2:
                both.set()

        reporter = ProgressReporter(send)
        reporter.begin(1)
        for step in range(3):
            reporter.report(step)
        self.assertTrue(both.wait(60))
        self.assertEqual(sent, [0, 2])


class EncodableTests(SynchronousTestCase):
    @given(st.text(st.characters(categories=["Cs", "L"])))
    def test_lone_surrogates_are_escaped(self, text):
        shown = encodable(text).encode()
        self.assertEqual(shown, text.encode("utf-8", "backslashreplace"))

    def test_any_other_text_is_unchanged(self):
        for text in "", "abc", "äöü", "\U0001f600":
            self.assertEqual(encodable(text), text)
