"""Which exceptions are reasons to try a stored task again."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.decorators import task
from taskd.functions.registry import Registry
from taskd.functions.retries import RETRY_FOR, Retry, Verdict, checked_retry_for, verdict_on


class Meta(type):
    @property
    def __mro__(cls):
        raise SystemExit

    def __subclasscheck__(cls, other):
        raise SystemExit


class Odd(OSError, metaclass=Meta):
    pass


class Unreadable(Retry):
    @property
    def after(self):
        raise SystemExit

    @after.setter
    def after(self, value):
        pass


class RetryTests(SynchronousTestCase):
    def test_by_default_every_exception_is_a_reason_and_the_wish_to_end_is_none(self):
        for error in ValueError(), MemoryError(), Odd():
            self.assertEqual(verdict_on(error, RETRY_FOR), Verdict(True))
        for error in SystemExit(), KeyboardInterrupt(), GeneratorExit():
            self.assertEqual(verdict_on(error, RETRY_FOR), Verdict(False))

    def test_only_the_classes_that_are_named_are_reasons_and_those_derived_from_them(self):
        wanted = (ConnectionError, LookupError)
        self.assertTrue(verdict_on(ConnectionResetError(), wanted).may_retry)
        self.assertTrue(verdict_on(KeyError(), wanted).may_retry)
        self.assertFalse(verdict_on(OSError(), wanted).may_retry)
        self.assertFalse(verdict_on(Odd(), (Unreadable,)).may_retry)

    def test_retry_is_always_a_reason_and_may_name_the_time(self):
        self.assertEqual(verdict_on(Retry(), (KeyError,)), Verdict(True, None))
        self.assertEqual(verdict_on(Retry(after=90), (KeyError,)), Verdict(True, 90.0))

    def test_retry_has_a_text(self):
        self.assertEqual(str(Retry(after=90)), "to be tried again after 90 s")
        self.assertEqual(str(Retry()), "to be tried again")
        self.assertEqual(str(Retry("busy", after=1)), "busy")

    def test_a_wrong_time_is_refused_or_ignored_if_it_was_set_later(self):
        for wrong in -1, float("inf"), float("nan"), "5", True:
            self.assertRaises(ValueError, lambda wrong=wrong: Retry(after=wrong))
            error = Retry()
            error.after = wrong
            self.assertEqual(verdict_on(error, RETRY_FOR), Verdict(True, None))
        self.assertEqual(verdict_on(Unreadable(), RETRY_FOR), Verdict(True, None))

    def test_retry_for_takes_a_class_or_a_tuple_of_them(self):
        self.assertEqual(checked_retry_for(OSError), (OSError,))
        self.assertEqual(checked_retry_for((OSError, KeyError)), (OSError, KeyError))
        for wrong in (), "OSError", (OSError(),), [OSError], int:
            self.assertRaises(ValueError, checked_retry_for, wrong)

    def test_the_decorator_keeps_the_classes_for_the_worker(self):
        own = Registry()
        import importlib

        self.patch(importlib.import_module("taskd.functions.registry"), "registry", own)

        @task(durable=True, retries=2, retry_for=OSError)
        def function():
            pass

        self.assertEqual(own["function"].retry_for, (OSError,))
        self.assertEqual(own["function"].durable.retry_for, ("OSError",))
        self.assertRaises(ValueError, task, durable=True, retry_for="OSError")
