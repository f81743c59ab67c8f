"""The descriptions of stores, as `--store` takes them: their kinds, and how they are shown."""

from __future__ import annotations

import re

__all__ = ["KINDS", "MEMORY", "SQLITE", "is_postgres", "without_password", "wrong_kind"]

MEMORY = "memory"
SQLITE = "sqlite:"
POSTGRES = ("postgres:", "postgresql:")

KINDS = "memory, memory:LIMITS, sqlite:PATH or postgres:DATABASE"

_IN_URL = re.compile(r"(://[^:/?@\s]*:).*@")
_AS_PARAMETER = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'?|[^\s&]+)", re.IGNORECASE)


def is_postgres(description: str) -> bool:
    """Return whether a description names a PostgreSQL database."""
    return any(description.startswith(kind) and description != kind for kind in POSTGRES)


def without_password(description: str) -> str:
    """Return a description as it may be shown: with *** for passwords."""
    return _AS_PARAMETER.sub(r"\1***", _IN_URL.sub(r"\1***@", description))


def wrong_kind(description: str) -> str:
    """Return why a text is no description of a store."""
    return f"a store is {KINDS}, not {without_password(description)!r}"
