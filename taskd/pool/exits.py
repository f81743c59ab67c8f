"""How a worker process ended, and what it left behind."""

from __future__ import annotations

import signal
from dataclasses import dataclass

__all__ = ["WorkerExit", "signal_name"]


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """How a worker ended, and what it left behind.

    - `code`: its exit status, or minus the signal that killed it; None if the
      fork server ended before it could report that, or could not fork the
      worker: `reason` then says which.
    - `begun`: the number of the task that it began last, 0 for none.
    - `peak_kib`: the most memory that it had resident, in KiB, if known.
    - `out_of_memory`: whether the kernel killed it for lack of memory; None if
      that is not known.
    - `stack`: the stack that a crash printed, innermost frame first.
    - `was_ready`: whether its start hooks had run.
    """

    code: int | None
    begun: int = 0
    peak_kib: int | None = None
    reason: str = ""
    out_of_memory: bool | None = None
    stack: tuple[str, ...] = ()
    was_ready: bool = False

    def describe(self) -> str:
        """Describe in words how the worker ended."""
        if self.code is None:
            return self.reason
        if self.code < 0:
            for_lack = ", the kernel was out of memory" if self.out_of_memory else ""
            return f"killed by {signal_name(-self.code)}{for_lack}"
        return f"exit status {self.code}"


def signal_name(number: int) -> str:
    """Return the name of a signal: ``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
