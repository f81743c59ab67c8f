"""The tokens of the file: how they are made, recognised and hashed."""

from __future__ import annotations

import hashlib
import re
import secrets

__all__ = ["PREFIX", "hash_of", "is_hash", "new_token"]

PREFIX = "taskd_"
"""The beginning of every token of the file: programs that search for leaked secrets find them by it."""

TOKEN_BYTES = 32
"""Random bytes of a token: nobody guesses that many, so one round of SHA-256 keeps the hash safe."""

HASH_PREFIX = "sha256:"

_HASH = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def new_token() -> str:
    """Return a new token: the prefix, and 43 characters of base64url."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def hash_of(token: str) -> str:
    """Return the hash of a token, as the file has it."""
    return HASH_PREFIX + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_hash(text: str) -> bool:
    """Return whether a text is a hash as the file has it."""
    return _HASH.fullmatch(text) is not None
