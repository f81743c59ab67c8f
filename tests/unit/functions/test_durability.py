"""The arguments of `task` for stored tasks."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.durability import Durability, Rate
from taskd.functions.registry import Registry
from taskd.functions.stops import TaskTimeout


class DurabilityTests(SynchronousTestCase):
    def of(self, *, durable=True, once=False, retries=0, backoff=1.0, keep=3600.0):
        return Durability.of(durable=durable, once=once, retries=retries, backoff=backoff, keep=keep)

    def test_a_function_is_durable_only_if_asked_for(self):
        self.assertIsNone(self.of(durable=False))
        self.assertEqual(self.of(), Durability())
        self.assertEqual(self.of(retries=3, backoff=2, keep=0), Durability(False, 3, 2, 0))

    def test_the_exceptions_after_which_it_is_tried_again_are_known_by_name(self):
        chosen = Durability.of(durable=True, retries=1, retry_for=(OSError, TaskTimeout))
        self.assertEqual(chosen.retry_for, ("OSError", "taskd.functions.stops.TaskTimeout"))
        self.assertTrue(chosen.retries_timeouts)
        self.assertFalse(Durability.of(durable=True, retry_for=(OSError,)).retries_timeouts)
        self.assertTrue(self.of().retries_timeouts)
        self.assertRaises(ValueError, Durability.of, durable=False, retry_for=(OSError,))

    def test_a_rate_is_a_number_of_starts_in_a_unit_of_time(self):
        for text, expected in (
            ("100/min", Rate(100, 60.0)),
            ("1/s", Rate(1, 1.0)),
            ("5/d", Rate(5, 86400.0)),
        ):
            self.assertEqual(Rate.parse(text), expected)
        for wrong in ("100", "0/s", "-1/s", "1/week", "1.5/s", "", 100, None):
            self.assertRaises(ValueError, Rate.parse, wrong)

    def test_limits_are_checked(self):
        chosen = Durability.of(durable=True, concurrency=2, rate="3/s", concurrency_key="account")
        self.assertEqual(
            (chosen.concurrency, chosen.rate, chosen.concurrency_key), (2, Rate(3, 1.0), "account")
        )
        for wrong in (0, -1, 1.5, True, "2"):
            self.assertRaises(ValueError, Durability.of, durable=True, concurrency=wrong)
        for wrong in ("", 3):
            self.assertRaises(ValueError, Durability.of, durable=True, concurrency=1, concurrency_key=wrong)
        self.assertRaises(ValueError, Durability.of, durable=True, concurrency_key="account")
        self.assertRaises(ValueError, Durability.of, durable=False, concurrency=1)

    def test_contradictions_are_refused(self):
        self.assertRaises(ValueError, self.of, durable=False, retries=1)
        self.assertRaises(ValueError, self.of, durable=False, once=True)
        self.assertRaises(ValueError, self.of, once=True, retries=1)

    def test_values_out_of_range_are_refused(self):
        for wrong in (-1, 1.5, True, "3"):
            self.assertRaises(ValueError, self.of, retries=wrong)
        for wrong in (-1.0, float("inf"), float("nan"), True, "3"):
            self.assertRaises(ValueError, self.of, backoff=wrong)
            self.assertRaises(ValueError, self.of, keep=wrong)


class KeyTests(SynchronousTestCase):
    def check(self, key, function):
        registry = Registry()
        durable = Durability.of(durable=True, concurrency=1, concurrency_key=key)
        registry.add(function, durable=durable)
        registry.compile()

    def test_a_concurrency_key_is_an_argument_of_its_function(self):
        def send(account, *more, text=""):
            """Do nothing."""

        def anything(**names):
            """Do nothing."""

        self.check("account", send)
        self.check("text", send)
        self.check("account", anything)
        for wrong in ("acount", "more"):
            error = self.assertRaises(TypeError, self.check, wrong, send)
            self.assertIn(
                f"concurrency_key '{wrong}' is none of its arguments, which are account, text", str(error)
            )
