"""Text framing: each message is one line that ends in LF, of limited length.

CRs before the LF are dropped and blank lines are ignored. Reading takes time
linear in the bytes received, however they are cut: only new bytes are searched
for the LF, and the buffer grows in place.
"""

from __future__ import annotations

from taskd.model import MAX_MESSAGE

__all__ = ["HEAD", "MAX_MESSAGE", "LineSplitter", "LineTooLong"]


HEAD = 1024
"""Bytes of a message that is too long which are shown to whoever may know what it is."""


class LineTooLong(Exception):
    """A message exceeds `limit`, in bytes. It begins with `head`.

    `lines` are the whole messages that preceded it in the same bytes; `rest` is what follows it
    there, None if its LF is still to come.
    """

    def __init__(self, limit: int, lines: list[bytes], line: bytes | bytearray, rest: bytes | None) -> None:
        super().__init__(f"a message is longer than {limit} bytes")
        self.limit = limit
        self.lines = lines
        self.head = bytes(line[:HEAD])
        self.rest = rest


class LineSplitter:
    """Cuts a stream of bytes into lines of at most `limit` bytes, LF included.

    The limit applies to each message, not to what happens to be buffered.
    """

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._buffer = bytearray()

    @property
    def unfinished(self) -> int:
        """The number of bytes received of a message whose LF is still missing."""
        return len(self._buffer)

    def receive(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes, without their line ends.

        Raises `LineTooLong` once a message exceeds the limit, whether its LF
        has arrived or not; after that the splitter must not be used.
        """
        buffer = self._buffer
        if not buffer and 0 < data.find(b"\n") == len(data) - 1 < self._limit:
            # One whole message, as most reads are.
            line = data[:-1].rstrip(b"\r")
            return [line] if line else []
        if buffer:
            end = data.find(b"\n")
            if end < 0:
                buffer += data
                if len(buffer) >= self._limit:
                    raise LineTooLong(self._limit, [], buffer, None)
                return []
            buffer += data[:end]
            first = bytes(buffer)
            self._buffer = bytearray()
            pieces = data[end + 1 :].split(b"\n")
            pieces.insert(0, first)
        else:
            pieces = data.split(b"\n")
        rest = pieces.pop()
        # Most reads are far below the limit, so no piece can exceed it.
        if (pieces and len(pieces[0]) >= self._limit) or len(data) >= self._limit:
            self._check(pieces, rest)
        if len(rest) >= self._limit:
            raise LineTooLong(self._limit, self._clean(pieces), rest, None)
        if rest:
            self._buffer += rest
        return self._clean(pieces)

    def _check(self, pieces: list[bytes], rest: bytes) -> None:
        for index, piece in enumerate(pieces):
            if len(piece) >= self._limit:
                follows = b"\n".join([*pieces[index + 1 :], rest])
                raise LineTooLong(self._limit, self._clean(pieces[:index]), piece, follows)

    @staticmethod
    def _clean(pieces: list[bytes]) -> list[bytes]:
        return [line for line in [piece.rstrip(b"\r") for piece in pieces] if line]
