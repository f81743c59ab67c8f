"""Submits stored tasks as a user's program does; prints a line of JSON.

    python stored.py stored_celery fill --tasks 6000
    python stored.py stored_celery single --seconds 2
    python stored.py stored_celery paced --tasks 200

Runs in the peer's own environment. The module has `submit(sent)`, which returns when the queue has
acknowledged the task, and may have `fill(tasks)`, which submits many in the way that is its fastest.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable

PAUSE = 0.02
"""Seconds between two tasks of which each finds the workers idle."""


def one_by_one(submit: Callable[[float], object], tasks: int) -> None:
    """Submit so many."""
    for _ in range(tasks):
        submit(0.0)


def single(submit: Callable[[float], object], seconds: float) -> int:
    """One at a time, until the time is over; how many there were."""
    ending = time.monotonic() + seconds
    tasks = 0
    while time.monotonic() < ending:
        submit(0.0)
        tasks += 1
    return tasks


def paced(submit: Callable[[float], object], tasks: int) -> None:
    """One every 20 ms, with the time at which it was sent."""
    due = time.monotonic()
    for _ in range(tasks):
        due += PAUSE
        time.sleep(max(0.0, due - time.monotonic()))
        submit(time.monotonic())


def main() -> None:
    """What the command asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("how", choices=("fill", "single", "paced"))
    parser.add_argument("--tasks", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    module = importlib.import_module(options.module)
    tasks, submit = options.tasks, module.submit
    if options.how == "single":
        for _ in range(5):
            submit(0.0)  # which opens connections
        began = time.monotonic()
        tasks = single(submit, options.seconds)
        sent = tasks + 5
    else:
        began = time.monotonic()
        sent = tasks
        if options.how == "fill":
            getattr(module, "fill", lambda many: one_by_one(submit, many))(tasks)
        else:
            paced(submit, tasks)
    print(json.dumps({"sent": sent, "per_second": round(tasks / (time.monotonic() - began), 1)}))


if __name__ == "__main__":
    main()
