"""The figures of a gateway's HTTP connections."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["HttpCounts"]


@dataclass(slots=True)
class HttpCounts:
    """The HTTP connections that are `open`, without websockets, and the responses so far by their status."""

    open: int = 0
    responses: Counter[int] = field(default_factory=Counter)
