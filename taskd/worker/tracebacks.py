"""The traceback of what an app's code raised, whatever formatting it does."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType

from taskd.functions.hiding import Hide, unhidden
from taskd.functions.raised import MAX_TEXT, encodable, one_line

__all__ = ["traceback_of"]

# Read from `BaseException` itself: a class of the app may replace this attribute for its instances.
_traceback_of = BaseException.__dict__["__traceback__"].__get__


def traceback_of(error: BaseException, is_above: Callable[[str], bool], hide: Hide = unhidden) -> str:
    """Return the traceback of an exception: the last `MAX_TEXT` characters, which UTF-8 can encode.

    The outermost frames are left out while `is_above` is true of the name of
    their file: those that have called the app. `hide` masks the secrets in it. If the exception or one of its
    causes cannot be formatted, the text has the frames and explains the rest.
    """
    frame: TracebackType | None = _traceback_of(error)
    while frame is not None and is_above(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    try:
        # A class of the app may make anything of the attributes that this reads: the causes, the notes.
        text = "".join(traceback.format_exception(type(error), error, frame))
    except BaseException as broken:  # SystemExit too, since it is the app's code that raises it
        text = (
            f"Traceback (most recent call last):\n{_frames(frame)}{one_line(error)}\n"
            f"(its causes and notes could not be formatted: {one_line(broken)})\n"
        )
    text = hide(text)  # before it is cut, perhaps inside a secret
    return encodable(text[-MAX_TEXT:])[-MAX_TEXT:]


def _frames(frame: TracebackType | None) -> str:
    try:
        return "".join(traceback.format_tb(frame))
    except BaseException as broken:  # a loader of the app that is asked for the source
        return f"  (its frames could not be formatted: {one_line(broken)})\n"
