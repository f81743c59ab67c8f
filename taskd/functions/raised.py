"""The text of what an app's code raised: its type and its message, whatever formatting them does.

Exceptions are objects of the app. To format one runs the app's code, which may
raise anything (`SystemExit` too) or return what is not a str. The functions
here never raise because of that, and return plain strings that UTF-8 can encode.
"""

from __future__ import annotations

from taskd.functions.hiding import Hide, unhidden

__all__ = ["MAX_TEXT", "MAX_TYPE_NAME", "encodable", "one_line", "text_of", "type_name"]

MAX_TEXT = 16_384
"""Characters kept of an exception's message, of a traceback and of a report's
text: more than anyone reads, and far below the longest message."""

MAX_TYPE_NAME = 200
"""Characters kept of the name of a type: twice the longest that people write."""

# Read from `type` itself: a metaclass of the app may replace these attributes for its classes.
_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__


def encodable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def type_name(kind: type) -> str:
    """Return the name of a type, with its module unless it is built in."""
    name = str.__str__(_qualname_of(kind))
    try:
        module = _module_of(kind)
    except AttributeError:  # a class that was made in no module
        module = None
    if issubclass(type(module), str) and module != "builtins":
        name = f"{str.__str__(module)}.{name}"
    return encodable(name[:MAX_TYPE_NAME])


def text_of(error: BaseException, hide: Hide = unhidden) -> str:
    """Return the message of an exception, at most `MAX_TEXT` characters; "" if it has none.

    `hide` masks the secrets in it. If it cannot be formatted, the text explains why.
    """
    text, broken = _formatted(error, hide)
    if broken is None:
        return text
    why, more = _formatted(broken, hide)
    reason = type_name(type(broken))
    if why and more is None:
        reason = f"{reason}: {why}"
    return f"its message could not be formatted: {reason}"[:MAX_TEXT]


def one_line(error: BaseException, hide: Hide = unhidden) -> str:
    """Return an exception's type and its message, in which `hide` masks the secrets."""
    name, text = type_name(type(error)), text_of(error, hide)
    return f"{name}: {text}" if text else name


def _formatted(error: BaseException, hide: Hide) -> tuple[str, BaseException | None]:
    """Return what `str` makes of an exception, and the exception that it raised, if any."""
    try:
        # `str` may return an instance of a subclass, whose methods are the app's too.
        text = hide(str.__str__(str(error)))  # before it is cut, perhaps inside a secret
        return encodable(text[:MAX_TEXT])[:MAX_TEXT], None
    except BaseException as broken:  # SystemExit too, since it is the app's code that raises it
        return "", broken
