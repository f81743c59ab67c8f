"""The text that rows are in: what it must not be, and its lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from taskd.rows.row import MAX_ROW

__all__ = ["BOM", "HEAD", "check_encoding", "lines_of"]

HEAD = 4096
"""Bytes of the beginning of a text, which show what it is."""

CHUNK = 1024 * 1024
"""Bytes that are read at once."""

BOM = b"\xef\xbb\xbf"

_UTF16 = (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{")
"""How UTF-16 and UTF-32 begin: with a mark, or with the first byte of JSON lines and a NUL."""

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip; a spreadsheet can be saved as CSV",
}
"""What compressed files begin with."""


def check_encoding(name: str, head: bytes) -> None:
    """Raise `ValueError` if a text that begins with `head` cannot have rows."""
    if head.startswith(_UTF16):
        raise ValueError(f"{name} is UTF-16, not UTF-8: convert it first, for example with iconv")
    for mark, kind in _PACKED.items():
        if head.startswith(mark):
            raise ValueError(f"{name} is compressed ({kind}): unpack it first, and map the text in it")


def lines_of(name: str, file: BinaryIO, max_line: int = MAX_ROW, chunk: int = CHUNK) -> Iterator[bytes]:
    """Yield the lines from here to the end, with their ends: LF, CR LF or CR.

    Of the file `chunk` bytes are read at once. Raises `ValueError` for a line of more than `max_line` bytes.
    """
    rest: list[bytes] = []
    size = number = 0
    held = b""
    while text := file.read(chunk):
        text = held + text
        held = b"\r" if text.endswith(b"\r") else b""  # possibly half of a line's end
        for piece in text.removesuffix(held).splitlines(keepends=True):
            rest.append(piece)
            size += len(piece)
            if size > max_line:
                raise ValueError(f"{name}: line {number + 1} has more than {max_line} bytes")
            if piece.endswith((b"\n", b"\r")):
                yield piece if len(rest) == 1 else b"".join(rest)
                rest, size = [], 0
                number += 1
    if rest or held:
        yield b"".join([*rest, held])
