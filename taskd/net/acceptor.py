"""The acceptor of a port's connections, which refuses with a reason those for which there is no room.

Twisted's own ports accept until the process is out of descriptors; from then on they close connections
without a reply, with three log lines for each.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from errno import EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM
from functools import partial
from typing import cast

from twisted.internet.interfaces import IDelayedCall, IProtocol, IReadDescriptor, ITransport
from twisted.internet.tcp import Port
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.net.admission import Admission
from taskd.net.buffered_socket import Handle, socket_address
from taskd.net.descriptors import ConnectionLimits
from taskd.net.lingering import Lingering
from taskd.net.notices import Notices
from taskd.net.party_keys import address_key, user_key
from taskd.net.reactor import Reactor

__all__ = ["AcceptedTransport", "Acceptor", "Door"]

_log = Logger(namespace="taskd")

ACCEPTS = 50
"""Connections accepted in one turn of the reactor: then those that are there already get theirs. They take
a few milliseconds, with what is read from them in the next turn."""

DEAR_ACCEPTS = 8
"""The same on a port whose connections begin with a handshake, which may take a millisecond each."""

PAUSE = 0.5
"""Seconds without accepting after the kernel could not give a descriptor: otherwise the reactor would ask
for one again at once, and do nothing else."""

MAX_OVER = 8
"""Connections beyond the bound while those that they displace are being closed."""

MAX_REFUSED = 8
"""Refused connections that linger, so that the reason arrives: each has a descriptor."""

_EXHAUSTED = (EMFILE, ENFILE, ENOBUFS, ENOMEM)


class AcceptedTransport(ITransport):
    """The transport of an accepted connection, which calls `when_closed` once its descriptor is closed."""

    protocol: IProtocol
    when_closed: Callable[[], object] | None

    def abortConnection() -> None:  # noqa: N802  # an interface has no self
        """Reset the connection."""


class Door:
    """The connections of a process, through whichever port they come.

    `limits` says how many there may be, and `most_each` how many from one address. Connections whose
    two ends are in `own` are the process's own: their number is bounded where they are made, and they
    are always let in. If there is no room at a port, its `make_room` may close a connection that
    nobody uses, and returns whether it did.
    """

    def __init__(self, reactor: Reactor, limits: ConnectionLimits, most_each: int | None = None) -> None:
        self.admission = Admission(limits.accepted, most_each)
        self.own: set[object] = set()
        self.lingering = Lingering(reactor, MAX_REFUSED)
        self._limits = limits
        self._refused = self._displaced = 0
        self._notices = Notices(reactor, self._report)
        self._troubles = Notices(reactor, self._report_trouble)

    def enter(self, party: str, make_room: Callable[[], bool], *, is_address: bool = True) -> bool:
        """Let in a connection of `party`; return whether there is room. `Admission.leave` gives it back.

        A party that is no address, but a user of this machine, has no limit of its own.
        """
        admission = self.admission
        if is_address and admission.has_its_most(party):
            return False
        if admission.enter(party):
            return True
        if admission.used < admission.most + MAX_OVER and make_room():
            self._displaced += 1
            self._notices.note(party)
            return admission.enter(party, over=True)
        return False

    def refuse(self, sock: Handle, party: str, reason: bytes) -> None:
        """Send the reason, and close."""
        self._refused += 1
        self._notices.note(party)
        with suppress(OSError):
            sock.setblocking(False)
            sock.send(reason)
        self.lingering.take(sock)

    def cannot_accept(self, error: OSError) -> None:
        """Note that the kernel gives no descriptor for a connection."""
        self._troubles.note(error.strerror or str(error))

    def _report(self, _: int, party: str) -> None:
        largest, held = self.admission.largest
        _log.warn(
            "too many connections: {refused} refused, {displaced} idle ones closed, lastly for {party}; "
            "{used} are open of {most}{why}, {held} of them from {largest}{each}",
            refused=self._refused,
            displaced=self._displaced,
            party=party,
            used=self.admission.used,
            most=self.admission.most,
            why=self._limits.why,
            each=""
            if self.admission.most_each is None
            else f" (--max-per-address {self.admission.most_each})",
            held=held,
            largest=largest,
        )
        self._refused = self._displaced = 0

    @staticmethod
    def _report_trouble(count: int, why: str) -> None:
        _log.error("a connection could not be accepted ({count} times): {why}", count=count, why=why)


@implementer(IReadDescriptor)
class Acceptor:
    """Accepts the connections of a port in Twisted's place, for the port's factory and with its transport.

    `name` stands for the port in the log and among the parties, since whoever has many connections
    to one port must not keep others from another port. `refusal` is what a connection is sent for
    which the `door` has no room, unless `make_room` can close another one. At most `accepts`
    connections are accepted in one turn.
    """

    def __init__(
        self,
        reactor: Reactor,
        port: Port,
        door: Door,
        name: str,
        refusal: bytes,
        make_room: Callable[[], bool],
        accepts: int = ACCEPTS,
    ) -> None:
        self._reactor = reactor
        self._accepts = accepts
        self._name = name
        self._make_room = make_room
        self._port = port
        self._door = door
        self._refusal = refusal
        self._listener: socket.socket = port.socket
        self._family = int(self._listener.family)
        self._make = cast(Callable[..., AcceptedTransport], port.transport)
        self._count = 0
        self._reserve = _reserve()
        self._pause: IDelayedCall | None = None
        port.stopReading()
        reactor.addReader(self)

    def close(self) -> None:
        """Accept no more; the port itself is closed by its owner."""
        self._reactor.removeReader(self)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    # --- called by the reactor ---

    def fileno(self) -> int:
        """Return the descriptor of the port, -1 once it is closed."""
        return self._listener.fileno()

    def logPrefix(self) -> str:  # noqa: N802  # Twisted's name
        """Return the prefix for messages of Twisted's older log functions."""
        return str(self._port.logPrefix())

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing when the reactor stops: the port's owner closes it."""

    def doRead(self) -> None:
        """Accept the connections that wait."""
        for _ in range(self._accepts):
            try:
                # What `accept` calls; that goes on to make a `socket.socket`, in twice the time.
                descriptor, name = self._listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == EINVAL or self.fileno() < 0:
                    return  # the port is being closed
                if error.errno in _EXHAUSTED:
                    self._exhausted(error)
                    return
                continue  # the client is gone, or the network has refused it: accept(2)
            sock = Handle(self._family, socket.SOCK_STREAM, 0, descriptor)
            try:
                self._begin(sock, name)
            except Exception:
                _log.failure("a bug in taskd: a connection could not be begun")

    def _begin(self, sock: Handle, name: object) -> None:
        door = self._door
        try:
            party, is_own = self._whose(sock, name)
        except OSError:  # it is gone already
            sock.close()
            return
        is_address = self._family != socket.AF_UNIX
        if not is_own and not door.enter(party, self._make_room, is_address=is_address):
            door.refuse(sock, party, self._refusal)
            return
        transport = None
        try:
            transport = self._connect(sock, name)
        finally:
            if transport is None:
                sock.close()
                if not is_own:
                    door.admission.leave(party)
        if transport is None:
            return
        if not is_own:
            transport.when_closed = partial(door.admission.leave, party)
        try:
            transport.protocol.makeConnection(transport)
        except Exception:
            transport.abortConnection()
            raise

    def _connect(self, sock: Handle, name: object) -> AcceptedTransport | None:
        """Make the protocol of a connection and its transport; None if the factory refuses it."""
        port = self._port
        assert port.factory is not None
        protocol = port.factory.buildProtocol(socket_address(name))
        if protocol is None:
            return None
        self._count += 1
        return self._make(sock, protocol, name, port, self._count, self._reactor)

    def _whose(self, sock: Handle, name: object) -> tuple[str, bool]:
        """Return the party of a connection, and whether it comes from this process, as far as that shows.

        Raises `OSError` if the connection is gone.
        """
        if self._family == socket.AF_UNIX:
            key, process = user_key(sock)
            is_own = process == os.getpid()
        else:
            key = address_key(name[0])  # type: ignore[index]
            own = self._door.own
            is_own = bool(own) and (name, sock.getsockname()) in own
        return f"{key} ({self._name})", is_own

    # --- without descriptors ---

    def _exhausted(self, error: OSError) -> None:
        """Refuse who waits with the descriptor in reserve; if that does not help, pause.

        The door lets in fewer connections than there are descriptors. But others may have used them up:
        the limit may have been lowered, or the whole system is out of files.
        """
        self._door.cannot_accept(error)
        refused = 0
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
            with suppress(OSError):
                while refused < self._accepts:
                    sock, _ = self._listener.accept()
                    refused += 1
                    with sock, suppress(OSError):
                        sock.setblocking(False)
                        sock.send(self._refusal)
                        sock.shutdown(socket.SHUT_WR)
        if self._reserve < 0:
            self._reserve = _reserve()
        if not refused:
            self._reactor.removeReader(self)
            self._pause = self._reactor.callLater(PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._reactor.addReader(self)


def _reserve() -> int:
    """Return a descriptor to be given up when there are no others; -1 if there is none."""
    try:
        return os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return -1
