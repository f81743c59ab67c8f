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

__all__ = ["ChildProcess", "parent_of"]

HELPER_GRACE = 1.0
"""Seconds that the other processes of the group of a program that was killed have to end, after
a SIGTERM: enough to remove what they share, such as files in /dev/shm."""


@implementer(IReadDescriptor)
class ChildProcess:
    """A running program in a session of its own, watched through a descriptor of the process (pidfd_open(2)).

    `command` runs in `directory`, reads nothing, writes to `output`, and
    inherits the descriptors `passed`. `ended` is called once, with the exit
    status or minus the signal, as soon as the process itself has ended: other
    processes may still hold its pipes and sockets. Those that are left in its
    process group are killed as well, after `HELPER_GRACE` if the program had no
    occasion to end them. Raises `OSError` if the program cannot be started or watched;
    whatever it raises, nothing of it is left then.
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
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:  # by whoever has started the daemon
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise nothing is known of an end
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
        self._pidfd = -1
        try:
            self._pidfd = os.pidfd_open(self.pid)
            reactor.addReader(self)
        except BaseException:
            self._process.kill()
            self._process.wait()
            if self._pidfd >= 0:
                os.close(self._pidfd)
            raise

    def signal(self, number: int) -> None:
        """Send a signal to the process; do nothing if it has ended, whoever has its id now."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill_group(self) -> None:
        """Kill the process and its process group; do nothing if it has ended."""
        if self._pidfd >= 0:
            self._signal_group(signal.SIGKILL)

    # --- `twisted.internet.interfaces.IReadDescriptor`: readable when the process has ended ---

    def fileno(self) -> int:
        """Return the descriptor of the process, -1 once it has ended."""
        return self._pidfd

    def logPrefix(self) -> str:  # noqa: N802  # Twisted's name
        """Return the prefix for messages of Twisted's older log functions."""
        return type(self).__name__

    def doRead(self) -> None:
        """Report the end of the process, and end what is left of its group."""
        self._reactor.removeReader(self)
        found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        assert found is not None
        was_killed = found.si_code != os.CLD_EXITED
        os.close(self._pidfd)
        self._pidfd = -1
        if was_killed:
            self._signal_group(signal.SIGTERM)
            self._in_time = self._reactor.callLater(HELPER_GRACE, self._end_group_in_time)
            self._at_shutdown = self._reactor.addSystemEventTrigger(
                "after", "shutdown", self._end_group_at_shutdown
            )
        else:
            self._end_group()
        self._ended(-found.si_status if was_killed else found.si_status)

    def _end_group_in_time(self) -> None:
        self._reactor.removeSystemEventTrigger(self._at_shutdown)
        self._end_group()

    def _end_group_at_shutdown(self) -> None:
        self._in_time.cancel()
        self._end_group()

    def _end_group(self) -> None:
        """Kill the group, and wait for the process only then: until that, nobody else gets its id."""
        self._signal_group(signal.SIGKILL)
        self._process.wait()

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing when the reactor stops, since the process may still run."""


def parent_of(pid: int) -> int:
    """Return the process id of a process's parent. Raises `OSError` if there is no such process."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        # The name, in parentheses, may contain anything.
        return int(stat.read().rpartition(b")")[2].split()[1])
