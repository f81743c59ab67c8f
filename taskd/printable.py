"""Text from tasks, callers and apps, made harmless for a log and a terminal."""

from __future__ import annotations

import re

__all__ = ["printable"]

_COLOUR = re.compile(r"\x1b\[[0-9;:]*[mK]")
"""A change of colour, or the deletion of a line's rest: it says nothing, and is left out."""

_HARMFUL = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, which move the cursor or worse; not tab and LF
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # changes of direction, with which text poses as another
    "\u2028\u2029"  # further ends of lines, for some readers
    "\u00ad\u180e\u200b\u2060-\u2064\u206a-\u206f"  # invisible ones; U+200C and U+200D join letters and emoji
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff"  # half characters, which cannot be encoded
    "]"
)


def printable(text: str) -> str:
    r"""Return a text that is safe to show, with control characters escaped as in Python (``\x1b``).

    Tabs and ends of lines (LF) stay; changes of colour are left out. Besides
    control characters, this escapes what reverses the writing direction, what
    cannot be seen, and surrogates. A text that was made printable stays as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    return _HARMFUL.sub(_escaped, _COLOUR.sub("", text))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
