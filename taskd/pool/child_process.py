"""A child process of the daemon: its start, its signals, and its end, which never waits for its pipes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.net.reactor import Reactor

__all__ = ["ChildProcess"]


@implementer(IReadDescriptor)
class ChildProcess:
    """A running program in a session of its own, watched through a descriptor of the process (pidfd_open(2)).

    `command` runs in `directory`, reads nothing, writes to `output`, and
    inherits the descriptors `passed`. `ended` is called once, with the exit
    status or minus the signal, as soon as the process itself has ended: other
    processes may still hold its pipes and sockets. Those that are left in its
    process group are killed before that. Raises `OSError` if the program cannot
    be started; then nothing of it is left.
    """

    def __init__(
        self,
        reactor: Reactor,
        command: Sequence[str],
        directory: str,
        passed: Sequence[int],
        output: int,
        ended: Callable[[int], None],
    ) -> None:
        self._reactor = reactor
        self._ended = ended
        self._process = subprocess.Popen(  # noqa: S603  # the command is taskd's own
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=passed,
            start_new_session=True,
        )
        self.pid = self._process.pid
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._process.kill()
            self._process.wait()
            raise
        reactor.addReader(self)

    def signal(self, number: int) -> None:
        """Send a signal to the process; do nothing if it has ended, whoever has its id now."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    # --- `twisted.internet.interfaces.IReadDescriptor`: readable when the process has ended ---

    def fileno(self) -> int:
        """Return the descriptor of the process, -1 once it has ended."""
        return self._pidfd

    def logPrefix(self) -> str:  # noqa: N802  # Twisted's name
        """Return the prefix for messages of Twisted's older log functions."""
        return type(self).__name__

    def doRead(self) -> None:
        """Kill what is left of the process group, wait for the process, and report its end."""
        self._reactor.removeReader(self)
        # The group's id is that of the process, which nobody else gets before the wait.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        os.close(self._pidfd)
        self._pidfd = -1
        self._ended(status)

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing when the reactor stops, since the process may still run."""
