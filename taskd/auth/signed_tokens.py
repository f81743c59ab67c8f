"""Signed tokens (JWT), by which a web application lets its own users in, without this server knowing them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated

import jwt
import msgspec
from msgspec import Meta, Raw, structs

from taskd.auth.caller import Caller
from taskd.auth.limits import Limits
from taskd.auth.signing_keys import SigningKey
from taskd.auth.token_file import OWNER_PREFIX
from taskd.errors import NotAllowed
from taskd.model import MAX_PATTERNS, Owner, Pattern, Role
from taskd.protocol.nesting import is_too_deep

__all__ = ["LEEWAY", "SignedTokens"]

LEEWAY = 30.0
"""Seconds by which the clock of whoever signs may be ahead: a token that is valid from now on is accepted at
once. Its end has no leeway: then its connections are closed at the time that the token names."""

MAX_TOKEN = 8192
"""Characters of the longest token: web servers take no longer heads, and a usual token has some 300."""

MAX_TRIED = 10
"""Keys that a token is tried with: enough while keys are being changed. Each takes some 60 µs, which anybody
can have us spend."""

MAX_FIXED = 100
"""Arguments that a token may fix: more than functions have parameters."""

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


class _Header(msgspec.Struct, frozen=True):
    """The members of a token's header that are looked at. `crit` would ask for what is not known here."""

    alg: str
    kid: str | None = None
    crit: Raw | msgspec.UnsetType = msgspec.UNSET


class _Claims(msgspec.Struct, frozen=True):
    """The claims that are looked at; others, such as ``iss`` and ``iat``, are ignored."""

    sub: Owner
    exp: float
    nbf: float | None = None
    aud: str | list[str] | None = None
    role: Role = "submit"
    functions: Annotated[list[Pattern], Meta(max_length=MAX_PATTERNS)] = msgspec.field(
        default_factory=lambda: ["*"]
    )
    args: Annotated[dict[str, Raw], Meta(max_length=MAX_FIXED)] = {}
    limits: Limits = Limits()


_HEADER = msgspec.json.Decoder(_Header)
_CLAIMS = msgspec.json.Decoder(_Claims)


class SignedTokens:
    """The judge of signed tokens: the keys that sign them, and the audience that they must name, if any."""

    def __init__(self, keys: Sequence[SigningKey], audience: str | None = None) -> None:
        self._keys = keys
        self._audience = audience
        self._fingerprints = frozenset(key.fingerprint for key in keys)
        self._signatures = jwt.PyJWS()

    def verify(self, token: str, now: float) -> Caller:
        """Return whoever has shown a token. Raises `NotAllowed`."""
        if len(token) > MAX_TOKEN or _FORM.fullmatch(token) is None:
            raise NotAllowed(
                "this is no token: it is neither one of taskd's nor a signed one (JWT)", reason="malformed"
            )
        key, payload = self._signed_by(token)
        claims = _claims(payload)
        self._check_audience(claims)
        if claims.exp <= now:
            raise NotAllowed("this token has expired", reason="expired")
        if claims.nbf is not None and claims.nbf > now + LEEWAY:
            raise NotAllowed("this token is not valid yet", reason="unknown")
        return _caller(claims, key)

    def is_valid(self, caller: Caller) -> bool:
        """Return whether the key that has signed the token of a caller still counts."""
        return caller.accepted_by in self._fingerprints

    def _signed_by(self, token: str) -> tuple[SigningKey, bytes]:
        """Return the key that has signed a token, and what it has signed."""
        header = _header(token)
        for key in self._candidates(header):
            try:
                decoded = self._signatures.decode_complete(token, key.key, algorithms=[key.algorithm])
            except (jwt.PyJWTError, ValueError, RecursionError):
                continue
            payload = decoded["payload"]
            assert isinstance(payload, bytes)
            return key, payload
        raise NotAllowed("no key here has signed this token", reason="unknown")

    def _candidates(self, header: _Header) -> list[SigningKey]:
        """Return the keys that may have signed a token: of its algorithm, and of its name if it names one.

        Raises `NotAllowed` if there are too many.
        """
        found = [
            key
            for key in self._keys
            if key.algorithm == header.alg and (header.kid is None or key.kid in (None, header.kid))
        ]
        if len(found) > MAX_TRIED:
            raise NotAllowed(
                f"this token could be of any of {len(found)} keys, and {MAX_TRIED} at most are tried: "
                "it must name its key (kid), and the keys must have names",
                reason="unknown",
            )
        return found

    def _check_audience(self, claims: _Claims) -> None:
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
        if self._audience is not None and self._audience not in audiences:
            raise NotAllowed("this token is for another audience (aud)", reason="unknown")


def _header(token: str) -> _Header:
    encoded = token.partition(".")[0]
    try:
        header = _HEADER.decode(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        raise NotAllowed("the head of this token is not that of a JWT", reason="malformed") from None
    if header.crit is not msgspec.UNSET:
        raise NotAllowed("this token needs something that is not known here (crit)", reason="malformed")
    return header


def _claims(payload: bytes) -> _Claims:
    """Return the claims of a token whose signature is right."""
    if is_too_deep(payload):
        raise NotAllowed("the claims of this token are nested too deeply", reason="malformed")
    try:
        claims = _CLAIMS.decode(payload)
    except ValueError as error:
        raise NotAllowed(f"the claims of this token are not right: {error}", reason="malformed") from None
    if claims.sub.startswith(OWNER_PREFIX):
        raise NotAllowed(
            f"the sub of this token begins with {OWNER_PREFIX}, as the owners of other tokens do",
            reason="malformed",
        )
    return claims


def _caller(claims: _Claims, key: SigningKey) -> Caller:
    try:
        rate = claims.limits.parsed_rate()
        granted = claims.limits.grant(claims.sub, claims.role, claims.functions)
    except ValueError as error:
        raise NotAllowed(f"the limits of this token are not right: {error}", reason="malformed") from None
    fixed = {name: value.copy() for name, value in claims.args.items()}  # else they keep the whole token
    return Caller(
        name=claims.sub,
        grant=structs.replace(granted, args=fixed or None),
        rate=rate,
        expires=claims.exp,
        accepted_by=key.fingerprint,
    )
