"""The value of the concurrency key in a task's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256

import msgspec
from msgspec import Raw

from taskd.functions.descriptions import ParameterInfo

__all__ = ["NO_KEY", "key_place", "key_reader", "share_key"]

NO_KEY = ""
"""The key of the tasks that leave out the argument, and of those of functions without one."""

MAX_KEY = 200
"""Characters of a key as it is; of a longer one its hash is kept, so that held tasks cost no more memory."""


_OWNER_ENDS = "\x1f"
"""What ends the name of an owner, which has no such character; nor has JSON text."""


def share_key(owner: str, key: str | None) -> str | None:
    """Return the limit key that the store has for a task: of each owner, there is one for each key.

    Tasks with one limit key share a turn in being claimed. None stands for tasks of nobody in
    particular, if their function has no concurrency key.
    """
    return f"{owner}{_OWNER_ENDS}{key or NO_KEY}" if owner else key


def key_reader(name: str | None, parameters: Mapping[str, ParameterInfo]) -> Callable[[bytes | None], str]:
    """Return a function from a task's arguments, as JSON text, to the value of the argument `name`.

    The value is JSON text, and the same for values that are equal as JSON: the
    order of an object's members and the way of writing a text do not matter.
    """
    if name is None:
        return lambda _args: NO_KEY
    place = key_place(name, parameters)
    holder = msgspec.defstruct("Holder", [("value", Raw, Raw())], rename={"value": name})
    named, positional = msgspec.json.Decoder(holder), msgspec.json.Decoder(list[Raw])

    def read(args: bytes | None) -> str:
        if not args:
            return NO_KEY
        try:
            if args.lstrip()[:1] == b"{":
                value = bytes(getattr(named.decode(args), "value"))  # noqa: B009
            else:
                values = positional.decode(args)
                value = bytes(values[place]) if place is not None and place < len(values) else b""
        except msgspec.MsgspecError:
            return NO_KEY  # the worker refuses these arguments
        return _canonical(value) if value else NO_KEY

    return read


def key_place(name: str, parameters: Mapping[str, ParameterInfo]) -> int | None:
    """Return the position of the argument `name`, None if it can only be given by its name."""
    for place, (other, parameter) in enumerate(parameters.items()):
        if parameter.passed != "either":
            return None
        if other == name:
            return place
    return None


def _canonical(value: bytes) -> str:
    try:
        text = msgspec.json.encode(msgspec.json.decode(value), order="deterministic").decode()
    except (msgspec.MsgspecError, OverflowError, ValueError):  # a number that is no number of Python's
        text = value.decode(errors="replace")
    return text if len(text) <= MAX_KEY else f"sha256:{sha256(text.encode()).hexdigest()}"
