"""Listening sockets that systemd has opened and passed to this process (sd_listen_fds(3)).

systemd keeps them open, so clients that connect while the service is restarted
wait until the next process accepts them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from twisted.internet import tcp, unix
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.net.reactor import Reactor

__all__ = ["NO_SOCKETS", "PassedEndpoint", "PassedSockets", "first_environment"]

FIRST = 3
"""The descriptor of the first socket; the others follow."""

COUNT, OWNER, NAMES = "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"
"""The variables: how many sockets there are, for which process, and their names (`FileDescriptorName=`)."""

UNNAMED = "unknown"
"""The name of a socket without one, as in systemd."""


def first_environment(path: str = "/proc/self/environ") -> dict[str, str]:
    """Return the environment with which the process was started.

    Twisted takes some variables out of the present one as soon as its endpoints
    are imported. Call this before the title of the process is set, which overwrites it.
    """
    try:
        with open(path, "rb") as file:
            pairs = [each.partition(b"=") for each in file.read().split(b"\0")]
    except OSError:  # no /proc
        return dict(os.environ)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


class PassedSockets:
    """The sockets that were passed to this process, by descriptor and name; each can be taken once."""

    def __init__(self, sockets: Sequence[tuple[int, str]] = ()) -> None:
        self._sockets = sockets
        self._left = set(range(len(sockets)))

    @classmethod
    def of(cls, environ: Mapping[str, str], process: int) -> PassedSockets:
        """Return those that `environ` describes, if they are for this process."""
        count = environ.get(COUNT, "")
        if environ.get(OWNER) != str(process) or not (count.isascii() and count.isdecimal()):
            return cls()
        descriptors = range(FIRST, FIRST + int(count))
        names = environ.get(NAMES, "").split(":") if environ.get(NAMES) else []
        names += [UNNAMED] * (len(descriptors) - len(names))
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return cls(list(zip(descriptors, names, strict=False)))

    def take(self, wanted: str) -> socket.socket:
        """Return the socket with this name or, if `wanted` is a number, at this place, counted from 0.

        Raises `ValueError` if there is none, or if it does not listen for connections.
        """
        for place in sorted(self._left):
            descriptor, name = self._sockets[place]
            if wanted in (name, str(place)):
                self._left.remove(place)
                return _listening(descriptor, name)
        if not self._sockets:
            raise ValueError("no socket was passed to this process: is there a .socket unit for it?")
        names = ", ".join(name for _, name in self._sockets)
        raise ValueError(f"the sockets that were passed are {names}, each for one endpoint")

    @property
    def left(self) -> list[str]:
        """The names of those that nobody has taken."""
        return [self._sockets[place][1] for place in sorted(self._left)]


NO_SOCKETS = PassedSockets()
"""What is passed to a process that is started otherwise."""


def _listening(descriptor: int, name: str) -> socket.socket:
    """Return the socket of a descriptor. Raises `ValueError` if it does not listen for connections."""
    try:
        sock = socket.socket(fileno=descriptor)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ValueError(f"{name} (descriptor {descriptor}) is no socket: {error.strerror}") from error
    if sock.type != socket.SOCK_STREAM or not listens:
        raise ValueError(f"{name} is no listening stream socket: use ListenStream=, without Accept=yes")
    sock.setblocking(False)
    return sock


@implementer(IStreamServerEndpoint)
class PassedEndpoint:
    """The endpoint of one of these sockets, which can listen once."""

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        self._reactor = reactor
        self._socket = sock

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:  # noqa: N803
        """Serve the socket's connections."""
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        if self._socket.family == socket.AF_UNIX:
            unix_port = PassedUnixPort(self._reactor, self._socket, factory)
            unix_port.startListening()
            return unix_port
        with self._socket:  # Twisted duplicates it
            return self._reactor.adoptStreamPort(
                self._socket.fileno(),
                self._socket.family,
                factory,  # type: ignore[arg-type]  # typed as a class, although its interface is enough
            )


class PassedUnixPort(unix.Port):
    """A port of a passed unix socket: its file, the mode of that and its backlog are systemd's.

    Twisted's own would have made the file accessible for everybody, and removed it at the end.
    """

    _shouldShutdown = False  # noqa: N815  # Twisted's name: a shutdown would end the socket for systemd, too

    def __init__(self, reactor: Reactor, sock: socket.socket, factory: IProtocolFactory) -> None:
        name = sock.getsockname()
        self._name = os.fsencode(name) if isinstance(name, str) else name
        super().__init__(self._name, factory, reactor=reactor)
        self._passed = sock

    def startListening(self) -> None:  # noqa: N802  # Twisted's name
        """Accept connections."""
        if self.factory is not None:
            self.factory.doStart()
        self.socket = self._passed
        self.fileno = self.socket.fileno  # type: ignore[method-assign]  # as Twisted does
        self.connected = True
        self.numberAccepts = 1
        self.startReading()

    def getHost(self) -> UNIXAddress:  # noqa: N802  # Twisted's name
        """Return the address."""
        return UNIXAddress(self._name)

    def connectionLost(self, reason: Failure) -> None:  # Twisted's name
        """Close this end, and leave the file alone."""
        tcp.Port.connectionLost(self, reason)
