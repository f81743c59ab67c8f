"""Which arguments of a function are secret, found again in the JSON text of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import Raw

from taskd.functions.descriptions import ParameterInfo
from taskd.functions.hiding import MASK

__all__ = ["ALL_SECRET", "NOT_SECRET", "SecretArguments", "masked"]

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_ARRAY = msgspec.json.Decoder(list[Raw])
_encode = msgspec.json.Encoder().encode

_MASK = Raw(_encode(MASK))


class SecretArguments(msgspec.Struct, frozen=True, omit_defaults=True):
    """The arguments that are secret, however they are given: by their `names` or their `places`.

    So are all places from `more_from` on, if it is not None, and all names but those in
    `besides`, if that is not None.
    """

    names: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    more_from: int | None = None
    besides: tuple[str, ...] | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, ParameterInfo]) -> SecretArguments:
        """Return those that a function with these parameters has."""
        positional = [name for name, each in parameters.items() if each.passed == "either"]
        named = [name for name, each in parameters.items() if not each.passed.startswith("more_")]
        secret = {name for name, each in parameters.items() if each.secret}
        more = {each.passed for each in parameters.values() if each.secret}
        return cls(
            tuple(name for name in named if name in secret),
            tuple(place for place, name in enumerate(positional) if name in secret),
            len(positional) if "more_positions" in more else None,
            tuple(named) if "more_names" in more else None,
        )

    def __bool__(self) -> bool:
        return bool(self.names or self.places) or self.more_from is not None or self.besides is not None

    def has_name(self, name: str) -> bool:
        """Return whether the argument of a name is secret."""
        return name in self.names or (self.besides is not None and name not in self.besides)

    def has_place(self, place: int) -> bool:
        """Return whether the argument at a place is secret."""
        return place in self.places or (self.more_from is not None and place >= self.more_from)

    def values(self, args: bytes | Raw | None) -> Iterable[Raw]:
        """Return the secret values in the JSON text of arguments."""
        found: list[Raw] = []

        def keep(_: str | int, value: Raw) -> Raw:
            found.append(value)
            return value

        self.replaced(args, keep)
        return found

    def replaced(
        self, args: bytes | Raw | None, replace: Callable[[str | int, Raw], Raw]
    ) -> bytes | Raw | None:
        """Return the JSON text of arguments, in which `replace` has replaced the secret values.

        It is called with the name or the place of each. Arguments that cannot be read, which
        no function is called with, stay as they are.
        """
        if args is None or not self:
            return args
        first = bytes(memoryview(args)[:1])
        try:
            members = _OBJECT.decode(args) if first == b"{" else None
            items = _ARRAY.decode(args) if first == b"[" else []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return args
        if members is not None:
            own = {name: replace(name, value) for name, value in members.items() if self.has_name(name)}
            return _encode(members | own) if own else args
        places = [place for place in range(len(items)) if self.has_place(place)]
        for place in places:
            items[place] = replace(place, items[place])
        return _encode(items) if places else args


NOT_SECRET = SecretArguments()
"""Of functions without secrets."""

ALL_SECRET = SecretArguments(more_from=0, besides=())
"""Of functions that are not known yet: any argument may be secret."""


def masked(args: bytes | Raw | None, secrets: SecretArguments) -> bytes | Raw | None:
    """Return the JSON text of arguments with a mask for each secret value."""
    return secrets.replaced(args, lambda _key, _value: _MASK)
