"""The token in the header Authorization, as RFC 6750 has it."""

from __future__ import annotations

from taskd.errors import NotAllowed

__all__ = ["bearer_token"]


def bearer_token(header: str) -> str:
    """Return the token of a header. Raises `NotAllowed` if it has none."""
    scheme, _, token = header.strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or any(each.isspace() or each == "," for each in token):
        raise NotAllowed("the header Authorization is not: Bearer TOKEN", reason="malformed")
    return token
