"""The fork of a worker: what the child does before it is one, and how it ends."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
import traceback
from _socket import SocketType
from collections.abc import Sequence
from contextlib import suppress
from faulthandler import register as register_stack
from gc import enable as gc_enable
from os import O_WRONLY, _exit, close, dup2, getppid, setpgid, write
from os import open as open_file
from typing import Any, NoReturn

from taskd.worker.board import Board
from taskd.worker.loop import WorkerLoop
from taskd.worker.messages import CONTROL

__all__ = ["WorkerForker", "die_with_parent"]

OOM_SCORE = b"500"
"""Of 1000: when memory runs out, the kernel takes a worker and not the daemon."""

_SIGKILL, _SIGTERM = int(signal.SIGKILL), int(signal.SIGTERM)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


# Looked up once: what a worker need not do itself is memory that it shares.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send `signal_number` to this process when its parent ends; 0: no longer. Linux only."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal_number)


class WorkerForker:
    """Forks this process, the fork server, and has the child run `loop`.

    `hard_memory` is a worker's limit in bytes of private writable memory, None for none.
    Made when the app is imported: each child shares what is prepared here.
    """

    def __init__(self, loop: WorkerLoop, board: Board, hard_memory: int | None) -> None:
        self._loop = loop
        self._board = board
        self._hard_memory = hard_memory
        self._pid = os.getpid()
        self._numpy_random: Any = sys.modules.get("numpy.random")
        # Its table of 16 KiB is made at the first use, and kept: let that be here.
        faulthandler.register(signal.SIGTERM)
        faulthandler.unregister(signal.SIGTERM)

    def fork(self, places: list[int], given: list[int], inherited: Sequence[int]) -> list[int | OSError]:
        """Fork a worker for each place on the board, one right after the other; their pids, or why not.

        `given` has two descriptors for each, its channel and its output, and is
        closed here. `inherited` are further ones that a worker must not keep.
        What this process writes to between two forks the workers do not share.
        """
        outcomes: list[int | OSError] = []
        for index, place in enumerate(places):
            try:
                pid = os.fork()
            except OSError as error:
                outcomes.append(error)
            else:
                if pid == 0:
                    self._become_worker(given, 2 * index, inherited, place)
                outcomes.append(pid)
        for descriptor in given:
            os.close(descriptor)
        return outcomes

    def _become_worker(self, given: list[int], index: int, inherited: Sequence[int], place: int) -> NoReturn:
        """Run a worker with the two of `given` that begin at `index`; the others are its siblings'."""
        status = 1
        try:
            self._leave_parent(given, index, inherited)
            # The daemon's SIGTERM: print where the function was, then end of it.
            register_stack(_SIGTERM, all_threads=False, chain=True)
            if self._hard_memory is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (self._hard_memory, self._hard_memory))
            self._loop.run(SocketType(fileno=given[index]), self._board, place)
            status = 0
        except BaseException:  # the process ends here, whatever it was
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            _exit(status)

    def _leave_parent(self, given: list[int], index: int, inherited: Sequence[int]) -> None:
        """Drop everything of the fork server that a worker must not have.

        Plain calls of plain functions, since each worker has to itself the
        pages of whatever is touched here, if only to count a reference.
        """
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        if getppid() != self._pid:
            _exit(1)  # the fork server ended before the kernel knew
        setpgid(0, 0)
        output = given[index + 1]
        dup2(output, 1)
        dup2(output, 2)
        close(CONTROL)
        for descriptor in inherited:
            close(descriptor)
        channel = given[index]
        for descriptor in given:
            if descriptor != channel:
                close(descriptor)
        gc_enable()
        # Python reseeds its own generator at a fork; numpy's global one is left alike everywhere.
        if self._numpy_random is not None:
            self._numpy_random.seed()
        try:
            score = open_file("/proc/self/oom_score_adj", O_WRONLY)
            write(score, OOM_SCORE)
            close(score)
        except OSError:
            pass
