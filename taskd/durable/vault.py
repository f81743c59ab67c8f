"""Secret arguments in the store: sealed before they are written, opened when their task is claimed to be run.

Each secret value is sealed by itself, so that the others can be read and shown as
ever. The options that a task keeps say which arguments are secret, since the function
may have been changed, or be gone, when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec
from msgspec import Raw
from twisted.logger import Logger

from taskd.durable.moments import RunOptions
from taskd.errors import TaskFailed
from taskd.functions.registry import FunctionInfo
from taskd.functions.secret_arguments import ALL_SECRET, NOT_SECRET, SecretArguments, masked
from taskd.model import Failure
from taskd.store.base import Changes, Store, Written
from taskd.store.records import New, Record

__all__ = ["UNREADABLE", "Sealing", "Vault", "Writes"]

_log = Logger(namespace="taskd.store")

_why = (
    "its secret arguments are sealed with a key that the daemon does not have: add that key to the file of "
    "--secret-key, after the first one, send the daemon SIGHUP and put the task back (taskd retry)"
)

UNREADABLE = Failure.of(TaskFailed(_why, type="taskd.SealedSecret", message=_why))
"""The outcome of a task whose secrets cannot be opened."""

_options = msgspec.json.Decoder(RunOptions)
_text = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode

_MARK, _SEALED_MARK = b'"secrets"', b'"is_sealed"'
"""The members of the options, looked for as bytes since most tasks have neither."""


class Sealing(Protocol):
    """The keys with which secrets are sealed."""

    def seal(self, secret: bytes) -> bytes:
        """Return a secret in a form that only the keys can open, as ASCII text."""

    def open(self, sealed: bytes) -> bytes:
        """Return what was sealed. Raises `ValueError` if no key opens it."""


class Writes(Protocol):
    """A store, as far as one writes to it."""

    @property
    def room(self) -> float:
        """The bytes of new tasks for which there is room."""

    def write(self, changes: Changes, now: float) -> Written:
        """Do as `Store.write` does."""


class Vault:
    """The secrets of the tasks in a store, which they pass on their way in and out.

    Without `sealing` they are stored as they are. Implements `Writes`: what is claimed comes opened,
    and if that is not possible its options say that it is sealed still.
    """

    def __init__(self, store: Store, sealing: Sealing | None = None) -> None:
        self._store = store
        self._sealing = sealing
        self._functions: dict[str, SecretArguments] | None = None
        self._has_warned = False

    # --- the app ---

    def use(self, functions: Iterable[FunctionInfo]) -> None:
        """Take the secret arguments of these functions for secret; warn once if they are not sealed."""
        self._functions = {each.name: SecretArguments.of(each.parameters) for each in functions}
        secret = [name for name, secrets in self._functions.items() if secrets]
        if secret and self._sealing is None and self._store.is_lasting and not self._has_warned:
            self._has_warned = True
            _log.warn(
                "secret arguments of {functions} are stored as they are: to have them encrypted, "
                "name a file of keys with --secret-key",
                functions=", ".join(secret),
            )

    def secrets(self, function: str) -> SecretArguments:
        """Return which arguments of a function are secret: any of them, as long as no function is known."""
        if self._functions is None:
            return ALL_SECRET
        return self._functions.get(function, NOT_SECRET)

    # --- in ---

    def seals(self, function: str) -> bool:
        """Return whether arguments of a function are sealed."""
        return self._sealing is not None and bool(self.secrets(function))

    @property
    def room(self) -> float:
        """The bytes of new tasks for which there is room."""
        return self._store.room

    def write(self, changes: Changes, now: float) -> Written:
        """Write to the store, with the secrets of new tasks sealed and those of claimed ones opened."""
        if self._sealing is not None and any(_MARK in new.options for new in changes.submits):
            sealed = [self.sealed(new) for new in changes.submits]
            changes = msgspec.structs.replace(changes, submits=sealed)
        written = self._store.write(changes, now)
        if any(_SEALED_MARK in record.new.options for record in written.claims):
            written.claims = [self.opened(record) for record in written.claims]
        return written

    def sealed(self, new: New) -> New:
        """Return a task with its secrets sealed: those of its arguments, if it has any."""
        if self._sealing is None or _MARK not in new.options:
            return new
        kept = _options.decode(new.options)
        if kept.is_sealed:
            return new
        args = None if new.args is None else self._sealed_args(self._sealing, new.function, new.args)
        options = _encode(msgspec.structs.replace(kept, is_sealed=True))
        return msgspec.structs.replace(new, args=args, options=options)

    def sealed_rows(self, function: str, rows: list[bytes]) -> list[bytes]:
        """Return the arguments of a function's tasks with the secrets sealed."""
        if self._sealing is None or not self.secrets(function):
            return rows
        return [self._sealed_args(self._sealing, function, row) for row in rows]

    def _sealed_args(self, sealing: Sealing, function: str, args: bytes) -> bytes:
        def seal(key: str | int, value: Raw) -> Raw:
            return Raw(_encode(sealing.seal(_place(function, key) + bytes(value)).decode()))

        return bytes(self.secrets(function).replaced(args, seal) or b"")

    # --- out ---

    def opened(self, record: Record) -> Record:
        """Return a task with its secrets opened; as it is if that is not possible."""
        new, sealing = record.new, self._sealing
        if _SEALED_MARK not in new.options or sealing is None:
            return record
        kept = _options.decode(new.options)
        if not kept.is_sealed or kept.secrets is None:
            return record

        def open_one(key: str | int, value: Raw) -> Raw:
            place, opened = _place(new.function, key), sealing.open(_text.decode(value).encode())
            if not opened.startswith(place):
                raise ValueError("sealed for another argument")
            return Raw(opened.removeprefix(place))

        try:
            args = kept.secrets.replaced(new.args, open_one)
        except (ValueError, msgspec.DecodeError):
            return record
        options = _encode(msgspec.structs.replace(kept, is_sealed=False))
        opened = msgspec.structs.replace(new, args=None if args is None else bytes(args), options=options)
        return msgspec.structs.replace(record, new=opened)

    def shown_args(self, record: Record) -> Raw | None:
        """Return the arguments of a task with its secrets masked, None if it has none."""
        new, now = record.new, self.secrets(record.new.function)
        kept = _options.decode(new.options).secrets if _MARK in new.options else None
        if kept == ALL_SECRET and now != ALL_SECRET:  # it came before the function was known
            new, kept = self.opened(record).new, None
            if _options.decode(new.options).is_sealed:
                now = ALL_SECRET
        args = masked(new.args, now)
        if kept is not None:
            args = masked(args, kept)
        return None if args is None else Raw(args)


def _place(function: str, key: str | int) -> bytes:
    """Return what is sealed with a value, so that it cannot be put into the place of another one."""
    return f"{function}\0{key}\0".encode()
