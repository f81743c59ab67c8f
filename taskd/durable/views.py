"""Stored tasks as the methods about them show them."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw, UnsetType

from taskd.durable.vault import Vault
from taskd.store.records import Record, State

__all__ = ["TaskView"]

_NO_ARGS = Raw(b"[]")


class TaskView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stored task, as the methods show it. Times are in seconds since 1970."""

    task: str
    function: str
    state: str
    created: float
    attempts: int
    errors: int
    losses: int
    due: float
    ended: float | None = None
    key: str | None = None
    batch: str | None = None
    owner: str = ""
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    args: Raw | UnsetType = UNSET

    @classmethod
    def of(cls, record: Record) -> TaskView:
        """Return the view of a task."""
        outcome = UNSET if record.outcome is None else Raw(record.outcome)
        succeeded = record.state is State.SUCCEEDED
        return cls(
            record.new.id,
            record.new.function,
            record.state.name.lower(),
            round(record.created, 3),
            record.attempt,
            record.errors,
            record.losses,
            round(record.due, 3),
            None if record.ended is None else round(record.ended, 3),
            record.new.key,
            record.new.batch,
            record.new.owner,
            outcome if succeeded else UNSET,
            UNSET if succeeded else outcome,
        )

    @classmethod
    def with_args(cls, record: Record, vault: Vault) -> TaskView:
        """Return the view of a task that also has its arguments, with the secrets among them masked."""
        return msgspec.structs.replace(cls.of(record), args=vault.shown_args(record) or _NO_ARGS)
