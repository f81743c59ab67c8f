"""Keys for tests, and tokens that are signed with them."""

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from taskd.auth.signed_tokens import SignedTokens
from taskd.auth.signing_keys import parse_keys

SECRET = b"a secret of more than thirty-two bytes"

ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RSA = rsa.generate_private_key(65537, 2048)

NOW = 1_800_000_000.0


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def signed(key=SECRET, algorithm="HS256", headers=None, **claims) -> str:
    """Return a signed token of alice, valid for an hour from `NOW`."""
    claims = {"sub": "alice", "exp": int(NOW) + 3600, **claims}
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not None}, key, algorithm, headers
    )


def judge(*contents: bytes, audience=None) -> SignedTokens:
    """Return the judge of tokens that one of these keys has signed."""
    return SignedTokens([key for content in contents for key in parse_keys(content, "keys")], audience)
