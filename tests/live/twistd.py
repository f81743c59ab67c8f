"""`twistd`, which saves what coverage has recorded before it ends by the signal that stopped it."""

from __future__ import annotations

import sys

from twisted.application import app
from twisted.scripts.twistd import run

_exit_with_signal = app._exitWithSignal


def _save_and_exit(number: int) -> None:
    if "coverage" in sys.modules:  # not in the servers that record nothing
        current = sys.modules["coverage"].Coverage.current()
        if current is not None:
            current.stop()
            current.save()
    _exit_with_signal(number)


app._exitWithSignal = _save_and_exit

if __name__ == "__main__":
    run()
