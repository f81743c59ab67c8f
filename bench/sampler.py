"""Runs twistd, and between two SIGUSR2 samples its stack by the processor time that it uses.

    python bench/sampler.py STACKS -n taskd …

STACKS is written at the second SIGUSR2: a line for each stack, outermost function first, with the number of
its samples behind it. The first line has the processor time outside and inside the kernel, in seconds.

py-spy, which needs none of this, samples by the clock: a call in which the kernel lets another process run,
like a `send` that wakes a worker, then looks much dearer than it is.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from twisted.scripts import twistd

INTERVAL = 0.002
"""Seconds of processor time between two samples; the kernel's tick may make it up to 10 ms."""


def _name(frame: FrameType) -> str:
    code = frame.f_code
    module = frame.f_globals.get("__name__", "?")
    return f"{getattr(code, 'co_qualname', code.co_name)} ({module}:{frame.f_lineno})"


class Sampler:
    """Counts stacks while it is on."""

    def __init__(self, to: Path) -> None:
        self._to = to
        self._stacks: Counter[str] = Counter()
        self._before: os.times_result | None = None

    def sample(self, _: int, frame: FrameType | None) -> None:
        """SIGPROF: where the process is."""
        names = []
        while frame is not None:
            names.append(_name(frame))
            frame = frame.f_back
        self._stacks[";".join(reversed(names))] += 1

    def switch(self, *_: object) -> None:
        """SIGUSR2: on, or off and written."""
        if self._before is None:
            self._before = os.times()
            signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
            return
        signal.setitimer(signal.ITIMER_PROF, 0)
        now = os.times()
        lines = [f"{now.user - self._before.user:.2f} {now.system - self._before.system:.2f}"]
        lines += [f"{stack} {number}" for stack, number in self._stacks.items()]
        unfinished = self._to.with_suffix(".part")
        unfinished.write_text("\n".join(lines) + "\n")
        unfinished.rename(self._to)


if __name__ == "__main__":
    sampler = Sampler(Path(sys.argv.pop(1)))
    signal.signal(signal.SIGPROF, sampler.sample)
    signal.signal(signal.SIGUSR2, sampler.switch)
    sys.argv[0] = "twistd"
    twistd.run()
