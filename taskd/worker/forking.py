"""Forking a worker: what the child sets up and gives up before it runs the loop, and how it exits."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
from _socket import SocketType
from collections.abc import Sequence
from contextlib import suppress
from faulthandler import register as register_stack
from gc import enable as gc_enable
from os import O_WRONLY, _exit, close, dup2, getppid, setpgid, write
from os import open as open_file
from typing import Any, NoReturn

from taskd.worker.board import Board
from taskd.worker.children import give_up_signals_in_children
from taskd.worker.guard import flush_streams
from taskd.worker.loop import WorkerLoop
from taskd.worker.messages import STACKS
from taskd.worker.tracebacks import traceback_of

__all__ = ["WorkerForker", "die_with_parent"]

OOM_SCORE = b"500"
"""A worker's oom_score_adj, at most 1000: when memory runs out, the kernel kills a worker, not the daemon."""

_ERRORS = 2

_SIGKILL, _SIGTERM = int(signal.SIGKILL), int(signal.SIGTERM)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


# Looked up once, before the fork, so that the workers share the memory for it.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send `signal_number` to this process when its parent ends; 0 undoes it. Linux only."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal_number)


class WorkerForker:
    """Forks workers from this process, the fork server; each child runs `loop`.

    `hard_memory` is a worker's limit in bytes of private writable memory, None for
    none. Make the forker after the app is imported: each child shares what is
    prepared here.
    """

    def __init__(self, loop: WorkerLoop, board: Board, hard_memory: int | None) -> None:
        self._loop = loop
        self._board = board
        self._hard_memory = hard_memory
        self._pid = os.getpid()
        self._numpy_random: Any = sys.modules.get("numpy.random")
        # The module allocates a table of 16 KiB at its first use and keeps it: do that here, once.
        faulthandler.register(signal.SIGTERM, _ERRORS)
        faulthandler.unregister(signal.SIGTERM)
        faulthandler.register(STACKS, _ERRORS)  # for the workers, which have this process's handlers

    def fork(self, places: list[int], given: list[int], inherited: Sequence[int]) -> list[int | OSError]:
        """Fork a worker for each place on the board; return the pid of each, or the error.

        `given` has two descriptors for each worker, its channel and its output,
        and all of them are closed here. `inherited` are further descriptors
        that a worker must not keep. The forks follow each other directly: the
        workers do not share memory that this process writes to between two forks.
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
        """Run a worker with the two descriptors of `given` at `index`; the others are its siblings'."""
        status = 1
        try:
            self._leave_parent(given, index, inherited)
            # At the daemon's SIGTERM: print the function's stack, then end by the signal.
            register_stack(_SIGTERM, _ERRORS, all_threads=False, chain=True)
            give_up_signals_in_children()
            if self._hard_memory is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (self._hard_memory, self._hard_memory))
            channel = SocketType(fileno=given[index])
            channel.settimeout(None)  # the app may have set a default
            self._loop.run(channel, self._board, place)
            status = 0
        except BaseException as error:  # whatever it is, the process ends here
            flush_streams()
            # Not to sys.stderr, which may be anything by now.
            with suppress(Exception):
                write(_ERRORS, traceback_of(error, lambda _: False).encode("utf-8", "backslashreplace"))
        finally:
            flush_streams()
            _exit(status)

    def _leave_parent(self, given: list[int], index: int, inherited: Sequence[int]) -> None:
        """Give up everything of the fork server that a worker must not have.

        Only plain calls of plain functions: whatever is touched here, if only
        to count a reference, takes each worker a page of its own.
        """
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        if getppid() != self._pid:
            _exit(1)  # the fork server ended before the kernel knew
        setpgid(0, 0)
        output = given[index + 1]
        dup2(output, 1)
        dup2(output, _ERRORS)
        for descriptor in inherited:
            close(descriptor)
        channel = given[index]
        for descriptor in given:
            if descriptor != channel:
                close(descriptor)
        gc_enable()
        # Python reseeds its own generator at a fork; numpy's global one would be the same in all workers.
        if self._numpy_random is not None:
            self._numpy_random.seed()
        try:
            score = open_file("/proc/self/oom_score_adj", O_WRONLY)
            write(score, OOM_SCORE)
            close(score)
        except OSError:
            pass
