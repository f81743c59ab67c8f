"""The verifier of a daemon: tokens of a file and signed ones, whose files are read again at SIGHUP."""

from __future__ import annotations

from taskd.auth.access_config import AccessConfig
from taskd.auth.caller import Caller
from taskd.auth.files import AccessFileError
from taskd.auth.signed_tokens import SignedTokens
from taskd.auth.signing_keys import read_keys
from taskd.auth.token_file import OWNER_PREFIX, TokenFile, read_tokens
from taskd.auth.tokens import PREFIX
from taskd.errors import NotAllowed

__all__ = ["Accepted", "TokenVerifier"]

_NO_TOKENS = TokenFile({}, {})

Accepted = tuple[TokenFile, SignedTokens]
"""What is accepted: the tokens of the file, and those that the keys have signed."""


class TokenVerifier:
    """The `taskd.auth.caller.Verifier` of the files that `config` names."""

    def __init__(self, config: AccessConfig) -> None:
        self._config = config
        self.use(self.read())

    def __repr__(self) -> str:
        """Return a text for the log, with nothing that is secret."""
        parts = [] if self._config.tokens is None else [f"{len(self._file.entries)} tokens"]
        if self._config.keys:
            parts.append(f"signed tokens by the keys of {', '.join(self._config.keys)}")
        return " and ".join(parts)

    def read(self) -> Accepted:
        """Read the files, and change nothing: this may run in a thread. Raises `AccessFileError`."""
        return _read(self._config)

    def use(self, found: Accepted) -> None:
        """Accept what `read` has found from now on, and nothing else."""
        self._file, self._signed = found

    def verify(self, token: str, now: float) -> Caller:
        """Return whoever has shown a token; `now` is in seconds since 1970.

        Raises `NotAllowed`, whose data has the ``reason``: "unknown", "expired", "malformed".
        """
        if token.startswith(PREFIX):
            return self._file.verify(token, now)
        if not self._config.keys:
            raise NotAllowed(
                f"this is no token: those of this server begin with {PREFIX}", reason="malformed"
            )
        return self._signed.verify(token, now)

    def is_valid(self, caller: Caller, now: float) -> bool:
        """Return whether a caller of `verify` would still be accepted, and for the same."""
        if caller.expires is not None and caller.expires <= now:
            return False
        if caller.grant.owner.startswith(OWNER_PREFIX):
            return self._file.callers.get(caller.accepted_by) == caller
        return self._signed.is_valid(caller)


def _read(config: AccessConfig) -> Accepted:
    file = _NO_TOKENS if config.tokens is None else read_tokens(config.tokens)
    keys = [key for path in config.keys for key in read_keys(path)]
    if len({key.fingerprint for key in keys}) < len(keys):
        raise AccessFileError("one key is there twice, in the files of --jwt-key; leave out one of the two")
    return file, SignedTokens(keys, config.audience)
