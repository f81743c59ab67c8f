"""Has a clock that is off by $CLOCK_OFF seconds, for Python's `time.time`, and `time.time_ns`.

A library that replaces the calls of the C library, as libfaketime does, spoils the monotonic waits by
which threads take turns with the interpreter: a node with such a clock is a hundred times slower.
"""

import os
import time

_OFF = float(os.environ["CLOCK_OFF"])
_time, _time_ns = time.time, time.time_ns


def _shown() -> float:
    return _time() + _OFF


def _shown_ns() -> int:
    return _time_ns() + round(_OFF * 1e9)


time.time, time.time_ns = _shown, _shown_ns
