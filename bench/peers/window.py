"""Drives a task queue as a user's program does, every result awaited and checked; prints a line of JSON.

    python window.py celery_tasks --in-flight 800 --seconds 3

Runs in the peer's own environment. The module has `submit(number)`, which returns a handle, and
`collect(handle)`, which waits for the result.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections import deque
from collections.abc import Callable
from itertools import count, islice
from typing import Any

PATIENCE = 60.0
"""Seconds that a driver waits for one result before the peer is taken for dead."""


class Meter:
    """Counts the replies within `seconds` after a warm-up; `start` it when enough tasks are in flight."""

    def __init__(self, warm_up: float, seconds: float) -> None:
        self._warm_up = warm_up
        self._seconds = seconds
        self._from = 0.0
        self._until = float("inf")
        self._replies = 0

    def start(self) -> None:
        """The warm-up begins."""
        self._from = time.monotonic() + self._warm_up
        self._until = self._from + self._seconds

    def goes_on(self) -> bool:
        """Whether tasks are still to be sent."""
        return time.monotonic() < self._until

    def check(self, number: int, result: object) -> None:
        """Take a result; it must be the number that was sent. Raises `SystemExit` if it is not."""
        if result != number:
            raise SystemExit(f"got {result!r} where {number} was due")
        if self._from <= time.monotonic() < self._until:
            self._replies += 1

    def print(self) -> None:
        """The figures, once the last result is there."""
        print(json.dumps({"replies": self._replies, "per_second": round(self._replies / self._seconds, 1)}))


def drive(
    submit: Callable[[int], Any], collect: Callable[[Any], object], meter: Meter, in_flight: int
) -> None:
    """Keep so many tasks in flight until the time is over; the oldest is awaited first."""
    numbers = count()
    handles = deque((number, submit(number)) for number in islice(numbers, in_flight))
    meter.start()
    while handles:
        number, handle = handles.popleft()
        meter.check(number, collect(handle))
        if meter.goes_on():
            number = next(numbers)
            handles.append((number, submit(number)))


def arguments() -> argparse.ArgumentParser:
    """What every driver takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-flight", type=int, default=800)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=3.0)
    return parser


def main() -> None:
    """Drive a module until its time is over."""
    parser = arguments()
    parser.add_argument("module")
    options = parser.parse_args()
    module = importlib.import_module(options.module)
    module.collect(module.submit(0))
    meter = Meter(options.warm_up, options.seconds)
    drive(module.submit, module.collect, meter, options.in_flight)
    meter.print()


def redis_url() -> str:
    """Where this run's Redis listens."""
    return os.environ["REDIS_URL"]


if __name__ == "__main__":
    main()
