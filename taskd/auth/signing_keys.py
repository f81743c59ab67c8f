"""The keys by which signed tokens are checked: secrets, public keys in PEM, and sets of them (JWKS).

The algorithm follows from the key alone, and never from the token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from taskd.auth.files import AccessFileError, read_access_file
from taskd.protocol.nesting import is_too_deep

__all__ = ["EDDSA", "HS256", "RS256", "SigningKey", "parse_keys", "read_keys"]

HS256, EDDSA, RS256 = "HS256", "EdDSA", "RS256"

MIN_SECRET = 32
"""Bytes of the shortest secret: as many as SHA-256 has (RFC 7518, 3.2)."""

MIN_RSA_BITS = 2048
"""Bits of the shortest RSA key (RFC 7518, 3.3)."""

MAX_RSA_BITS = 8192
"""Bits of the longest RSA key: a signature of it takes half a millisecond to check."""

MAX_KEYS = 100
"""Keys in one set: those of an identity provider are a handful, and a token without the name of its key is
tried with each."""

_USES = "the public key is enough: openssl pkey -in FILE -pubout"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs tokens: its algorithm, the key as PyJWT takes it, and its name in a set, if any.

    `fingerprint` recognises it later, and does not reveal it.
    """

    algorithm: str
    key: Ed25519PublicKey | RSAPublicKey | bytes = field(repr=False)
    fingerprint: str
    kid: str | None = None


class _Jwk(msgspec.Struct, frozen=True):
    """The members of a JSON Web Key that are looked at."""

    kty: str
    kid: str | None = None
    use: str | None = None
    alg: str | None = None
    crv: str | None = None
    x: str | None = None
    n: str | None = None
    e: str | None = None
    k: str | None = None
    d: Any = None


class _JwkSet(msgspec.Struct, frozen=True):
    keys: list[_Jwk]


def read_keys(path: str) -> list[SigningKey]:
    """Read a file with a secret, a public key or a set of keys. Raises `AccessFileError`."""
    return parse_keys(read_access_file(path), path)


def parse_keys(content: bytes, shown: str) -> list[SigningKey]:
    """Return the keys in the content of a file, which messages call `shown`. Raises `AccessFileError`."""
    text = content.strip()
    try:
        if b"-----BEGIN " in text:
            return [_pem_key(text)]
        if text.startswith(b"{"):
            return _set_keys(text)
        return [_secret(text)]
    except ValueError as error:
        raise AccessFileError(f"{shown}: {error}") from None


def _secret(secret: bytes, kid: str | None = None) -> SigningKey:
    if len(secret) < MIN_SECRET:
        raise ValueError(
            f"a secret has at least {MIN_SECRET} bytes, and this one has {len(secret)}: "
            "openssl rand -base64 48"
        )
    return SigningKey(HS256, secret, _fingerprint(secret), kid)


def _pem_key(text: bytes) -> SigningKey:
    if b"PRIVATE KEY-----" in text:
        raise ValueError(f"this is a private key, which belongs to whoever signs the tokens alone; {_USES}")
    if b"-----BEGIN CERTIFICATE" in text:
        raise ValueError("this is a certificate; its key is wanted: openssl x509 -in FILE -noout -pubkey")
    if text.count(b"-----BEGIN ") > 1:
        raise ValueError(
            "there is more than one key; give each its own file and --jwt-key, or use a JWKS file"
        )
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"the PEM text is no public key that can be read: {error}") from None
    return _public_key(key, None)


def _public_key(key: object, kid: str | None) -> SigningKey:
    if isinstance(key, Ed25519PublicKey):
        return SigningKey(EDDSA, key, _fingerprint(key.public_bytes_raw()), kid)
    if isinstance(key, RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise ValueError(
                f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, and this one has {key.key_size}"
            )
        numbers = key.public_numbers()
        return SigningKey(RS256, key, _fingerprint(b"%x,%x" % (numbers.n, numbers.e)), kid)
    raise ValueError("a public key is Ed25519 (for EdDSA) or RSA (for RS256), and this one is neither")


def _fingerprint(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()


# --- sets of keys (RFC 7517) ---


def _set_keys(text: bytes) -> list[SigningKey]:
    if is_too_deep(text):
        raise ValueError("the JSON is nested too deeply")
    try:
        found = msgspec.json.decode(text, type=_JwkSet).keys
    except ValueError as error:
        raise ValueError(f'a file that begins with {{ is a JWKS, {{"keys": […]}}: {error}') from None
    if len(found) > MAX_KEYS:
        raise ValueError(f"there are {len(found)} keys, and may be {MAX_KEYS}")
    keys = [key for jwk in found if (key := _jwk_key(jwk)) is not None]
    if not keys:
        raise ValueError(
            "the set has no key that signs tokens with EdDSA (OKP, Ed25519), RS256 (RSA) or HS256 (oct)"
        )
    return keys


def _jwk_key(jwk: _Jwk) -> SigningKey | None:
    """Return the key of a JWK; None for one of another kind or use, which RFC 7517 has us ignore."""
    if jwk.use not in (None, "sig"):
        return None
    match jwk.kty, jwk.alg, jwk.crv:
        case "OKP", None | "EdDSA" | "Ed25519", "Ed25519":
            _refuse_private(jwk)
            return _public_key(Ed25519PublicKey.from_public_bytes(_bytes_of(jwk, "x")), jwk.kid)
        case "RSA", None | "RS256", _:
            _refuse_private(jwk)
            modulus, exponent = (int.from_bytes(_bytes_of(jwk, name), "big") for name in "ne")
            if modulus.bit_length() > MAX_RSA_BITS:
                raise ValueError(f"an RSA key has at most {MAX_RSA_BITS} bits")
            return _public_key(RSAPublicNumbers(exponent, modulus).public_key(), jwk.kid)
        case "oct", None | "HS256", _:
            return _secret(_bytes_of(jwk, "k"), jwk.kid)
    return None


def _refuse_private(jwk: _Jwk) -> None:
    if jwk.d is not None:
        raise ValueError(
            f"the key {jwk.kid!r} is private (it has the member d), and belongs to whoever signs the tokens "
            "alone; leave out all but its public members"
        )


def _bytes_of(jwk: _Jwk, name: str) -> bytes:
    text = getattr(jwk, name)
    if not text:
        raise ValueError(f"the key {jwk.kid!r} has no {name}")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name} of the key {jwk.kid!r} is not base64url") from None
