"""Names on the wire: those of parameters, and the prefix of the server's own methods."""

from __future__ import annotations

import keyword

__all__ = ["RESERVED", "python_name", "wire_name"]

RESERVED = "taskd."
"""The prefix of the server's own methods (docs/protocol.md), forbidden to functions."""


def wire_name(parameter: str) -> str:
    """Return the name that a parameter has on the wire: ``from_`` is ``from`` there.

    A trailing underscore is dropped only if a Python keyword remains.
    """
    bare = parameter.removesuffix("_")
    return bare if keyword.iskeyword(bare) else parameter


def python_name(argument: str) -> str:
    """Return the Python parameter's name for an argument's name on the wire; the inverse of `wire_name`."""
    return argument + "_" if keyword.iskeyword(argument) else argument
