"""Functions that the server runs by itself, with a clock and a store that are fakes."""

from msgspec import Raw
from twisted.internet.defer import execute
from twisted.internet.task import Clock

from taskd.durable import schedules as schedules_module
from taskd.durable import writer as writer_module
from taskd.durable.tasks import DurableTasks
from taskd.functions.registry import FunctionInfo
from taskd.functions.schedule import Schedule
from taskd.model import Result, SubmitOptions
from taskd.store.base import StoreError
from tests.unit.durable.test_tasks import DurableCase, FakeRunner, LastingStore

HOUR, DAY = 3600.0, 86400.0
MIDNIGHT = 1_800_000_000.0 // DAY * DAY  # 2027-01-15


class ScheduleCase(DurableCase):
    began = MIDNIGHT

    def setUp(self):
        self.fails = False
        self.patch(writer_module, "RIDE_SECONDS", 0.0)
        self.set_by = 0.0
        self.clock = Clock()
        self.store = LastingStore()
        self.runner = FakeRunner()

    def start(self, **schedules):
        self.schedules = schedules
        self.tasks = DurableTasks(self.clock, self.runner, self.store, self.execute, self.now)
        self.use(**schedules)

    def use(self, **schedules):
        self.tasks.use([
            FunctionInfo(name, f"{name}()", "", {}, schedule=schedule)
            for name, schedule in schedules.items()
        ])  # fmt: skip
        self.turn()

    def now(self):
        return self.began + self.clock.seconds() + self.set_by

    def execute(self, call):
        def checked():
            if self.fails:
                raise StoreError("the disk is full")
            return call()

        return execute(checked)

    def run_all(self):
        """Let what is in the queue succeed, and return how many that were of each function."""
        counts = {}
        while self.runner.queue:
            task = self.begin()
            counts[task.call.function] = counts.get(task.call.function, 0) + 1
            self.end(task, Result(Raw(b"1")))
        return counts

    def minutes(self, count):
        """Let minutes pass, running all that comes, and return how many of each function ran."""
        counts = {}
        for _ in range(count):
            self.turn(60.0)
            for name, ran in self.run_all().items():
                counts[name] = counts.get(name, 0) + ran
        return counts

    def set_clock(self, seconds):
        def follow(by):
            self.set_by += by

        self.tasks.clock_moved(seconds, follow)
        self.turn()

    def next(self, name="f"):
        [found] = [each.next for each in self.tasks.schedules.status if each.function == name]
        return found - MIDNIGHT


def cron(line, zone=None, missed=None):
    return Schedule.of(line, None, zone, missed)


def every(seconds, missed=None):
    return Schedule.of(None, seconds, None, missed)


class TickTests(ScheduleCase):
    def test_each_tick_has_one_task(self):
        self.start(f=every(60), g=cron("*/10 * * * *"))
        self.assertEqual(self.minutes(30), {"f": 30, "g": 3})

    def test_ticks_are_by_the_calendar(self):
        self.start(f=cron("30 2 * * *", "Europe/Berlin"))
        self.assertEqual(self.next(), 1.5 * HOUR)
        self.assertEqual(self.minutes(89), {})
        self.assertEqual(self.minutes(1), {"f": 1})
        self.assertEqual(self.next(), DAY + 1.5 * HOUR)

    def test_a_task_that_has_not_ended_has_no_second_one_beside_it(self):
        self.start(f=every(60))
        self.turn(60.0)
        self.turn(60.0)
        self.turn(60.0)
        self.assertEqual(self.run_all(), {"f": 1})
        self.turn(60.0)
        self.assertEqual(self.run_all(), {"f": 1})

    def test_with_all_each_tick_has_a_task_of_its_own(self):
        self.start(f=every(60, "all"))
        for _ in range(3):
            self.turn(60.0)
        self.assertEqual(self.run_all(), {"f": 3})

    def test_the_status_has_the_next_tick_and_the_last(self):
        self.start(f=every(7200), g=every(3600), h=cron("0 0 * 2 MON#5"))
        self.minutes(60)
        shown = [(each.function, each.schedule, each.next, each.last) for each in self.tasks.schedules.status]
        self.assertEqual(
            shown[:2],
            [
                ("f", "every 7200 s", MIDNIGHT + 2 * HOUR, None),
                ("g", "every 3600 s", MIDNIGHT + 2 * HOUR, MIDNIGHT + HOUR),
            ],
        )
        self.assertEqual(shown[2][:2], ("h", "0 0 * 2 MON#5 (UTC)"))

    def test_a_function_that_is_gone_is_not_run(self):
        self.start(f=every(60), g=every(60))
        self.use(g=every(60))
        self.assertEqual(self.minutes(2), {"g": 2})
        self.use(f=every(60), g=every(60))
        self.assertEqual(self.minutes(2), {"g": 2, "f": 2})

    def test_new_code_may_change_a_schedule(self):
        self.start(f=every(3600))
        self.use(f=every(60))
        self.assertEqual(self.minutes(2), {"f": 2})

    def test_nothing_is_stored_while_the_server_stops(self):
        self.start(f=every(60))
        self.tasks.stop_accepting()
        self.assertEqual(self.minutes(2), {})

    def test_a_tick_that_cannot_be_stored_is_stored_later(self):
        self.start(f=every(600))
        self.fails = True
        self.turn(600.0)
        self.turn(5.0)
        self.assertEqual(self.run_all(), {})
        self.fails = False
        self.turn(2.0)
        self.turn(2.0)
        self.assertEqual(self.run_all(), {"f": 1})
        self.assertEqual(self.minutes(9), {})

    def test_a_store_that_cannot_be_read_is_read_again(self):
        self.start()
        self.fails = True
        self.use(f=every(60))
        self.fails = False
        self.turn(2.0)
        self.assertEqual(self.minutes(2), {"f": 2})


class MissedTests(ScheduleCase):
    def restart_after(self, seconds, **schedules):
        """Kill the daemon, and start it later."""
        self.tasks.stop_accepting()
        self.turn(seconds)
        self.start(**(schedules or self.schedules))

    def test_missed_ticks_are_made_up_for_as_the_function_asks(self):
        self.start(f=every(600), g=every(600, "last"), h=every(600, "all"))
        self.restart_after(HOUR + 100)
        self.assertEqual(self.run_all(), {"g": 1, "h": 6})
        self.assertEqual(self.minutes(9), {"f": 1, "g": 1, "h": 1})

    def test_skipped_ticks_stay_skipped(self):
        self.start(f=cron("0 1 * * *"), g=every(600))
        self.restart_after(2 * HOUR)
        self.assertEqual(self.minutes(120).get("f", 0), 0)

    def test_a_tick_that_came_during_a_short_restart_is_not_missed(self):
        self.start(f=every(600))
        self.turn(590.0)
        self.restart_after(20.0)
        self.assertEqual(self.run_all(), {"f": 1})
        self.restart_after(1.0)
        self.assertEqual(self.run_all(), {})

    def test_no_more_than_so_many_are_made_up_for(self):
        self.patch(schedules_module, "MAX_MISSED", 5)
        self.start(f=every(60, "all"))
        self.restart_after(HOUR)
        self.assertEqual(self.run_all(), {"f": 5})

    def test_another_schedule_has_missed_nothing(self):
        self.start(f=every(600, "all"))
        self.restart_after(HOUR, f=every(300, "all"))
        self.assertEqual(self.run_all(), {})


class ClockTests(ScheduleCase):
    """The machine's clock is set while the daemon runs."""

    def test_intervals_take_as_long_as_ever(self):
        for seconds in (HOUR, -HOUR, 1234.5, -1234.5):
            self.start(f=every(60), g=cron("*/5 * * * *"))
            self.minutes(7)
            self.set_clock(seconds)
            ran = self.minutes(20)
            self.assertIn(ran["f"], (19, 20, 21), seconds)
            self.assertIn(ran["g"], (3, 4, 5), seconds)

    def test_ticks_that_were_jumped_over_run_once_and_those_that_ran_do_not_run_again(self):
        self.start(f=cron("30 0 * * *"), g=cron("10,20 0 * * *"))
        self.minutes(5)
        self.set_clock(HOUR)
        self.assertEqual(self.run_all(), {"f": 1, "g": 1})
        self.set_clock(-HOUR)
        self.assertEqual(self.minutes(120), {})

    def test_delays_and_deadlines_take_as_long_as_ever(self):
        for seconds in (HOUR, -HOUR):
            self.start(f=None)
            soon, late = self.submit(delay=30.0), self.submit(delay=30.0, deadline=20.0)
            self.set_clock(seconds)
            self.turn(29.0)
            self.assertEqual(self.runner.queue, [], seconds)
            self.turn(1.0)
            self.assertEqual([each.call.options.deadline for each in self.runner.queue], [None, 20.0])
            self.run_all()
            self.assertEqual(self.store.get(soon).attempt, 1)
            self.assertEqual(self.store.get(late).attempt, 1)

    def test_a_task_at_a_time_follows_the_clock(self):
        self.start(f=None)
        self.submit(at="2027-01-15T01:30:00Z")
        self.turn(60.0)
        self.set_clock(2 * HOUR)
        self.assertEqual(self.run_all(), {"f": 1})
        self.submit(at="2027-01-15T02:30:00Z")
        self.set_clock(-HOUR)
        self.assertEqual(self.minutes(88), {"f": 0} if self.runner.queue else {})
        self.assertEqual(self.minutes(2), {"f": 1})

    def test_ended_tasks_are_kept_for_as_long_as_ever(self):
        self.start(f=None)
        task = self.submit(keep=600.0)
        self.run_all()
        self.set_clock(HOUR)
        self.minutes(5)
        self.assertIsNotNone(self.store.get(task))

    def test_a_store_that_fails_meanwhile_loses_nothing(self):
        self.start(f=every(600), g=None)
        waiting = []
        self.fails = True
        self.tasks.submit("g", None, SubmitOptions(delay=30.0), waiting.append)
        self.turn()
        self.assertIsInstance(waiting[0], StoreError)
        self.set_clock(HOUR)
        self.fails = False
        self.turn(2.0)
        task = self.submit("g", delay=30.0)
        self.set_clock(-HOUR)
        self.turn(30.0)
        self.assertEqual(self.run_all(), {"g": 1})
        self.assertEqual(self.store.get(task).attempt, 1)
