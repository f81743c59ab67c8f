"""Lets a test set the clock of a process: the time of day is off by the seconds in the file $CLOCK."""

import os
import time
from pathlib import Path

_CLOCK = Path(os.environ["CLOCK"])
_time = time.time


def _shown() -> float:
    return _time() + float(_CLOCK.read_text())


time.time = _shown
