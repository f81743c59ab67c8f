"""How deep text is nested, without reading it."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.protocol.nesting import MAX_NESTING, MAX_VALUE_NESTING, NestingCheck, is_too_deep

ODD_TEXT = st.text(alphabet='ab[]{}"\\,: é')
VALUES = st.recursive(
    st.none() | st.integers() | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_TEXT, inner, max_size=3),
    max_leaves=30,
)


def depth(value):
    """The levels of arrays and objects in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def is_too_deep_in_slices(text, limit, sizes):
    """Judge text as a `NestingCheck` does, cut into slices of these sizes in turn."""
    check, at = NestingCheck(limit), 0
    for size in itertools.cycle(sizes):
        is_deep = check.take(text[at : at + size])
        at += size
        if is_deep or at >= len(text):
            break
    return is_deep


class SlicesTests(SynchronousTestCase):
    @given(VALUES, st.lists(st.integers(1, 9), min_size=1), st.sampled_from([None, 1]))
    def test_the_depth_of_every_value_is_measured_in_any_slices(self, value, sizes, indent):
        text = json.dumps(value, ensure_ascii=False, indent=indent).encode()
        found = depth(value)
        self.assertFalse(is_too_deep_in_slices(text, found, sizes))
        if found:
            self.assertTrue(is_too_deep_in_slices(text, found - 1, sizes))

    def test_brackets_that_are_never_closed_count_in_slices(self):
        for text in b"[" * 1000, b'{"a":' * 1000, b'["\\\\",' + b"[" * 1000:
            for size in 1, 7, 300, 10_000:
                self.assertTrue(is_too_deep_in_slices(text, MAX_NESTING, [size]))


class NestingTests(SynchronousTestCase):
    @given(VALUES, st.sampled_from([None, 1]))
    def test_the_depth_of_every_value_is_measured(self, value, indent):
        text = json.dumps(value, ensure_ascii=False, indent=indent).encode()
        found = depth(value)
        self.assertFalse(is_too_deep(text, found))
        if found:
            self.assertTrue(is_too_deep(text, found - 1))

    def test_the_limit_itself_is_allowed(self):
        for limit in MAX_NESTING, MAX_VALUE_NESTING:
            self.assertFalse(is_too_deep(b"[" * limit + b"]" * limit, limit))
            self.assertTrue(is_too_deep(b"[" * (limit + 1) + b"]" * (limit + 1), limit))

    def test_many_shallow_values_are_allowed(self):
        self.assertFalse(is_too_deep(b"[%b1]" % (b"[]," * 10_000)))
        self.assertFalse(is_too_deep(b"[%b1]" % (b'{"a":[{"b":1}]},' * 10_000)))

    def test_one_deep_value_among_shallow_ones_is_found(self):
        deep = b"[" * MAX_NESTING + b"]" * MAX_NESTING
        self.assertTrue(is_too_deep(b"[%b%b]" % (b"[[],{}]," * 1000, deep)))
        self.assertFalse(is_too_deep(b"[%b%b]" % (b"[[],{}]," * 1000, deep[1:-1])))

    def test_brackets_that_are_never_closed_count(self):
        self.assertTrue(is_too_deep(b"[" * 1000))
        self.assertTrue(is_too_deep(b'{"a":' * 1000))

    def test_brackets_inside_strings_do_not_count(self):
        for text in b"[" * 1000, b'\\"[' * 1000, b"\\\\" + b"{" * 1000, b'\\\\\\"[' * 500:
            self.assertFalse(is_too_deep(b'["%b",[1]]' % text))

    def test_brackets_after_a_string_that_ends_in_a_backslash_count(self):
        self.assertTrue(is_too_deep(b'["\\\\",' + b"[" * 1000))
