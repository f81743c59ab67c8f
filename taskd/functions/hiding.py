"""Hiding secret values in texts: messages of exceptions, tracebacks, what a function prints.

A value is looked for as it is, and as Python, JSON and URLs write it. What a
function makes of it otherwise (a hash, a part) is not recognised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

__all__ = ["MASK", "Hide", "hider", "unhidden"]

MASK = "[secret]"
"""What is shown in the place of a secret."""

LEAST = 4
"""Characters from which on a value is looked for anywhere; a shorter one would be found in half of all
words, so that only whole words count, and only if the argument is nothing but this value."""

LEAST_LINE = 8
"""Characters from which on a line of a longer value is looked for by itself: output comes line by line."""

Hide = Callable[[str], str]
"""Returns a text with the secrets in it masked."""


def unhidden(text: str) -> str:
    """Return a text as it is: there are no secrets."""
    return text


def hider(values: Iterable[bytes | msgspec.Raw], *forms: Hide, cut_at: int | None = None) -> Hide:
    """Return a function that masks these values, JSON texts, in a text.

    They are also looked for in the form that each of `forms` gives them. Of a text of `cut_at`
    characters or more, a part of a value at either end is masked too: it may have been cut there.
    """
    words: set[str] = set()
    anywhere: set[str] = set()
    for text in values:
        value = _decoded(text)
        for leaf in _leaves(value):
            for form in _forms(leaf, forms):
                if len(form) >= LEAST:
                    anywhere.add(form)
                elif form and leaf is value:
                    words.add(form)
    if not words and not anywhere:
        return unhidden
    # The longest first, since a shorter one may be a part of it.
    parts = [re.escape(each) for each in sorted(anywhere, key=len, reverse=True)]
    parts += [rf"(?<!\w){re.escape(each)}(?!\w)" for each in sorted(words, key=len, reverse=True)]
    replace = re.compile("|".join(parts)).sub

    def hide(text: str) -> str:
        hidden = replace(MASK, text)
        return _without_parts(hidden, anywhere) if cut_at is not None and len(text) >= cut_at else hidden

    return hide


def _decoded(text: bytes | msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError):
        return bytes(text).decode(errors="replace")  # a number that is none of Python's, for one


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield value


def _forms(leaf: Any, forms: Iterable[Hide]) -> Iterator[str]:
    """Yield the ways in which a text may have a value."""
    import json  # only here: workers have no other use for it

    text = leaf if isinstance(leaf, str) else repr(leaf)
    for each in (text, *_lines(text), *_as_bytes(text)):
        yield each
        yield repr(each)[1:-1]
        yield ascii(each)[1:-1]
        yield msgspec.json.encode(each).decode()[1:-1]
        yield json.dumps(each)[1:-1]
        yield from (form(each) for form in forms)
    yield from _in_urls(text)


def _lines(text: str) -> list[str]:
    lines = text.splitlines()
    return [line for line in lines if len(line) >= LEAST_LINE] if len(lines) > 1 else []


def _as_bytes(text: str) -> Iterator[str]:
    """Yield what a text stands for as Base64, in which JSON has bytes."""
    from binascii import a2b_base64

    if len(text) >= LEAST_LINE and text.isascii():
        try:
            value = a2b_base64(text, strict_mode=True)
        except ValueError:
            return
        yield repr(value)[2:-1]
        if value.isascii():
            yield value.decode()


def _in_urls(text: str) -> Iterator[str]:
    # Imported only where it is needed: workers have no use for it.
    from urllib.parse import quote, quote_plus

    yield quote(text, "")
    yield quote(text)
    yield quote_plus(text)


def _without_parts(text: str, values: Iterable[str]) -> str:
    """Mask what may be a part of a value at the beginning and at the end of a text."""
    for value in values:
        if text in value:
            return MASK
        sizes = range(min(len(value), len(text)) - 1, LEAST - 1, -1)
        if size := next((each for each in sizes if text.endswith(value[:each])), 0):
            text = text[:-size] + MASK
        if size := next((each for each in sizes if text.startswith(value[-each:])), 0):
            text = MASK + text[size:]
    return text
