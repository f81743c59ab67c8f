"""Twisted's `LineReceiver` in linear time, for protocols with Text framing.

The original searches its whole buffer again for each piece of a long line
(twisted/twisted#6357): ten megabytes in small segments take it minutes.
"""

from __future__ import annotations

from contextlib import suppress

from twisted.protocols.basic import LineReceiver

from taskd.net.buffered_socket import StreamTransport
from taskd.protocol.framing import MAX_MESSAGE, LineSplitter, LineTooLong

__all__ = ["LinearLineReceiver"]


class LinearLineReceiver(LineReceiver):
    """A `LineReceiver` for Text framing: lines end in LF, and CRs before it are dropped.

    Override `lines_received` to get all the lines of one read together, or
    `lineReceived` to get them one by one. For a line over `MAX_LENGTH` bytes
    (with its LF) `lineLengthExceeded` is called, once; nothing after it is
    delivered, unless `drops` returns True: then what follows is. There is no raw mode: Text framing
    has none.
    """

    delimiter = b"\n"
    MAX_LENGTH = MAX_MESSAGE
    transport: StreamTransport  # type: ignore[assignment]  # Twisted's type is too narrow for any use
    _splitter: LineSplitter | None = None
    _is_within_line = False
    _is_dropping = False
    """Whether a line is too long, and read only to find its end."""

    def connectionMade(self) -> None:
        """Begin with an empty buffer, and with the present `MAX_LENGTH`."""
        self._splitter = LineSplitter(self.MAX_LENGTH)

    @property
    def unfinished(self) -> int:
        """The number of bytes received of a line whose LF is still missing."""
        return self._splitter.unfinished if self._splitter is not None else 0

    def cut_off(self) -> bytes:
        """Return what was received of a line whose LF will not come, since the connection is lost."""
        splitter, self._splitter = self._splitter, None
        if splitter is None or not splitter.unfinished:
            return b""
        with suppress(LineTooLong):
            for line in splitter.receive(b"\n"):
                return line
        return b""

    def drop_unfinished(self) -> None:
        """Forget what was received of an incomplete line, and ignore whatever follows."""
        self._splitter = None
        self._is_dropping = False

    def dataReceived(self, data: bytes) -> None:
        """Cut `data` into lines and deliver them."""
        if self._splitter is None or not data:
            if self._is_dropping:
                self._drop_line(data)
            return
        try:
            lines = self._splitter.receive(data)
        except LineTooLong as error:
            self._splitter = None
            if error.lines:
                self.lines_received(error.lines)
            if not self.drops(error.head):
                self.lineLengthExceeded(data)
                return
            self._is_dropping = True
            self._drop_line(b"" if error.rest is None else b"\n" + error.rest)
        else:
            if data[-1] != _LF or self._is_within_line:
                self._is_within_line = data[-1] != _LF
                self.line_grows(self._splitter.unfinished, bool(lines))
            if lines:
                self.lines_received(lines)
            elif self._splitter is not None:  # the line may have been too much
                self.part_received(data)

    def _drop_line(self, data: bytes) -> None:
        """Read a line that is too long to its end, and go on behind it."""
        end = data.find(b"\n")
        self.line_grows(0, end >= 0)
        if end >= 0:
            self._is_dropping = self._is_within_line = False
            self._splitter = LineSplitter(self.MAX_LENGTH)
            self.dataReceived(data[end + 1 :])

    def drops(self, head: bytes) -> bool:
        """Return whether a line over `MAX_LENGTH`, which begins so, is dropped and what follows is read."""
        return False

    def part_received(self, data: bytes) -> None:
        """Look at bytes that have completed no line; they are delivered with the rest of the line."""

    def line_grows(self, unfinished: int, is_new: bool) -> None:  # noqa: FBT001
        """Note how many bytes of an incomplete line are held, after each read in which that changes.

        `is_new` says that lines before it have been completed, which follow.
        """

    def lines_received(self, lines: list[bytes]) -> None:
        """Process the lines that one read has completed, in order."""
        for line in lines:
            self.lineReceived(line)

    def setRawMode(self) -> None:
        """Refuse: Text framing has no raw mode."""
        raise NotImplementedError("Text framing has no raw mode")


_LF = ord("\n")
