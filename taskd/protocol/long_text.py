"""The check of a long message's text, a slice at a time, before the message is parsed."""

from __future__ import annotations

from taskd.errors import ParseError
from taskd.protocol.nesting import MAX_NESTING, NestingCheck, is_too_deep, too_deep

__all__ = ["LongText", "check_text", "not_utf_8"]


class LongText:
    """A long message whose text is being checked: that it is UTF-8, and not nested too deeply.

    Both take several passes over all bytes, and so much longer than parsing
    does. `check_text` is the same for short messages.
    """

    __slots__ = ("_at", "_is_ascii", "_nesting", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._at = 0
        self._is_ascii = text.isascii()
        self._nesting = NestingCheck()

    def check(self, size: int) -> bool:
        """Check a slice of about `size` bytes; return whether there was nothing more to check.

        Raises `ParseError` for a mistake.
        """
        text, start = self.text, self._at
        end = min(start + size, len(text))
        if not self._is_ascii:
            end = _between_characters(text, end)
        piece = text[start:end]
        self._at = end
        if self._nesting.take(piece):
            raise ParseError(too_deep(), limit=MAX_NESTING)
        if not self._is_ascii:
            try:
                piece.decode()
            except UnicodeDecodeError as error:
                raise not_utf_8(error, start) from None
        return end == len(text)


def _between_characters(text: bytes, at: int) -> int:
    """Return the next place from `at` on that is not inside a character, if the text is UTF-8."""
    end = min(at + 3, len(text))
    while at < end and text[at] & 0xC0 == 0x80:
        at += 1
    return at


def not_utf_8(error: UnicodeDecodeError, start: int = 0) -> ParseError:
    """Return the error for text that is not UTF-8, of which the part from byte `start` on was decoded."""
    at = start + error.start
    return ParseError(f"not UTF-8: {error.reason} at byte {at}", at=at)


def check_text(line: bytes) -> None:
    """Raise `ParseError` if a message is nested too deeply to be read, or is not UTF-8.

    msgspec does not check the strings that it only passes on.
    """
    if is_too_deep(line):
        raise ParseError(too_deep(), limit=MAX_NESTING)
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise not_utf_8(error) from None
