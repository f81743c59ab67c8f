"""Tokens for tests: each text stands for whoever it is said to belong to, and is signed by nobody."""

from __future__ import annotations

from collections.abc import Mapping

from taskd.auth.caller import Caller
from taskd.errors import NotAllowed
from taskd.model import Grant

__all__ = ["GivenTokens", "MemoryVerifier"]

GivenTokens = Mapping[str, Grant | Caller]
"""Tokens, and what each grants; a `Caller` has a rate and an end as well."""


class MemoryVerifier:
    """The verifier of a `MemoryServer`. Is a `taskd.auth.caller.Verifier`."""

    def __init__(self, tokens: GivenTokens) -> None:
        self._tokens = tokens

    def verify(self, token: str, now: float) -> Caller:
        """Return whoever a token belongs to. As `Verifier.verify`."""
        given = self._tokens.get(token)
        if given is None:
            raise NotAllowed("the token is unknown", reason="unknown")
        caller = given if isinstance(given, Caller) else Caller(given.owner, given)
        if not self.is_valid(caller, now):
            raise NotAllowed("the token has expired", reason="expired")
        return caller

    def is_valid(self, caller: Caller, now: float) -> bool:
        """Return whether a token has not expired. As `Verifier.is_valid`."""
        return caller.expires is None or now < caller.expires
