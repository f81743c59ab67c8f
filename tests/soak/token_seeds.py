"""Tokens for the fuzzer: right ones, forged ones and nonsense, in every place where a token may be shown."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from random import Random

import jwt

from tests.soak.attacks.attacker import rpc
from tests.soak.mutations import mutated

__all__ = ["SECRET", "right_token", "token_heads", "token_lines", "tokens"]

SECRET = "the fuzzer's own secret, of more than 32 bytes"

HOUR = 3600


def right_token(sub: str = "probe", **claims: object) -> str:
    """Return a token that is accepted for an hour."""
    return jwt.encode({"sub": sub, "exp": int(time.time()) + HOUR, **claims}, SECRET, "HS256")


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _claims(rng: Random) -> dict[str, object]:
    odd = ("", "x" * 300, "token:web", -1, 0, 1e400, 1e18, True, None, [], {}, "\ud800", "é", "a\0b")
    claims: dict[str, object] = {"sub": "eve", "exp": time.time() + HOUR}
    names = ("sub", "exp", "nbf", "aud", "role", "functions", "args", "limits", "iat", "jti")
    for name in rng.sample(names, rng.randrange(4)):
        claims[name] = rng.choice(
            (
                *odd,
                "operate",
                ["*"],
                ["echo", "big*"],
                {"value": 1},
                {"rate": "3/s"},
                {"waiting": 0, "running": 1, "bytes": 10},
                {"rate": "0/s"},
            )
        )
    return claims


def tokens(rng: Random) -> Iterator[str]:
    """Yield tokens, most of which are not accepted."""
    yield right_token()
    yield right_token(role="operate")
    yield right_token(role="watch", functions=["echo"])
    yield right_token(functions=["echo"], args={"value": 7}, limits={"rate": "20/s", "running": 1})
    yield jwt.encode({"sub": "late", "exp": 1}, SECRET, "HS256")
    yield jwt.encode({"sub": "eve", "exp": time.time() + HOUR}, SECRET * 2, "HS256")
    yield jwt.encode({"sub": "eve", "exp": time.time() + HOUR}, None, "none")
    yield "taskd_" + "A" * 43
    claims = json.dumps(_claims(rng)).encode("utf-8", "surrogatepass")
    yield jwt.api_jws.PyJWS().encode(claims, SECRET.encode(), "HS256")
    head, body, sign = right_token().split(".")
    for other in b'{"alg":"none"}', b'{"alg":"RS256","kid":"../x"}', b'{"alg":["HS256"]}', b"[" * 900:
        yield f"{_encoded(other)}.{body}.{sign}"
    yield f"{head}.{_encoded(claims)}.{sign}"
    yield mutated(rng, [right_token().encode()]).decode("latin-1")
    yield "." * rng.randrange(10_000)


def token_lines(rng: Random) -> list[bytes]:
    """Return lines that show tokens."""
    return [rpc(8, "taskd.auth", json.dumps({"token": each})) for each in tokens(rng)]


def token_heads(rng: Random, host: bytes) -> list[bytes]:
    """Return requests of HTTP that show tokens."""
    body = b'{"function":"echo","args":[1]}'
    found = []
    for each in tokens(rng):
        token = each.encode("latin-1", "replace").replace(b"\r", b"").replace(b"\n", b"")
        for line in (b"Authorization: Bearer " + token, b"Authorization: " + token):
            found.append(b"GET /api/v1/tasks HTTP/1.1\r\n" + host + line + b"\r\n\r\n")
            found.append(
                b"POST /api/v1/tasks HTTP/1.1\r\n%b%b\r\nContent-Type: application/json\r\nContent-Length: %d"
                b"\r\n\r\n%b" % (host, line, len(body), body)
            )
    return found
