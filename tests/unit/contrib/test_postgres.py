"""Submits and settles on the connections of other programs, which are played by the tests."""

from datetime import UTC, datetime, timedelta

from twisted.trial.unittest import SynchronousTestCase

from taskd.contrib.postgres import cancel, settle, state, submit, wake
from taskd.functions.current import CurrentTask, describe_current_task_by
from taskd.functions.decorators import task
from taskd.functions.registry import registry


class Cursor:
    def __init__(self, answers, asked):
        self._answers = answers
        self._asked = asked
        self.is_closed = False

    def execute(self, statement, values):
        self._asked.append((statement, list(values)))

    def fetchone(self):
        return (self._answers.pop(0),)

    def close(self):
        self.is_closed = True


class Driver:
    """A connection as DB-API has it."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.asked = []
        self.cursors = []

    def cursor(self):
        self.cursors.append(Cursor(self._answers, self.asked))
        return self.cursors[-1]


class Alchemy:
    """A connection of SQLAlchemy."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.asked = []

    def exec_driver_sql(self, statement, values):
        self.asked.append((statement, list(values)))
        return self

    def scalar(self):
        return self._answers.pop(0)


class Session:
    """A session of SQLAlchemy."""

    def __init__(self, connection):
        self._connection = connection

    def connection(self):
        return self._connection


class AsyncCursor(Cursor):
    async def execute(self, statement, values):
        raise AssertionError

    async def close(self):
        raise AssertionError


class AsyncDriver(Driver):
    def cursor(self):
        return AsyncCursor([], [])


class SubmitTests(SynchronousTestCase):
    def values(self, *args, **options):
        driver = Driver("id")
        self.assertEqual(submit(driver, *args, **options), "id")
        [(statement, values)] = driver.asked
        self.assertEqual(statement.count("%s"), len(values))
        self.assertTrue(driver.cursors[0].is_closed)
        return values

    def test_options_that_are_not_given_are_left_to_the_database(self):
        expected = ["f", "[]", None, None, 5, None, "", None, None, None, None, None]
        self.assertEqual(self.values("f"), expected)

    def test_arguments_have_places_or_names(self):
        self.assertEqual(self.values("f", [1, "é"])[1], '[1,"é"]')
        self.assertEqual(self.values("f", {"a": 1, "from_": 2})[1], '{"a":1,"from":2}')

    def test_all_options_are_passed_on(self):
        values = self.values(
            "f", (), delay=timedelta(minutes=1), key="k", priority=2, token="t", owner="ann", timeout=1.5,
            retries=3, keep=9, at=datetime(2100, 1, 1, tzinfo=UTC), deadline=2,
        )  # fmt: skip
        at = "2100-01-01T00:00:00+00:00"
        self.assertEqual(values[2:], [60.0, "k", 2, "t", "ann", 1.5, 3, 9, at, 2])

    def test_a_registered_function_has_its_name(self):
        @task(name="shop.send")
        def send() -> None: ...

        self.addCleanup(registry._functions.pop, "shop.send", None)
        self.assertEqual(self.values(send)[0], "shop.send")

    def test_a_time_without_a_zone_is_refused(self):
        with self.assertRaisesRegex(ValueError, "no zone"):
            submit(Driver(), "f", at=datetime(2100, 1, 1))

    def test_sqlalchemy_has_its_own_way(self):
        connection = Alchemy("one", "two")
        self.assertEqual((submit(connection, "f"), submit(Session(connection), "f")), ("one", "two"))
        self.assertEqual(len(connection.asked), 2)

    def test_a_connection_for_asyncio_is_refused(self):
        with self.assertRaisesRegex(TypeError, "AsyncDriver is for asyncio"):
            submit(AsyncDriver(), "f")


class SettleTests(SynchronousTestCase):
    def test_the_attempt_that_runs_is_settled(self):
        before = describe_current_task_by(lambda: CurrentTask(7, "the-id", 3, node=5))
        self.addCleanup(describe_current_task_by, before)
        driver = Driver(None)
        settle(driver, {"a": [1]})
        self.assertEqual(driver.asked[0][1], ["the-id", 3, 5, '{"a":[1]}'])

    def test_outside_a_task_of_a_shared_store_there_is_nothing_to_settle(self):
        with self.assertRaises(RuntimeError):
            settle(Driver())
        before = describe_current_task_by(lambda: CurrentTask(7, "the-id", 3))
        self.addCleanup(describe_current_task_by, before)
        with self.assertRaises(RuntimeError):
            settle(Driver())


class AskingTests(SynchronousTestCase):
    def test_states_and_cancels(self):
        driver = Driver("waiting", None, "running", None, None)
        self.assertEqual([state(driver, "a"), state(driver, "b")], ["waiting", None])
        self.assertEqual([cancel(driver, "a"), cancel(driver, "b")], ["running", None])
        wake(driver)
        self.assertEqual(driver.asked[-1], ("SELECT taskd.wake()", []))
