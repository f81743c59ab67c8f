"""A socket and a reactor in memory, for tests of the transports between them."""

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.task import Clock
from twisted.python.failure import Failure

MUCH = 1 << 40
"""Bytes: more room than any test fills."""


class FakeSocket:
    """A socket whose kernel takes `room` bytes, and which receives the data in `incoming`."""

    def __init__(self, room=MUCH):
        self.room = room
        self.sent = b""
        self.sends = 0
        self.incoming = []
        self.error = None
        self.blocking = True
        self.closed = False
        self.options = {}
        self.shut_down = []

    def setblocking(self, flag):
        self.blocking = flag

    def setsockopt(self, level, option, value):
        self.options[option] = value

    def fileno(self):
        return -1 if self.closed else 7

    def recv(self, size):
        if not self.incoming:
            raise BlockingIOError
        data = self.incoming.pop(0)
        if isinstance(data, Exception):
            raise data
        assert len(data) <= size
        return data

    def send(self, data):
        self.sends += 1
        if self.error is not None:
            raise self.error
        taken = bytes(data[: self.room])
        if data and not taken:
            raise BlockingIOError
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def shutdown(self, how):
        self.shut_down.append(how)

    def close(self):
        self.closed = True

    def getsockname(self):
        return ("127.0.0.1", 12345)


class FakeReactor(Clock):
    """A reactor for one descriptor, which it treats as Twisted's reactors treat theirs."""

    def __init__(self):
        super().__init__()
        self.reading = self.writing = False
        self.changes = 0

    def addReader(self, reader):
        assert reader.fileno() >= 0
        self.reading, self.changes = True, self.changes + 1

    def removeReader(self, reader):
        assert reader.fileno() >= 0, "a reactor would search all descriptors for a closed one"
        self.reading = False

    def addWriter(self, writer):
        assert writer.fileno() >= 0
        self.writing, self.changes = True, self.changes + 1

    def removeWriter(self, writer):
        assert writer.fileno() >= 0, "a reactor would search all descriptors for a closed one"
        self.writing = False

    def readable(self, connection):
        """Report the socket as readable."""
        assert self.reading
        self._call(connection, connection.doRead, is_read=True)

    def writable(self, connection):
        """Report the socket as writable."""
        assert self.writing
        self._call(connection, connection.doWrite, is_read=False)

    def _call(self, connection, method, *, is_read):
        try:
            why = method()
        except Exception as error:
            why = error
        if why is not None:
            self.reading = False
            half = IHalfCloseableDescriptor.providedBy(connection)
            if is_read and half and isinstance(why, ConnectionDone):
                connection.readConnectionLost(Failure(why))
            else:
                self.writing = False
                connection.connectionLost(Failure(why))
