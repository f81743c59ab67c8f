"""The files of whoever decides on access: tokens and keys, read whole, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

__all__ = ["MAX_FILE", "AccessFileError", "read_access_file"]

MAX_FILE = 16 * 2**20
"""Bytes of the longest file of tokens or keys: 100 000 tokens without limits take two thirds of it."""


class AccessFileError(ValueError):
    """A file of tokens or keys that cannot be used; the text names it and what is wrong with it."""


def read_access_file(path: str) -> bytes:
    """Return what is in a file of tokens or keys. Raises `AccessFileError`."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise AccessFileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:  # a zero byte in the path
        raise AccessFileError(f"{path!r} is no path") from None
    if len(content) > MAX_FILE:
        raise AccessFileError(f"{path} is longer than {MAX_FILE} bytes")
    return content
