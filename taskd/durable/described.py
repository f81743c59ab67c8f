"""The properties of functions that the store keeps for submits by SQL, in which no node takes part."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from taskd.durable.limit_keys import key_place
from taskd.functions.durability import Durability
from taskd.functions.registry import FunctionInfo
from taskd.functions.secret_arguments import SecretArguments
from taskd.store.nodes import Described

__all__ = ["described"]

_DEFAULT = Durability()


def described(functions: Iterable[FunctionInfo], *, seals: bool) -> list[Described]:
    """Return what has to be known of functions; `seals` is whether this node seals secret arguments."""
    return [_described(each, seals=seals) for each in functions]


def _described(function: FunctionInfo, *, seals: bool) -> Described:
    durable = function.durable or _DEFAULT
    key = durable.concurrency_key
    secrets = SecretArguments.of(function.parameters)
    return Described(
        function.name,
        durable.keep,
        durable.once,
        key,
        None if key is None else key_place(key, function.parameters),
        msgspec.json.encode(secrets).decode() if secrets else None,
        seals and bool(secrets),
    )
