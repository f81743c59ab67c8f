"""Hypothesis strategies for JSON, as values and as text."""

import json
import re

from hypothesis import strategies as st
from msgspec import Raw

numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
containers = st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4)


@st.composite
def text_of(draw, value_strategy, *, line_ends=True):
    """Draw the JSON text of a value, in one of many forms; with `line_ends` possibly on several lines."""
    value = draw(value_strategy)
    text = json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 0, "\t"])) if line_ends else None,
        separators=draw(
            st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\r: " if line_ends else " : ")])
        ),
    )
    return text.encode("utf-8")


id_texts = st.one_of(
    text_of(st.text() | st.integers(), line_ends=False),
    st.sampled_from([b"0", b"-0", b"7.50", b"1e3", b"1E+400", b"null", rb'"\u0041"', rb'"\/"', b"9" * 40]),
)
"""Draw JSON texts that can be the id of a request, also in unusual forms."""

_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def has_surrogate_escape(line):
    """Return whether it has an escape that may be a lone surrogate, which the protocol leaves open."""
    return _LONE_SURROGATE.search(line) is not None


def loads(line):
    """Parse UTF-8 text with `json.loads`, without NaN and Infinity; raises ValueError."""
    return json.loads(line.decode("utf-8"), parse_constant=_refuse)


def _refuse(name):
    raise ValueError(f"{name} is not JSON")


def is_json(line):
    """Return whether data is JSON in UTF-8 with a reasonable nesting."""
    try:
        loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def raw(text):
    """Make a `Raw`; None stays None."""
    return None if text is None else Raw(text)


def shown(raw_text):
    """Return the bytes of a `Raw`; None stays None."""
    return None if raw_text is None else bytes(raw_text)
