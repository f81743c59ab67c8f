"""The processes of one import of the app: a fork server and its workers."""

from __future__ import annotations

import os
from typing import Protocol

from taskd.functions.registry import FunctionInfo
from taskd.net.reactor import Reactor
from taskd.pool.fork_server_process import ForkServerProcess
from taskd.worker.board import Board
from taskd.worker.messages import Exited, WorkerConfig

__all__ = ["Generation", "GenerationObserver"]

SPARE_PLACES = 64
"""Places on the board beyond one for each worker that may be wanted: workers
that leave keep theirs until they are gone."""


class GenerationObserver(Protocol):
    """Who hears what becomes of a generation."""

    def generation_loaded(self, generation: Generation, functions: list[FunctionInfo]) -> None:
        """The app is imported; workers can be forked."""

    def generation_ended(self, generation: Generation, how: str) -> None:
        """The fork server is gone, and with it, soon, every worker that it forked."""

    def worker_forked(self, number: int, pid: int | None, reason: str) -> None:
        """Worker `number` has begun; or, where `pid` is None, could not."""

    def worker_reaped(self, exited: Exited) -> None:
        """A worker has ended, and been waited for."""


class Generation:
    """One import of the app, from its start until its last process is gone.

    `number` counts the imports; `has_loaded` tells whether the app could be
    imported, and `load_error` why not, where it could not.
    """

    def __init__(
        self,
        reactor: Reactor,
        number: int,
        config: WorkerConfig,
        max_workers: int,
        observer: GenerationObserver,
    ) -> None:
        self.number = number
        self.can_fork = False
        self.has_loaded = False
        self.load_error: str | None = None
        self._closing = False
        self._has_ended = False
        self._observer = observer
        places = 2 * max_workers + SPARE_PLACES
        descriptor = Board.create(places)
        try:
            self._board = Board(descriptor)
            self._free = list(range(places - 1, -1, -1))
            self._taken: dict[int, int] = {}
            self._link = ForkServerProcess(reactor, config, descriptor, self)
        finally:
            os.close(descriptor)

    @property
    def has_place(self) -> bool:
        """Whether one more worker can be forked."""
        return self.can_fork and bool(self._free)

    @property
    def is_empty(self) -> bool:
        """Whether none of its workers is left."""
        return not self._taken

    def fork(self, number: int, channel: int, output: int) -> None:
        """Fork a worker, as `ForkServerProcess.fork`. It has a place until `forget`."""
        place = self._free.pop()
        self._board.clear(place)
        self._taken[number] = place
        self._link.fork(number, place, channel, output)

    def forget(self, number: int) -> None:
        """The worker is gone."""
        self._free.append(self._taken.pop(number))
        self._check_over()

    def begun(self, number: int) -> int:
        """The number of the task that a worker began last, 0 for none."""
        return self._board.begun(self._taken[number])

    def kept(self, number: int) -> bytes:
        """The lines that a worker had kept to send them later, when it ended."""
        return self._board.kept(self._taken[number])

    def signal(self, number: int, signal_number: int, *, group: bool) -> None:
        """Send a signal to a worker, or to its whole process group."""
        if self.can_fork:
            self._link.signal(number, signal_number, group=group)

    def close(self) -> None:
        """End the fork server, and every worker that is left; `generation_ended` follows."""
        if not self._closing:
            self._closing = True
            self._link.close(at_once=not self.can_fork)

    # --- `taskd.pool.fork_server_process.ForkServerObserver` ---

    def app_loaded(self, functions: list[FunctionInfo]) -> None:
        """Workers can be forked."""
        self.can_fork = self.has_loaded = True
        self._observer.generation_loaded(self, functions)

    def app_failed(self, reason: str) -> None:
        """The app cannot be imported; `fork_server_ended` follows."""
        self.load_error = reason

    def worker_forked(self, number: int, pid: int | None, reason: str) -> None:
        """Pass it on."""
        self._observer.worker_forked(number, pid, reason)

    def worker_reaped(self, exited: Exited) -> None:
        """Pass it on."""
        self._observer.worker_reaped(exited)

    def fork_server_ended(self, how: str) -> None:
        """The process is gone."""
        self.can_fork = False
        self._observer.generation_ended(self, how)
        self._has_ended = True
        self._check_over()

    def _check_over(self) -> None:
        """Close the board, once nothing is left of which it could tell."""
        if self._has_ended and self.is_empty:
            # Not left to the garbage collector, which may come by in hours.
            self._board.close()
