"""The file of tokens: a TOML table for each, with the hash of the token and what it covers."""

from __future__ import annotations

import difflib
import hmac
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from taskd.auth.caller import Caller
from taskd.auth.files import AccessFileError, read_access_file
from taskd.auth.limits import MOST, Limits
from taskd.auth.tokens import hash_of, is_hash
from taskd.errors import NotAllowed
from taskd.model import MAX_PATTERNS, Pattern, Role

__all__ = [
    "NAME_FORM",
    "OWNER_PREFIX",
    "TokenEntry",
    "TokenFile",
    "is_token_name",
    "parse_tokens",
    "read_tokens",
]

OWNER_PREFIX = "token:"
"""The beginning of the owners of tasks whose callers have shown a token of the file."""

NAME_FORM = "1 to 64 letters of ASCII, digits, and - _"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
"""The names that TOML takes without quotes."""

_TABLE = "tokens"


class TokenEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One token of the file, as it is written there; `expires` is a point in time, with its offset."""

    hash: str
    role: Role = "submit"
    functions: Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=MAX_PATTERNS)] = ("*",)
    rate: str | None = None
    waiting: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    running: Annotated[int, Meta(ge=1, le=MOST)] | None = None
    bytes: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    expires: datetime | None = None

    def caller(self, name: str) -> Caller:
        """Return whoever shows the token of a name. Raises `ValueError` for a wrong rate or functions."""
        limits = Limits(self.rate, self.waiting, self.running, self.bytes)
        return Caller(
            name=name,
            grant=limits.grant(OWNER_PREFIX + name, self.role, self.functions),
            rate=limits.parsed_rate(),
            expires=None if self.expires is None else self.expires.timestamp(),
            accepted_by=self.hash,
        )


@dataclass(frozen=True, slots=True)
class TokenFile:
    """The tokens of a file: by name as they are written, and their callers by hash."""

    entries: Mapping[str, TokenEntry]
    callers: Mapping[str, Caller]

    def verify(self, token: str, now: float) -> Caller:
        """Return whoever has shown a token. Raises `NotAllowed`."""
        # The time of a look-up tells nothing of the hashes: it goes by Python's own hash, whose key is
        # random. The hash that is found is compared in constant time.
        shown = hash_of(token)
        caller = self.callers.get(shown)
        if caller is None or not hmac.compare_digest(caller.accepted_by, shown):
            raise NotAllowed("this token is not known", reason="unknown")
        if caller.expires is not None and caller.expires <= now:
            raise NotAllowed("this token has expired", reason="expired")
        return caller


def is_token_name(name: str) -> bool:
    """Return whether a token of the file may have this name."""
    return _NAME.fullmatch(name) is not None


def read_tokens(path: str) -> TokenFile:
    """Read a file of tokens. Raises `AccessFileError`."""
    return parse_tokens(read_access_file(path), path)


def parse_tokens(content: bytes, shown: str) -> TokenFile:
    """Return the tokens in the content of a file, which messages call `shown`. Raises `AccessFileError`."""
    try:
        text = content.decode()
        tables = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise AccessFileError(f"{shown}: byte {error.start} is not UTF-8, as TOML must be") from None
    except RecursionError:
        raise AccessFileError(f"{shown} is not TOML that can be read: it is nested too deeply") from None
    except ValueError as error:  # also for numbers of more digits than Python converts
        raise AccessFileError(f"{shown} is not TOML: {error}") from None
    for key in tables:
        if key != _TABLE:
            raise AccessFileError(f"{shown}: there is nothing called {key[:40]!r}; write [{_TABLE}.NAME]")
    named = tables.get(_TABLE, {})
    if not isinstance(named, dict):
        raise AccessFileError(f"{shown}: {_TABLE} has a table for each token: [{_TABLE}.NAME]")
    entries: dict[str, TokenEntry] = {}
    callers: dict[str, Caller] = {}
    for name, table in named.items():
        try:
            entries[name] = entry = _entry(name, table)
            caller = entry.caller(name)
        except ValueError as error:
            where = f"{shown}{_line(text, name)}"
            raise AccessFileError(f"{where}: token {name[:80]}: {error}") from None
        if entry.hash in callers:
            other = callers[entry.hash].name
            raise AccessFileError(
                f"{shown}{_line(text, name)}: {other} and {name} have the same hash: each token has one name"
            )
        callers[entry.hash] = caller
    return TokenFile(entries, callers)


def _line(text: str, name: str) -> str:
    """Return ``:LINE``, where the table of a token begins; nothing if it is written in another way."""
    begin = rf"^[ \t]*\[[ \t]*{_TABLE}[ \t]*\.[ \t]*([\"']?){re.escape(name)}\1[ \t]*\]"
    found = re.search(begin, text, re.MULTILINE)
    return "" if found is None else f":{text.count(chr(10), 0, found.start()) + 1}"


def _entry(name: str, table: Any) -> TokenEntry:
    """Return a token of the file. Raises `ValueError`."""
    if not is_token_name(name):
        raise ValueError(f"a token's name is {NAME_FORM}")
    if not isinstance(table, dict):
        raise ValueError(f"this is a table: [{_TABLE}.{name}]")
    known = [field.name for field in msgspec.structs.fields(TokenEntry)]
    for key in table:
        if key not in known:
            meant = difflib.get_close_matches(key.lower(), known, 1)
            hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(known)}"
            raise ValueError(f"there is no {key[:40]!r}; {hint}")
    table = {**table, "expires": _point_in_time(table["expires"])} if "expires" in table else table
    entry = msgspec.convert(table, TokenEntry)
    if not is_hash(entry.hash):
        raise ValueError("hash is sha256: and 64 digits of hex; taskd token new writes it")
    return entry


def _point_in_time(value: Any) -> datetime:
    """Return the moment that a date or a date-time in TOML means; a date alone is its beginning, in UTC."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"expires needs its offset, Z for UTC: {value.isoformat()}Z")
        return value
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    raise ValueError("expires is a date or a date-time of TOML, without quotes: 2027-01-31T12:00:00Z")
