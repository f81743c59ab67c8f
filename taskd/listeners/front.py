"""Backends that stand in front of another one, and have all of it but what they do themselves."""

from __future__ import annotations

from typing import Generic

from taskd.listeners.wire import Backend, Work
from taskd.protocol.requests import Request
from taskd.scheduler.budget import Budget
from taskd.scheduler.parties import Parties
from taskd.server.methods import Requester
from taskd.server.unanswered import Unanswered

__all__ = ["Front"]


class Front(Generic[Work]):
    """The front of a backend, which passes everything on. Implements `taskd.listeners.wire.Backend`."""

    def __init__(self, backend: Backend[Work]) -> None:
        self._backend = backend
        self.cancel = backend.cancel
        self.detach = backend.detach
        self.resume = backend.resume
        self.read_again = backend.read_again
        self.gone = backend.gone

    def submit(self, requests: list[Request[Work]], requester: Requester) -> None:
        """Begin with requests."""
        self._backend.submit(requests, requester)

    @property
    def parties(self) -> Parties:
        """The parties of the backend's connections."""
        return self._backend.parties

    @property
    def unanswered(self) -> Unanswered:
        """Where failures without a reply are counted."""
        return self._backend.unanswered

    @property
    def copies(self) -> int:
        """How often a request in flight is held."""
        return self._backend.copies

    @property
    def budget(self) -> Budget:
        """Where the bytes are counted."""
        return self._backend.budget
