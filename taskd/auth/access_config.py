"""The configuration of the access to a daemon: files of tokens and of keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Imported only if tokens are asked for: PyJWT and its keys would cost every other daemon memory.
    from taskd.auth.verifier import TokenVerifier

__all__ = ["AccessConfig"]


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """The files that decide which tokens are accepted, and the audience that signed ones must name."""

    tokens: str | None = None
    keys: Sequence[str] = ()
    audience: str | None = None

    @property
    def asks_for_tokens(self) -> bool:
        """Whether callers need a token."""
        return self.tokens is not None or bool(self.keys)

    def open(self) -> TokenVerifier | None:
        """Read the files and return the verifier; None if no tokens are asked for.

        Raises `AccessFileError`, which names the file.
        """
        if not self.asks_for_tokens:
            return None
        from taskd.auth.verifier import TokenVerifier

        return TokenVerifier(self)
