"""Lets Python sleep under libfaketime, which spoils the call that Python 3.11 and later sleep by."""

import select
import time


def _sleep(seconds: float, /) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
