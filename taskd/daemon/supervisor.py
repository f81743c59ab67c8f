"""The daemon's supervisor, systemd for example: what it is sent from the start to the end of the daemon."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from taskd.daemon.notify_socket import MICROSECONDS, NotifySocket, take_notify_socket, take_watchdog

__all__ = ["EXTENSION", "EXTENSION_INTERVAL", "Supervisor", "supervisor_of"]

EXTENSION_INTERVAL = 5.0
"""Seconds between two requests for more time, while the daemon waits for tasks at its stop."""

EXTENSION = 15.0
"""Seconds that each of them asks for: a daemon that is blocked for longer is killed, as one that hangs."""


class Supervisor:
    """The supervisor of a daemon; without a `socket`, nothing is sent.

    `watchdog` is the number of seconds within which the watchdog needs a sign of
    life, None if there is none. The reactor gives it at half that time, so that a
    daemon whose reactor is blocked is restarted. `monotonic` returns the time of
    CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(
        self,
        clock: IReactorTime,
        socket: NotifySocket | None,
        watchdog: float | None = None,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._clock = clock
        self._socket = socket
        self._watchdog = watchdog
        self._monotonic = monotonic
        self._sign: IDelayedCall | None = None
        self._extension: IDelayedCall | None = None

    def status(self, text: str) -> None:
        """Report what the daemon does, as ``systemctl status`` shows it."""
        self._send(STATUS=text)

    def ready(self, text: str) -> None:
        """Report that the daemon serves, after its start or a reload; the watchdog watches from now on."""
        self._send(READY=1, STATUS=text)
        if self._sign is None:
            self._give_sign()

    def reloading(self, text: str) -> None:
        """Report that a reload has begun; `ready` must follow, however it ends."""
        self._send(RELOADING=1, MONOTONIC_USEC=self._monotonic() // 1000, STATUS=text)

    def stopping(self, text: str) -> None:
        """Report that the stop has begun, and ask for more time until `finishing`."""
        self._send(STOPPING=1, STATUS=text)
        self._extend()

    def finishing(self, text: str, seconds: float) -> None:
        """Report that the last steps of the stop have begun, which take so many seconds at most."""
        self._cancel_extension()
        self._send(STATUS=text, EXTEND_TIMEOUT_USEC=round(seconds * MICROSECONDS))

    def close(self) -> None:
        """Send nothing more. Idempotent."""
        self._cancel_extension()
        if self._sign is not None:
            self._sign.cancel()
            self._sign = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, **assignments: str | int) -> None:
        if self._socket is not None:
            self._socket.send(**assignments)

    def _give_sign(self) -> None:
        if self._socket is not None and self._watchdog is not None:
            self._send(WATCHDOG=1)
            self._sign = self._clock.callLater(self._watchdog / 2, self._give_sign)

    def _extend(self) -> None:
        if self._socket is not None:
            self._send(EXTEND_TIMEOUT_USEC=round(EXTENSION * MICROSECONDS))
            self._extension = self._clock.callLater(EXTENSION_INTERVAL, self._extend)

    def _cancel_extension(self) -> None:
        if self._extension is not None:
            self._extension.cancel()
            self._extension = None


def supervisor_of(clock: IReactorTime, environ: MutableMapping[str, str]) -> Supervisor:
    """Return the supervisor that `environ` names, and take its variables out of there."""
    socket = take_notify_socket(clock, environ)
    return Supervisor(clock, socket, take_watchdog(environ))
