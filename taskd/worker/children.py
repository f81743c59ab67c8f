"""The signals of processes that a task forks: they are no workers, and handle signals as any program does.

A worker prints a stack at SIGTERM, and reads its channel at `POKE`. In a child
that a task has forked (multiprocessing) both would be wrong: `Process.terminate`
would print a stack. SIGTERM is blocked during the fork, since it may arrive
before the child runs a line of Python.
"""

from __future__ import annotations

import faulthandler
import signal
from _thread import get_ident
from os import register_at_fork

from taskd.worker.messages import POKE, STACKS

__all__ = ["give_up_signals_in_children"]


def give_up_signals_in_children() -> None:
    """Have every child that is forked from now on by this process, a worker, give up its signals."""
    register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_give_up)


_was_blocked: dict[int, bool] = {}
"""Whether a thread that forks had SIGTERM blocked before."""


def _block() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    _was_blocked[get_ident()] = signal.SIGTERM in before


def _unblock() -> None:
    if not _was_blocked.pop(get_ident(), True):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _give_up() -> None:
    faulthandler.unregister(signal.SIGTERM)
    faulthandler.unregister(STACKS)
    signal.signal(POKE, signal.SIG_DFL)
    _unblock()
