"""The check of a long message's text in slices."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import ParseError
from taskd.protocol.long_text import LongText, check_text
from taskd.protocol.nesting import MAX_NESTING


def outcome(text, size):
    """Check a text in slices of this size; return the error's message and data, or None."""
    long_text = LongText(text)
    try:
        while not long_text.check(size):
            pass
    except ParseError as error:
        return error.message, error.data
    return None


def outcome_at_once(text):
    try:
        check_text(text)
    except ParseError as error:
        return error.message, error.data
    return None


class LongTextTests(SynchronousTestCase):
    @given(st.text(alphabet='a\u00e9\u65e5\U0001f600[]"'), st.integers(1, 9))
    def test_text_is_accepted_wherever_it_is_cut(self, text, size):
        self.assertIsNone(outcome(text.encode(), size))

    @given(
        st.lists(
            st.sampled_from(
                [b"a", b"\xc3\xa9", b"\xe6\x97\xa5", b"\xc3", b"\x80", b"\xff", b"\xf0\x9f", b"\xed\xa0\x80"]
            )
        ).map(b"".join),
        st.integers(1, 9),
    )
    def test_bytes_that_are_no_text_are_refused_with_the_same_place(self, text, size):
        expected, found = outcome_at_once(text), outcome(text, size)
        self.assertEqual(found is None, expected is None)
        if expected is not None:
            self.assertEqual(found[1], expected[1])

    def test_text_nested_too_deeply_is_refused(self):
        for size in 1, 7, 300, 10_000:
            self.assertIsNone(outcome(b"[" * MAX_NESTING + b"]" * MAX_NESTING, size))
            self.assertEqual(outcome(b"[" * (MAX_NESTING + 1), size)[1], {"limit": MAX_NESTING})
