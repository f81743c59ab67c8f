"""The state of a worker that every task must find as the start hooks left it."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType

from taskd.worker.event_loop import EventLoop
from taskd.worker.own_process import OwnProcess
from taskd.worker.signal_state import SignalState
from taskd.worker.streams import StandardStreams

__all__ = ["CleanStart"]


class CleanStart:
    """Everything of a worker that a task can damage for the next one, and that is put back in between.

    Context variables need no putting back: each task has a context of its own.
    What is not here is the app's own business: the working directory, the
    environment, handlers of other signals, and so on (docs/operating.md).
    """

    def __init__(self, output: int, errors: int, on_poke: Callable[[int, FrameType | None], object]) -> None:
        self.process = OwnProcess()
        self.event_loop = EventLoop()
        self._streams = StandardStreams(output, errors)
        self._signals = SignalState(on_poke)
        self.has_output = self._streams.has_output

    def keep(self) -> None:
        """Note what the start hooks have set up: that is what every task finds. `close` must follow."""
        self._streams.keep()
        self._signals.keep()
        self.event_loop.settle()

    def settle(self) -> None:
        """Put back, after a task's function, what `has_output` does not.

        Not needed after a function that is known to be short: it has run dozens of
        times, each faster than all of this matters. After that, settle only
        `event_loop`, if it was used.
        """
        try:
            self._signals.put_back()
            self._streams.put_back_descriptors()
            self.event_loop.settle()
        except Exception:  # raised by a signal handler of the app, which happened to run here
            self._signals.put_back()

    def close(self) -> None:
        """Close the event loop and the spare descriptors; call it after the last task and the stop hooks."""
        self.event_loop.close()
        self._streams.close()
