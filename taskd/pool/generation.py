"""One generation, that is, one import of the app: its fork server, its workers, their board."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum
from typing import Protocol, TypeAlias

from taskd.errors import StateError
from taskd.functions.registry import FunctionInfo
from taskd.pool.fork_server_process import ForkServerObserver, ForkServerProcess
from taskd.pool.worker_process import WorkerProcess
from taskd.worker.board import Board
from taskd.worker.messages import Exited

__all__ = [
    "GENERATION_STEPS",
    "SPARE_PLACES",
    "Generation",
    "GenerationObserver",
    "GenerationStage",
    "StartForkServer",
]

SPARE_PLACES = 64
"""Places on the board beyond two for each worker that may be needed: workers
that leave keep their places until they are gone."""

StartForkServer: TypeAlias = Callable[[int, ForkServerObserver], ForkServerProcess]
"""Starts a fork server, given the board's descriptor, which may be closed
afterwards, and the receiver of its reports."""


class GenerationObserver(Protocol):
    """The receiver of the reports of generations."""

    def generation_loaded(self, generation: Generation, functions: list[FunctionInfo]) -> None:
        """Note that the app is imported: if the generation is wanted, start workers."""

    def generation_emptied(self, generation: Generation) -> None:
        """Note that the last worker is gone: if the generation is not in use, close it."""

    def generation_ended(self, generation: Generation, how: str, reason: str) -> None:
        """Note that the fork server has ended, and its workers with it: drop the generation.

        `how` describes the fork server's exit. `reason` is the same, or the
        reason why the app could not be imported.
        """


class GenerationStage(Enum):
    """The state of a generation's fork server."""

    IMPORTING = "importing"
    LOADED = "loaded"
    """Workers can be forked."""
    FAILED = "failed"
    """The app cannot be imported; the fork server ends."""
    ENDED = "ended"


GENERATION_STEPS = {
    GenerationStage.IMPORTING: {GenerationStage.LOADED, GenerationStage.FAILED, GenerationStage.ENDED},
    GenerationStage.LOADED: {GenerationStage.ENDED},
    GenerationStage.FAILED: {GenerationStage.ENDED},
    GenerationStage.ENDED: frozenset[GenerationStage](),
}
"""Every step that a generation can take."""


class Generation:
    """One import of the app, from the start of its fork server until its last worker is gone.

    `number` counts the imports, from 1. `max_workers` bounds the workers in
    use at once. `load_error` says why the app could not be imported; "" if it
    could, or if the reason is unknown. Raises as `start` does, and `OSError` if
    there is no board to be had; then nothing is left of the generation.
    """

    def __init__(
        self, number: int, max_workers: int, start: StartForkServer, observer: GenerationObserver
    ) -> None:
        self.number = number
        self.load_error = ""
        self._stage = GenerationStage.IMPORTING
        self._closing = False
        self._observer = observer
        self._workers: dict[int, WorkerProcess] = {}
        self._places: dict[int, int] = {}
        places = 2 * max_workers + SPARE_PLACES
        self._free = list(range(places - 1, -1, -1))
        descriptor = Board.create(places)
        try:
            self._board = Board(descriptor)
            try:
                self._fork_server = start(descriptor, self)
            except BaseException:
                self._board.close()
                raise
        finally:
            os.close(descriptor)

    def __repr__(self) -> str:
        return f"<generation {self.number}, {self._stage.value}, {len(self._workers)} workers>"

    @property
    def has_place(self) -> bool:
        """Whether one more worker can be forked."""
        return self._stage is GenerationStage.LOADED and not self._closing and bool(self._free)

    @property
    def is_loaded(self) -> bool:
        """Whether the app is imported, and the fork server has not ended."""
        return self._stage is GenerationStage.LOADED

    @property
    def is_empty(self) -> bool:
        """Whether the generation has no workers."""
        return not self._workers

    def fork(self, worker: WorkerProcess) -> None:
        """Have a worker forked, and give it a place on the board until `forget`."""
        place = self._free.pop()
        self._board.clear(place)
        self._places[worker.number] = place
        self._workers[worker.number] = worker
        channel, output = worker.descriptors
        self._fork_server.fork(worker.number, place, channel, output)

    def close(self) -> None:
        """End the fork server, and every worker that is left; `generation_ended` follows. Idempotent."""
        if self._closing or self._stage is GenerationStage.ENDED:
            return
        self._closing = True
        if self._stage is GenerationStage.IMPORTING:
            self._fork_server.abort()  # while it imports the app, it would not notice a close
        else:
            self._fork_server.close()

    def kill(self) -> None:
        """Kill the workers, what their tasks have started, and the fork server, without the reactor."""
        for worker in list(self._workers.values()):
            if worker.pid is not None:
                self._fork_server.kill_child(worker.pid)
        self._fork_server.kill()

    # --- `taskd.pool.worker_process.WorkerHome` ---

    def begun(self, number: int) -> int:
        """Return the number of the task that a worker began last, 0 for none."""
        return self._board.begun(self._places[number])

    def kept(self, number: int) -> bytes:
        """Return the lines that a worker had not sent when it ended."""
        return self._board.kept(self._places[number])

    def signal(self, number: int, signal_number: int, *, group: bool) -> None:
        """Send a signal to a worker, or to its whole process group, while there is a fork server."""
        if self._stage is GenerationStage.LOADED:
            self._fork_server.signal(number, signal_number, group=group)

    def forget(self, number: int) -> None:
        """Free the place of a worker that is gone."""
        del self._workers[number]
        self._free.append(self._places.pop(number))
        self._release_board()
        if self.is_empty:
            self._observer.generation_emptied(self)

    # --- `taskd.pool.fork_server_process.ForkServerObserver` ---

    def app_loaded(self, functions: list[FunctionInfo]) -> None:
        """Report that workers can be forked."""
        self._step(GenerationStage.LOADED)
        self._observer.generation_loaded(self, functions)

    def app_failed(self, reason: str) -> None:
        """Keep the reason until the fork server has ended."""
        self._step(GenerationStage.FAILED)
        self.load_error = reason

    def worker_forked(self, number: int, pid: int | None, reason: str) -> None:
        """Pass on to the worker that it was forked, or could not be."""
        self._workers[number].forked(pid, reason)

    def worker_reaped(self, exited: Exited) -> None:
        """Pass on to the worker that its process has ended."""
        self._workers[exited.number].reaped(exited)

    def worker_suspended(self, number: int, *, is_suspended: bool) -> None:
        """Pass on to the worker that it was stopped by a signal, or goes on."""
        self._workers[number].suspended(is_suspended=is_suspended)

    def fork_server_ended(self, how: str) -> None:
        """End the generation and its workers: without a fork server there is no parent for them."""
        reason = self.load_error or f"the fork server ended ({how})"
        if self._stage is GenerationStage.IMPORTING and not self.load_error:
            reason = f"the fork server ended while it imported the app ({how})"
        self._step(GenerationStage.ENDED)
        for worker in list(self._workers.values()):
            worker.fork_server_ended(how)
        self._observer.generation_ended(self, how, reason)
        self._release_board()

    def _release_board(self) -> None:
        """Close the board once nothing will read it."""
        if self._stage is GenerationStage.ENDED and self.is_empty:
            # Closed here, since the garbage collector may not run for hours.
            self._board.close()

    def _step(self, stage: GenerationStage) -> None:
        if stage not in GENERATION_STEPS[self._stage]:
            raise StateError(f"a generation cannot go from {self._stage.value} to {stage.value}")
        self._stage = stage
