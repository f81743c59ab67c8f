"""Tracebacks of what an app raises, whose attributes are the app's code."""

import linecache

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.raised import MAX_TEXT
from taskd.worker.tracebacks import traceback_of


def raised(error):
    """The same exception, after it was raised."""
    try:
        raise error
    except BaseException as caught:
        return caught


def trace(error):
    return traceback_of(error, lambda filename: False)


class TracebackTests(SynchronousTestCase):
    def test_the_outermost_frames_can_be_left_out(self):
        error = raised(ValueError("x"))
        self.assertIn("in raised", trace(error))
        self.assertNotIn("in raised", traceback_of(error, lambda filename: filename == __file__))

    def test_causes_and_notes_are_included(self):
        error = ValueError("x")
        error.add_note("a note")
        error.__cause__ = LookupError("the cause")
        text = trace(raised(error))
        self.assertIn("the cause", text)
        self.assertIn("a note", text)

    def test_any_attribute_may_raise_anything(self):
        for name in "__notes__", "__cause__", "__context__", "__suppress_context__", "__class__":
            for reason in ValueError, SystemExit, RecursionError:

                def fail(self, reason=reason, name=name):
                    raise reason(name)

                kind = type("Odd", (Exception,), {name: property(fail)})
                text = trace(raised(kind("its message")))
                self.assertIn("in raised", text, name)
                self.assertIn("Odd: its message", text, name)

    def test_an_attribute_that_is_missing_may_recurse(self):
        class Odd(Exception):
            def __getattr__(self, name):
                return getattr(self, name)

        text = trace(raised(Odd("its message")))
        self.assertIn("in raised", text)
        self.assertIn("Odd: its message", text)

    def test_the_traceback_is_found_though_a_class_hides_it(self):
        class Odd(Exception):
            __traceback__ = property(lambda self: 1 / 0)

        self.assertIn("in raised", trace(raised(Odd("its message"))))

    def test_a_bad_exception_of_a_group_spoils_only_itself(self):
        class Odd(Exception):
            def __getattr__(self, name):
                raise SystemExit

        group = ExceptionGroup("several", [ValueError("good"), Odd("bad")])
        self.assertIn("several (2 sub-exceptions)", trace(raised(group)))

    def test_a_syntax_error_may_have_any_attributes(self):
        self.assertIn("SyntaxError: bad", trace(raised(SyntaxError("bad", (5, 1, 1, 2)))))

    def test_source_that_cannot_be_read_spoils_only_the_frames(self):
        def fail(*args):
            raise SystemExit("no source")

        self.patch(linecache, "checkcache", fail)
        text = trace(raised(ValueError("x")))
        self.assertIn("its frames could not be formatted: SystemExit: no source", text)
        self.assertIn("ValueError: x", text)

    def test_exceptions_may_be_each_others_causes(self):
        one, other = ValueError("one"), ValueError("other")
        one.__cause__, other.__cause__ = other, one
        self.assertIn("ValueError: one", trace(raised(one)))

    def test_a_long_traceback_keeps_its_end(self):
        for character in "x", "\udfff":
            text = trace(raised(ValueError(character * 2 * MAX_TEXT + " the end")))
            self.assertEqual(len(text), MAX_TEXT)
            self.assertTrue(text.endswith("the end\n"))
