"""The requests in flight by their ids, which clients choose and may use twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic

from taskd.protocol.requests import Request, Work

__all__ = ["RequestIds"]


class RequestIds(Generic[Work]):
    """An index of requests by the JSON texts of their ids; those without an id are left out."""

    def __init__(self, requests: Iterable[Request[Work]]) -> None:
        self._requests: dict[bytes, dict[Request[Work], None]] = {}
        self.add(requests)

    def add(self, requests: Iterable[Request[Work]]) -> None:
        """Add requests, the oldest first."""
        for request in requests:
            if request.id is not None:
                self._requests.setdefault(bytes(request.id), {})[request] = None

    def without(self, request: Request[Work]) -> RequestIds[Work] | None:
        """Remove a request, which is in the index unless it has no id; return None if none is left."""
        if request.id is not None:
            request_id = bytes(request.id)
            same_id = self._requests[request_id]
            del same_id[request]
            if not same_id:
                del self._requests[request_id]
        return self if self._requests else None

    def find(self, request_id: bytes) -> Request[Work] | None:
        """Return the oldest request with this id, None if there is none."""
        return next(iter(self._requests.get(request_id, ())), None)
