"""Schedules: lines of cron, intervals, time zones, and the two nights of the year with another hour."""

from datetime import datetime
from math import inf
from zoneinfo import ZoneInfo

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.registry import Registry
from taskd.functions.schedule import Schedule

BERLIN = ZoneInfo("Europe/Berlin")


def at(*parts, fold=0):
    return datetime(*parts, tzinfo=BERLIN, fold=fold).timestamp()


class DeclarationTests(SynchronousTestCase):
    def test_schedules_as_they_are_declared(self):
        self.assertIsNone(Schedule.of())
        self.assertEqual(Schedule.of(cron=" 30  2 * * * ").line, "30 2 * * * (UTC)")
        self.assertEqual(Schedule.of(cron="0 3 * * *", timezone="Europe/Berlin", missed="all").missed, "all")
        self.assertEqual(Schedule.of(every=90).line, "every 90 s")

    def test_wrong_schedules_are_explained(self):
        for declared, reason in (
            ({"cron": "0 0 30 2 *"}, "it never comes, since none of its months has such a day"),
            ({"cron": "0 0 31 4,6 *"}, "it never comes"),
            ({"cron": "0 0 30 2 1#6"}, "Bad day-of-week"),
            ({"cron": "0 0 * 2 1#5", "timezone": "x y"}, "name of a zone"),
            ({"cron": "61 * * * *"}, "Bad minute (the fields are minute, hour, day of the month"),
            ({"cron": "* * * *"}, "a line of five fields"),
            ({"cron": "0 * * * * *"}, "a line of five fields"),
            ({"cron": 5}, "a line of five fields"),
            ({"cron": "0 3 * * *", "timezone": "Berlin"}, "such as Europe/Berlin, not 'Berlin'"),
            ({"cron": "0 3 * * *", "timezone": "../../etc/passwd"}, "name of a zone"),
            ({"cron": "0 3 * * *", "timezone": 1}, "name of a zone"),
            ({"cron": "0 3 * * *", "every": 5}, "not both"),
            ({"cron": "0 3 * * *", "missed": "none"}, 'missed is "skip", "last" or "all"'),
            ({"every": 0.5}, "1 or more, not 0.5"),
            ({"every": inf}, "1 or more, not inf"),
            ({"every": True}, "1 or more, not True"),
            ({"every": "5"}, "1 or more, not '5'"),
            ({"every": 5, "timezone": "UTC"}, "timezone is for cron"),
            ({"timezone": "UTC"}, "need cron or every"),
            ({"missed": "all"}, "need cron or every"),
            ({"every": 5, "missed": "all", "durable": False}, "missed='all' needs durable=True"),
        ):
            error = self.assertRaises(ValueError, lambda declared=declared: Schedule.of(**declared))
            self.assertIn(reason, str(error), declared)

    def test_a_function_with_a_schedule_needs_no_arguments(self):
        registry = Registry()
        registry.add(lambda to="all": to, "fine", schedule=Schedule.of(every=60))
        registry.compile()
        registry.add(lambda to, subject: to, "send", schedule=Schedule.of(every=60))
        error = self.assertRaises(TypeError, registry.compile)
        self.assertIn("every 60 s", str(error))
        self.assertIn("give to, subject a default", str(error))


class TickTests(SynchronousTestCase):
    def test_intervals_are_counted_from_1970(self):
        schedule = Schedule.of(every=90)
        self.assertEqual(schedule.after(0.0), 90.0)
        self.assertEqual(schedule.after(89.9), 90.0)
        self.assertEqual(schedule.between(0.0, 360.0, 10), [90.0, 180.0, 270.0, 360.0])
        self.assertEqual(schedule.between(0.0, 359.9, 2), [180.0, 270.0])
        self.assertEqual(schedule.between(90.0, 179.0, 2), [])

    def test_lines_of_cron_are_by_the_clocks_of_their_zone(self):
        schedule = Schedule.of(cron="30 2 * * 1-5", timezone="Europe/Berlin")
        friday, monday = at(2026, 11, 27, 2, 30), at(2026, 11, 30, 2, 30)
        self.assertEqual(schedule.after(friday - 0.5), friday)
        self.assertEqual(schedule.after(friday), monday)
        self.assertEqual(schedule.between(friday - 1, monday, 9), [friday, monday])
        self.assertEqual(schedule.between(friday, monday - 0.5, 9), [])
        self.assertEqual(schedule.between(friday - 1, monday, 1), [monday])

    def test_a_time_of_day_that_is_skipped_comes_with_the_end_of_the_gap(self):
        schedule = Schedule.of(cron="30 2 * * *", timezone="Europe/Berlin")
        self.assertEqual(schedule.after(at(2026, 3, 28, 12)), at(2026, 3, 29, 3))
        self.assertEqual(schedule.after(at(2026, 3, 29, 3)), at(2026, 3, 30, 2, 30))

    def test_a_time_of_day_that_comes_twice_counts_once(self):
        schedule = Schedule.of(cron="30 2 * * *", timezone="Europe/Berlin")
        first = at(2026, 10, 25, 2, 30)
        self.assertEqual(schedule.after(at(2026, 10, 25, 2)), first)
        for minutes in (0, 29, 45, 75, 90):
            self.assertEqual(schedule.after(first + minutes * 60), at(2026, 10, 26, 2, 30), minutes)
            self.assertEqual(schedule.between(first - 1, first + minutes * 60, 9), [first], minutes)

    def test_an_interval_goes_on_in_both_hours(self):
        schedule = Schedule.of(cron="*/30 * * * *", timezone="Europe/Berlin")
        begin = at(2026, 10, 25, 1, 45)
        ticks = []
        for _ in range(6):
            ticks.append(schedule.after(ticks[-1] if ticks else begin))
        self.assertEqual([tick - begin for tick in ticks], [900.0 + 1800.0 * n for n in range(6)])
        self.assertEqual(schedule.between(begin, ticks[-1], 9), ticks)

    def test_intervals_are_recognised(self):
        for declared, is_interval in (
            ({"every": 5}, True),
            ({"cron": "*/5 * * * *"}, True),
            ({"cron": "5 * * * *"}, True),
            ({"cron": "5 1,13 * * *"}, False),
        ):
            self.assertEqual(Schedule.of(**declared).is_interval, is_interval, declared)
