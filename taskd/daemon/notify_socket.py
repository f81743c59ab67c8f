"""The datagrams by which a service reports its state to systemd or the like (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["MAX_QUEUED", "RETRY_SECONDS", "NotifySocket", "take_notify_socket", "take_watchdog"]

_log = Logger(namespace="taskd.supervisor")

SOCKET, WATCHDOG, WATCHDOG_OWNER = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
"""The variables of the environment. Workers must not find them: what they sent would count as its own."""

RETRY_SECONDS = 0.1
"""Seconds after which a datagram is sent again for which there was no room: systemd reads them quickly."""

MAX_QUEUED = 16
"""Datagrams that wait for room: more than a start or a stop sends. Older ones are out of date."""

MICROSECONDS = 1_000_000


class NotifySocket:
    """The socket to the supervisor at `address`: a path, or an abstract name that begins with ``@``.

    An error is logged once, and never raised: the service goes on without a supervisor.
    """

    def __init__(self, clock: IReactorTime, address: str) -> None:
        self._clock = clock
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._queued: list[bytes] = []
        self._retry: IDelayedCall | None = None
        self._has_complained = False

    def send(self, **assignments: str | int) -> None:
        """Send assignments such as ``READY=1`` in one datagram; later, if there is no room for it now."""
        lines = [f"{name}={_one_line(str(value))}" for name, value in assignments.items()]
        self._queued.append("\n".join(lines).encode("utf-8", "replace"))
        del self._queued[:-MAX_QUEUED]
        if self._retry is None:
            self._flush()

    def close(self) -> None:
        """Close the socket, with what still waits for room. Idempotent."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._socket.close()

    def _flush(self) -> None:
        self._retry = None
        while self._queued:
            try:
                self._socket.sendto(self._queued[0], self._address)
            except BlockingIOError:
                self._retry = self._clock.callLater(RETRY_SECONDS, self._flush)
                return
            except OSError as error:
                self._complain(error)
            del self._queued[0]

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            _log.warn("NOTIFY_SOCKET: nothing can be sent there: {why}", why=error.strerror or str(error))


def take_notify_socket(clock: IReactorTime, environ: MutableMapping[str, str]) -> NotifySocket | None:
    """Take the variable out of `environ`, and return the socket that it names; None if it names none."""
    address = environ.pop(SOCKET, "")
    if not address:
        return None
    if not address.startswith(("/", "@")) or len(address) < 2:
        _log.warn("NOTIFY_SOCKET={address} is ignored: it is neither a path nor @NAME", address=address)
        return None
    return NotifySocket(clock, address)


def take_watchdog(environ: MutableMapping[str, str]) -> float | None:
    """Take the variables out of `environ`, and return the seconds within which the watchdog needs a sign.

    Returns None if there is no watchdog, or if it watches another process.
    """
    text, owner = environ.pop(WATCHDOG, ""), environ.pop(WATCHDOG_OWNER, "")
    if not text or (owner and owner != str(os.getpid())):
        return None
    if not (text.isascii() and text.isdecimal() and int(text)):
        _log.warn("WATCHDOG_USEC={text} is ignored: it is no number of microseconds", text=text)
        return None
    return int(text) / MICROSECONDS


def _one_line(text: str) -> str:
    """Return a text without ends of lines, since each would begin another assignment."""
    return " ".join(text.splitlines())
