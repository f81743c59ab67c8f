"""The stops of child processes (SIGSTOP) and their continuation, as events in the fork server.

The kernel sends SIGCHLD for them. Here the signal is blocked and read from a
descriptor (signalfd(2)): a handler would have to be undone in every worker, and
looking at each worker now and then would wake the process for nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["ChildEvents"]

_SIGNALS = [signal.SIGCHLD]

_SIGSET_BYTES = 128
"""Bytes of a sigset_t in glibc and musl."""

_READ_BYTES = 4096
"""Bytes of one read: more than the signals that can be pending."""


class ChildEvents:
    """A descriptor that is readable when a child was stopped, goes on or has ended. Linux only."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        mask = ctypes.create_string_buffer(_SIGSET_BYTES)
        libc.sigemptyset(mask)
        libc.sigaddset(mask, int(signal.SIGCHLD))
        self._descriptor: int = libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "signalfd")
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def fileno(self) -> int:
        """Return the descriptor, which a forked child must close."""
        return self._descriptor

    @contextmanager
    def unblocked(self) -> Iterator[None]:
        """Unblock the signal around forks, so that the children have it as usual; call `read` afterwards."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def read(self) -> Iterator[tuple[int, bool]]:
        """Yield the process id of each child that was stopped (True) or goes on (False) since then."""
        with suppress(BlockingIOError):  # a signal that came while it was unblocked has left nothing here
            os.read(self._descriptor, _READ_BYTES)
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
            except ChildProcessError:
                return
            if found is None:
                return
            yield found.si_pid, found.si_code == os.CLD_STOPPED
