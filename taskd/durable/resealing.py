"""The secrets of a store, sealed anew with the newest key, so that the older ones can be thrown away."""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec import Raw

from taskd.durable.moments import RunOptions
from taskd.store.sealed import SealedStore

__all__ = ["Resealing"]

SHOWN = 10
"""Ids that are named of tasks which cannot be opened: enough to look for what they have in common."""

_options = msgspec.json.Decoder(RunOptions)
_text = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


class Keys(Protocol):
    """The keys, of which the newest one seals."""

    def is_newest(self, sealed: bytes) -> bool:
        """Return whether the newest key opens this."""

    def seal_again(self, sealed: bytes) -> bytes:
        """Return the same secret, sealed with the newest key. Raises `ValueError` if no key opens it."""


class Resealing:
    """One run over a store.

    It may be broken off at any time, and run again: what has the newest key is left as it is.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.resealed = 0
        """Tasks whose secrets have another key now; those of batches that wait to be stored count."""
        self.up_to_date = 0
        """Tasks whose secrets had the newest key."""
        self.unopened = 0
        """Tasks with secrets that no key opens, which are left as they are."""
        self.first_unopened: list[str] = []
        """The ids of the first of these; of the batch, if its tasks are not stored yet."""

    def run(self, store: SealedStore) -> None:
        """Seal everything in a store again, a bounded part at a time. Raises `StoreError`."""
        sealed = store.sealed
        place = sealed.first_part
        while place is not None:
            place = sealed.change_part(place, self._change)
        after: str | None = ""
        while after is not None:
            after = sealed.change_tasks(after, self._change)

    def _change(self, id: str, function: str, options: bytes, args: bytes) -> bytes | None:  # noqa: A002
        kept = _options.decode(options)
        if not kept.is_sealed or kept.secrets is None:
            return None
        old, new = 0, 0

        def seal_again(_key: str | int, value: Raw) -> Raw:
            nonlocal old, new
            sealed = _text.decode(value).encode()
            if self._keys.is_newest(sealed):
                new += 1
                return value
            old += 1
            return Raw(_encode(self._keys.seal_again(sealed).decode()))

        try:
            changed = kept.secrets.replaced(args, seal_again)
        except (ValueError, msgspec.DecodeError):
            self.unopened += 1
            if len(self.first_unopened) < SHOWN and id not in self.first_unopened:
                self.first_unopened.append(id)
            return None
        if not old:
            self.up_to_date += new > 0
            return None
        self.resealed += 1
        return bytes(changed or b"")
