"""A caller that has shown a token: whom its tasks belong to, and what the token covers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from taskd.model import Grant

__all__ = ["EXPIRED", "REFUSED", "Caller", "Rate", "Verifier"]

EXPIRED = 4401
"""The code with which a websocket is closed whose token has expired: its page may bring a new one."""

REFUSED = 4403
"""The code with which a websocket is closed that has shown no token in time, or one that is not accepted."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit on an owner's calls, submits and retries: at most `count` in any `seconds`.

    Each task of a batch counts.
    """

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller that has shown a token.

    `name` is that of the token, for the log; never the token itself. `grant` is what task servers
    need to know of it. `expires` is in seconds since 1970, None for never. `accepted_by` is for the
    verifier alone: the hash of the token in the file, or the fingerprint of the key that signed it.
    """

    name: str
    grant: Grant
    rate: Rate | None = None
    expires: float | None = None
    accepted_by: str = field(default="", repr=False)


class Verifier(Protocol):
    """The judge of tokens: of those in a file, and of signed ones."""

    def verify(self, token: str, now: float) -> Caller:
        """Return whoever has shown a token; `now` is in seconds since 1970.

        Raises `taskd.errors.NotAllowed`, whose data has the ``reason``: "unknown", "expired", "malformed".
        """

    def is_valid(self, caller: Caller, now: float) -> bool:
        """Return whether a caller of `verify` would still be accepted, and for the same.

        Not if its token has expired or was revoked, if its key is gone, or if its rights were changed.
        """
