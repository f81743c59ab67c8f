"""What is known of a worker that has ended."""

from __future__ import annotations

import signal
from dataclasses import dataclass

__all__ = ["WorkerExit", "signal_name"]


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """What is known of a worker that has ended.

    `code` is its exit status, or minus the signal, or None where the fork
    server ended before it could say. `begun` is the number of the task that it
    began last. `peak_kib` is the most memory that it had resident.
    `out_of_memory` tells whether the kernel killed it for lack of memory, None
    where that cannot be known. `stack` is what a crash has left, innermost
    frame first. `was_ready`: its start hooks had run.
    """

    code: int | None
    begun: int = 0
    peak_kib: int | None = None
    reason: str = ""
    out_of_memory: bool | None = None
    stack: tuple[str, ...] = ()
    was_ready: bool = False

    def describe(self) -> str:
        """How it ended, in words."""
        if self.code is None:
            return self.reason
        if self.code < 0:
            for_lack = ", the kernel was out of memory" if self.out_of_memory else ""
            return f"killed by {signal_name(-self.code)}{for_lack}"
        return f"exit status {self.code}"


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
