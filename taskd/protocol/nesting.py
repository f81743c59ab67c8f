"""The limit on how deep a message is nested, checked on its bytes before anything recurses into it.

Without a limit of its own, taskd would have that of the interpreter, which
differs from one release of Python to the next.
"""

from __future__ import annotations

__all__ = ["MAX_NESTING", "MAX_VALUE_NESTING", "NestingCheck", "is_too_deep", "too_deep"]

MAX_NESTING = 256
"""Levels of arrays and objects in a message, its outermost included. Python 3.11 fails at 1000 levels less
what is on the stack, and code in Python that walks a value may need three frames for each of its levels."""

MAX_VALUE_NESTING = MAX_NESTING - 2
"""Levels of a result: two fewer, so that its reply is within the limit even in a batch."""

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_TEXT = bytes(sorted(set(range(256)) - set(b'[]{}"')))


def is_too_deep(data: bytes, limit: int = MAX_NESTING) -> bool:
    """Return whether JSON text is nested deeper than `limit` levels; a scalar has none.

    Of text that is not JSON, whatever a parser would read before it finds the
    mistake is judged correctly. Takes time linear in the length of the text.
    """
    # Nearly every message is short, or has few brackets. `replace` stops at the first that is one
    # too many and searches with memchr, so it is ten times as fast as `count`.
    size = len(data)
    if size <= limit:
        return False
    arrays = size - len(data.replace(b"[", b"", limit + 1))
    if arrays + size - len(data.replace(b"{", b"", limit + 1)) <= limit:
        return False
    return _goes_deeper(_brackets(data), limit)


def _brackets(data: bytes) -> bytes:
    """Return only the brackets of JSON text that are outside strings, all of them as square ones."""
    if b"\\" in data:
        # From the left, so that the backslashes of a row are paired as a parser pairs them.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Adjacent quotes are the two ends of a string, or the end of one and the beginning of another.
    # Without them what was inside a string still is, and what was outside too.
    return _outside_strings(data.translate(_BRACKETS, _TEXT))


def _outside_strings(brackets_and_quotes: bytes) -> bytes:
    return b"".join(brackets_and_quotes.replace(b'""', b"").split(b'"')[::2])


def _goes_deeper(brackets: bytes, limit: int, depth: int = 0) -> bool:
    """Return whether more than `limit` brackets are open at once; `depth` are open before these."""
    # The innermost pairs, which most of the brackets usually belong to, are quickly removed, and with
    # them one level: so whatever is open at the end must be closed.
    before = 2 * len(brackets)
    brackets += b"]" * (limit + 1 - depth)
    while limit > depth and len(brackets) < 0.9 * before:
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"")
        limit -= 1
    # The rest is fast if the brackets come in long runs. In each piece the opening ones come first.
    # Between two pieces, one is closed and one opened.
    for piece in brackets.split(b"]["):
        opened = piece.find(b"]") if b"]" in piece else len(piece)
        if depth + opened > limit:
            return True
        depth += 2 * opened - len(piece)
    return False


class NestingCheck:
    """A check of how deep a long text is nested, a slice at a time, so that nobody waits for all of it.

    `is_too_deep` of the text so far is True once `take` has returned True.
    """

    __slots__ = ("_depth", "_is_escaped", "_is_in_string", "_limit")

    def __init__(self, limit: int = MAX_NESTING) -> None:
        self._limit = limit
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False

    def take(self, data: bytes) -> bool:
        """Take in the next slice; return whether the text is nested too deeply."""
        if self._is_escaped:
            data = data[1:]
        if b"\\" in data:
            data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
        self._is_escaped = data.endswith(b"\\")
        found = data.translate(_BRACKETS, _TEXT)
        if self._is_in_string:
            found = b'"' + found
        self._is_in_string = found.count(b'"') % 2 == 1
        brackets = _outside_strings(found)
        opened = brackets.count(b"[")
        # Few slices have enough brackets to go deeper, and nearly all of those close what they open.
        is_too_deep = self._depth + opened > self._limit and _goes_deeper(brackets, self._limit, self._depth)
        self._depth += 2 * opened - len(brackets)
        return is_too_deep


def too_deep(limit: int = MAX_NESTING) -> str:
    """Return the text of an error about something nested deeper than `limit` levels."""
    return f"nested too deeply: more than {limit} levels of arrays and objects"
