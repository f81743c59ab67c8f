"""The answer to ``taskd.whoami``: the caller's owner and rights."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from taskd.auth.caller import Caller, Rate
from taskd.model import ANONYMOUS, Grant, Role

__all__ = ["Limits", "Whoami", "rate_text"]

_UNITS = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "d"}


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """The limits of a token, as it has them: those that are None do not exist."""

    rate: str | None = None
    waiting: int | None = None
    running: int | None = None
    bytes: int | None = None


class Whoami(msgspec.Struct, frozen=True):
    """The owner and the rights of a caller.

    `functions` are patterns, `args` the fixed arguments; `expires` is in seconds since 1970.
    `anonymous` says that no token was shown.
    """

    owner: str
    role: Role
    functions: list[str]
    args: dict[str, Raw]
    expires: float | None
    limits: Limits
    anonymous: bool = False

    @classmethod
    def of(cls, caller: Caller) -> Whoami:
        """Return the answer to whoever has shown a token."""
        grant = caller.grant
        rate = None if caller.rate is None else rate_text(caller.rate)
        limits = Limits(rate, grant.waiting, grant.running, grant.bytes)
        return cls(grant.owner, grant.role, _functions(grant), dict(grant.args or {}), caller.expires, limits)

    @classmethod
    def without_token(cls, grant: Grant) -> Whoami:
        """Return the answer to whoever has shown no token."""
        args = dict(grant.args or {})
        return cls(grant.owner, grant.role, _functions(grant), args, None, Limits(), grant == ANONYMOUS)


def _functions(grant: Grant) -> list[str]:
    return ["*"] if grant.functions is None else list(grant.functions)


def rate_text(rate: Rate) -> str:
    """Return a rate as the options of tokens have it: ``100/min``."""
    unit = _UNITS.get(rate.seconds)
    return f"{rate.count}/{unit}" if unit is not None else f"{rate.count}/{rate.seconds:g}s"
