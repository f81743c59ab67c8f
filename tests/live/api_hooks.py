"""What schemathesis has to know of the HTTP API besides its description.

By hand: ``SCHEMATHESIS_HOOKS=tests.live.api_hooks schemathesis run URL/api/v1/openapi.json``,
with ``--exclude-checks use_after_free``, since a task that is cancelled is still there,
for a server of ``tests/live/apps/shapes.py``.
"""

from urllib.parse import urlencode

import schemathesis
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

ROWS = (
    "count\n1\n2\n",
    "count,ratio\r\n1,0.5\r\n",
    "count;exact\n1;true",
    'count\n"1"\n',
    "\ufeffcount\n1\n",
    "count\n",
)
"""Texts for the function `numbers` of that app."""

schemathesis.openapi.media_type("text/csv", st.sampled_from(ROWS).map(str.encode))


def whole(value):
    """Return a value with ``5`` for ``5.0``, which is an integer to a JSON Schema, but not to taskd."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole(each) for each in value]
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    return value


@schemathesis.hook
def filter_query(context, query):
    """Leave out what is too long for a request line: it is refused with 414, whatever it asks for."""
    return query is None or len(urlencode(query, doseq=True)) < 7000


@schemathesis.hook
def before_call(context, case, kwargs):
    """Make a case what the description means, where that cannot be described."""
    if case.path.endswith("/events"):
        case.headers["Accept"] = "application/json"  # a stream goes on until the task has ended
    if case.media_type == "application/json":
        case.body = whole(case.body)
    if "wait" in (case.query or {}) and is_positive(case):
        case.query["wait"] = 0.05  # some tasks never end
    if case.path == "/batches" and case.method == "POST" and is_positive(case):
        # The query belongs to CSV alone, for which it must name the function that takes these rows.
        case.query = {} if case.media_type != "text/csv" else {**case.query, "function": "numbers"}
        for name in ("key", "then", "delay"):  # no keys; no name of any function; not both times
            case.query.pop(name, None)


def is_positive(case):
    return case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE
