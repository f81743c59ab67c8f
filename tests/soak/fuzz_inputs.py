"""What the fuzzer sends on one connection: which token it shows and where, and what is spoiled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import jwt

from tests.soak.attacks.attacker import TEXT, Attacker, frame, rpc
from tests.soak.http_seeds import compressed_frames, http_requests, stream_requests
from tests.soak.method_seeds import Known, method_lines
from tests.soak.mutations import line_seeds, web_seeds
from tests.soak.token_seeds import SECRET, right_token, token_heads, token_lines, tokens

__all__ = ["Plan", "plan", "role_of", "shown_tokens"]

HOST = b"Host: 127.0.0.1\r\n"

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"

_JWT = re.compile(rb"eyJ[\w-]{8,}\.[\w-]{2,}\.[\w-]{20,}")


@dataclass(frozen=True, slots=True)
class Plan:
    """One connection: its `handshake`, if it is a websocket, and the `seeds` of what it sends.

    `line` and `headers` show a right token on a line and in a request of HTTP, or are empty: for requests
    that are sent as they are. `ids` are those of a task and a batch. `may_see_all` is whether it may show
    the token of an operator.
    """

    handshake: bytes
    seeds: list[bytes]
    line: bytes
    headers: bytes
    ids: tuple[str, str]
    may_see_all: bool


@lru_cache(maxsize=5000)
def role_of(token: bytes) -> str | None:
    """Return the role in a token that is signed with the fuzzer's own secret, None if it is not."""
    try:
        claims = json.loads(jwt.api_jws.PyJWS().decode(token, SECRET.encode(), ["HS256"]))
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    return str(claims.get("role", "submit")) if isinstance(claims, dict) else None


def shown_tokens(data: bytes) -> list[bytes]:
    """Return whatever in some bytes is a token that is signed with the fuzzer's own secret."""
    return [each for each in _JWT.findall(data) if role_of(each) is not None]


def _without_operators(data: Iterable[bytes]) -> list[bytes]:
    return [each for each in data if all(role_of(token) != "operate" for token in _JWT.findall(each))]


def plan(rng: Random, attacker: Attacker, known: Known, *, is_web: bool, has_tokens: bool) -> Plan:
    """Choose all of one connection."""
    role = rng.choice(("", "watch", "submit", "submit", "operate")) if has_tokens else ""
    may_see_all = role == "operate" or not has_tokens
    token = right_token(role=role) if role else ""
    ids = known.choose(rng, foreign=not may_see_all)
    line = rpc(8, "taskd.auth", json.dumps([token])) if token else b""
    headers = f"Authorization: Bearer {token}\r\n".encode() if token else b""
    methods = method_lines(rng, *ids)
    if not is_web:
        seeds = [line + each for each in (*line_seeds(), *methods)] + methods
        if has_tokens:
            seeds += [*token_lines(rng), *line_seeds()]
        return Plan(b"", seeds if may_see_all else _without_operators(seeds), line, headers, ids, may_see_all)
    handshake = b""
    if rng.random() < 0.6:
        handshake = _handshake(rng, attacker, token, has_tokens=has_tokens)
    heads, frames = web_seeds(handshake or attacker.handshake())
    if handshake:
        seeds = frames + [frame(TEXT, each.rstrip()) for each in (*methods, *methods, line) if each]
        seeds += compressed_frames(rng, methods)
        if has_tokens:
            seeds += [frame(TEXT, each.rstrip()) for each in token_lines(rng)]
    else:
        seeds = heads + http_requests(rng, headers, *ids) + stream_requests(headers, *ids)
        if has_tokens:
            seeds += token_heads(rng, HOST)
    if not may_see_all:
        seeds = _without_operators(seeds)
        if any(role_of(each) == "operate" for each in _JWT.findall(handshake)):
            handshake = attacker.handshake()
    return Plan(handshake, seeds, line, headers, ids, may_see_all)


def _handshake(rng: Random, attacker: Attacker, right: str, *, has_tokens: bool) -> bytes:
    """Return the request that opens a websocket, mostly with a token in one place or another."""
    more = DEFLATE if rng.random() < 0.4 else ""
    if not has_tokens or rng.random() < 0.1:
        return attacker.handshake(more)
    token = right if right and rng.random() < 0.7 else rng.choice(list(tokens(rng)))
    shown = token.encode("latin-1", "replace").decode("latin-1").replace("\r", "").replace("\n", "")
    places = (
        "Sec-WebSocket-Protocol: taskd, taskd.token.{}",
        "Sec-WebSocket-Protocol: taskd.token.{}",
        "Sec-WebSocket-Protocol: taskd\r\nSec-WebSocket-Protocol: taskd.token.{0}, taskd.token.{0}",
        "Authorization: Bearer {}",
        "authorization: bearer {}",
        "X: {}",
    )
    return attacker.handshake(more + rng.choice(places).format(shown) + "\r\n")
