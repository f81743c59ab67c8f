"""The mark `Secret`, and which types have it.

A function marks what must be shown nowhere in the annotation of its argument::

    from typing import Annotated

    from taskd import Secret, task

    @task
    def log_in(user: str, password: Annotated[str, Secret]) -> None:
        ...

The mark may be anywhere in the type: in the items of a list, in a field of a
dataclass. The argument is then secret as a whole, since whatever shows or
stores it knows its place among the arguments, and nothing of its type.
"""

from __future__ import annotations

import typing
from contextlib import suppress
from typing import Any

__all__ = ["Secret", "has_secret"]


class Secret:
    """The mark of an argument that is shown nowhere: ``password: Annotated[str, Secret]``."""


def has_secret(annotation: Any) -> bool:
    """Return whether a resolved annotation has the mark `Secret`, wherever it is in the type."""
    return _has_secret(annotation, set())


def _has_secret(annotation: Any, seen: set[int]) -> bool:
    if id(annotation) in seen:
        return False  # a type that contains itself
    seen.add(id(annotation))
    if any(each is Secret or isinstance(each, Secret) for each in getattr(annotation, "__metadata__", ())):
        return True
    if typing.get_origin(annotation) is typing.Literal:
        return False  # whose arguments are values
    return any(_has_secret(part, seen) for part in _parts(annotation))


def _parts(annotation: Any) -> list[Any]:
    """Return the types that a type is made of: of a generic one, an alias, a class with annotated fields."""
    parts = [*typing.get_args(annotation)]
    for name in ("__origin__", "__value__", "__supertype__", "__bound__"):
        part = getattr(annotation, name, None)
        if part is not None:
            parts.append(part)
    if isinstance(annotation, type) and "__annotations__" in {
        name for each in annotation.__mro__ for name in vars(each)
    }:
        with suppress(Exception):  # whoever converts to this type reports what is wrong with it
            parts += typing.get_type_hints(annotation, include_extras=True).values()
    return parts
