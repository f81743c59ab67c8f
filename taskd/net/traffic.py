"""The bytes that go through the connections of a port."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Traffic"]


@dataclass(slots=True)
class Traffic:
    """The bytes `received` from clients and `sent` to them, of TLS as they are on the wire."""

    received: int = 0
    sent: int = 0
