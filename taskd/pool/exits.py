"""The record of a worker process's end: exit status or signal, peak memory, crash stack."""

from __future__ import annotations

import signal
from dataclasses import dataclass

__all__ = ["WorkerExit", "signal_name"]


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """The end of a worker, and what is known about it.

    - `code`: the exit status, or minus the signal that killed the worker; None
      if the fork server ended before it could report that, or could not fork
      the worker.
    - `begun`: the number of the task that the worker began last, 0 for none.
    - `reason`: why there is no `code`, or why the daemon has killed the worker;
      "" for any other end.
    - `peak_kib`: the peak resident memory, in KiB, None if unknown.
    - `out_of_memory`: whether the kernel killed the worker for lack of memory;
      None if unknown.
    - `stack`: the stack that a crash printed, innermost frame first.
    - `was_ready`: whether the worker's start hooks had run.
    - `printed`: the tail of what the task that was begun last has printed.
    """

    code: int | None
    begun: int = 0
    peak_kib: int | None = None
    reason: str = ""
    out_of_memory: bool | None = None
    stack: tuple[str, ...] = ()
    was_ready: bool = False
    printed: str = ""

    def describe(self) -> str:
        """Return a phrase for the log: ``killed by SIGSEGV`` or ``exit status 1``."""
        if self.code is None:
            return self.reason
        since = f", since {self.reason}" if self.reason else ""
        if self.code < 0:
            for_lack = ", the kernel was out of memory" if self.out_of_memory else ""
            return f"killed by {signal_name(-self.code)}{for_lack}{since}"
        return f"exit status {self.code}{since}"


def signal_name(number: int) -> str:
    """Return the name of a signal: ``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
