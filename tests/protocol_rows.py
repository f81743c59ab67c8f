"""Rows of the protocol's table, and how replies are compared with them.

Replies are written once for every place. A bare reply differs on a websocket
(`task complete`, `task failed: …`), and each reply's `seen` knows how.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

SESSION, TCP, WEBSOCKET = "session", "TCP", "websocket"
"""The places where rows are run."""

PARSE_ERROR = -32700


# --- what a row leaves open --------------------------------------------------


class Anything:
    """A placeholder that is equal to everything, for what a row leaves open."""

    def __eq__(self, other: object) -> bool:
        """Return True: it is equal to everything."""
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "anything"


ANY = Anything()


class Has:
    """A placeholder that is equal to every object with these members among its own."""

    def __init__(self, **members: object) -> None:
        self.members = members

    def __eq__(self, other: object) -> bool:
        """Return whether `other` has the members."""
        return isinstance(other, dict) and all(
            other.get(name) == value for name, value in self.members.items()
        )

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"… {self.members} …"


class OneOf:
    """A placeholder that is equal to each of these values, between which the server's speed decides."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        """Return whether `other` is one of the values."""
        return other in self.values

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.values))


Seen = tuple[Any, ...]
"""A reply in the form that is compared: its kind, and its content."""


# --- replies -----------------------------------------------------------------


@dataclass(frozen=True)
class Bare:
    """The reply to a bare request whose function returned `value`."""

    value: Any
    in_order = True

    def seen(self, place: str) -> Seen:
        """Return the reply in the form that is compared."""
        return ("complete",) if place == WEBSOCKET else ("bare", self.value)


@dataclass(frozen=True)
class BareError:
    """The reply to a bare request that failed."""

    code: int
    message: Any = ANY
    data: Any = ANY
    in_order = True

    def seen(self, place: str) -> Seen:
        """Return the reply in the form that is compared."""
        if place == WEBSOCKET:
            return "failed", self.message
        return "bare error", self.code, self.message, self.data


@dataclass(frozen=True)
class Reply:
    """The reply to a JSON-RPC request; `id` is its JSON text."""

    id: str
    value: Any
    in_order = False

    def seen(self, place: str) -> Seen:
        """Return the reply in the form that is compared."""
        return "reply", self.id, self.value


@dataclass(frozen=True)
class ErrorReply:
    """The reply to a JSON-RPC request that failed; `id` is its JSON text."""

    id: str
    code: int
    data: Any = ANY
    message: Any = ANY
    in_order = False

    def seen(self, place: str) -> Seen:
        """Return the reply in the form that is compared."""
        return "error", self.id, self.code, self.message, self.data


@dataclass(frozen=True)
class Unreadable(ErrorReply):
    """The error for a message without a readable id: it keeps its place among the bare replies."""

    id: str = "null"
    code: int = PARSE_ERROR
    in_order = True


@dataclass(frozen=True)
class BatchReply:
    """The one reply to a batch; its elements are in any order."""

    replies: tuple[Reply | ErrorReply, ...]
    in_order = False

    def seen(self, place: str) -> Seen:
        """Return the reply in the form that is compared."""
        return "batch", tuple(reply.seen(place) for reply in self.replies)


Expected = Bare | BareError | Reply | ErrorReply | BatchReply


# --- rows --------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What is sent on one connection, and what must come back.

    Bare replies are listed in their order, which must be kept; others come in
    any order. With `ends` the server closes the connection after the replies.
    `closes` is the code with which a websocket is closed instead of a reply. With
    `is_first` nothing may be sent before on the connection; otherwise `GREETING` is,
    on TCP, where the first message must begin as JSON does.
    """

    name: str
    sent: tuple[bytes, ...]
    replies: tuple[Expected, ...]
    places: frozenset[str] = frozenset({SESSION, TCP, WEBSOCKET})
    ends: bool = False
    closes: int | None = None
    is_first: bool = False

    @property
    def sent_on_tcp(self) -> tuple[bytes, ...]:
        """What is sent over TCP."""
        return self.sent if self.is_first else (GREETING, *self.sent)

    def __str__(self) -> str:
        """Name the row, for the names of tests."""
        return self.name


GREETING = b'{"jsonrpc":"2.0","method":"taskd.ping"}'
"""A message without a reply."""


def row(name: str, sent: object, *replies: Expected, at: Sequence[str] = (), **more: Any) -> Row:
    """Make a row; `sent` is one message or a list of them, as bytes or as values to encode as JSON."""
    messages = sent if isinstance(sent, list) else [sent]
    lines = tuple(each if isinstance(each, bytes) else json.dumps(each).encode() for each in messages)
    return Row(name, lines, replies, frozenset(at or (SESSION, TCP, WEBSOCKET)), **more)


def call(function: str, args: object = None, **options: object) -> dict[str, object]:
    """Make a bare request."""
    message: dict[str, object] = {"function": function}
    if args is not None:
        message["args"] = args
    if options:
        message["options"] = options
    return message


def request(request_id: object, method: str, params: object = None, **options: object) -> dict[str, object]:
    """Make a JSON-RPC request, which has an id even if that is None."""
    return {**notification(method, params, **options), "id": request_id}


def notification(method: str, params: object = None, **options: object) -> dict[str, object]:
    """Make a JSON-RPC request without an id."""
    message: dict[str, object] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    if options:
        message["options"] = options
    return message


# --- comparing ---------------------------------------------------------------

_members = msgspec.json.Decoder(dict[str, Raw])


def seen_on_tcp(reply: bytes) -> Seen:
    """Return a reply over TCP in the form that is compared."""
    value = json.loads(reply, parse_int=_integer)
    if (
        isinstance(value, list)
        and value
        and all(isinstance(each, dict) and "jsonrpc" in each for each in value)
    ):
        return "batch", tuple(seen_on_tcp(bytes(each)) for each in msgspec.json.decode(reply, type=list[Raw]))
    if not isinstance(value, dict):
        return "bare", value
    if "jsonrpc" not in value:
        if value.keys() != {"error"}:
            return "bare", value
        return "bare error", *_error(value["error"])
    request_id = bytes(_members.decode(reply)["id"]).decode()
    assert value["jsonrpc"] == "2.0", value
    if "error" in value:
        assert value.keys() == {"jsonrpc", "id", "error"}, value
        return "error", request_id, *_error(value["error"])
    assert value.keys() == {"jsonrpc", "id", "result"}, value
    return "reply", request_id, value["result"]


def _integer(digits: str) -> int | str:
    """Read an integer, unless it has more digits than Python reads: an id, which is compared as text."""
    return int(digits) if len(digits) <= 4300 else digits


def _error(error: dict[str, Any]) -> Seen:
    assert error.keys() <= {"code", "message", "data"}, error
    assert error["message"], error
    return error["code"], error["message"], error.get("data")


def seen_on_websocket(reply: str) -> Seen:
    """Return a reply over a websocket in the form that is compared."""
    if reply == "task complete":
        return ("complete",)
    if reply.startswith("task failed: "):
        return "failed", reply.removeprefix("task failed: ")
    seen = seen_on_tcp(reply.encode())
    assert not seen[0].startswith("bare"), f"no reply of a websocket: {reply}"
    return seen


def mismatch(row: Row, place: str, replies: Sequence[Seen]) -> str | None:
    """Return how the replies differ from those that the row expects, None if they do not."""
    in_order = [each.seen(place) for each in row.replies if each.in_order]
    left = [each.seen(place) for each in row.replies if not each.in_order]
    got_in_order = []
    for reply in replies:
        if reply[0] in ("bare", "bare error", "complete", "failed"):
            got_in_order.append(reply)
        elif (found := _find(left, reply)) is not None:
            del left[found]
        else:
            got_in_order.append(reply)  # an error whose id is null, or one too many
    if not left and len(got_in_order) == len(in_order) and all(map(_agree, in_order, got_in_order)):
        return None
    return f"in order: {in_order}\nin any order: {left}\nbut got: {got_in_order}"


def _find(wanted: Sequence[Seen], reply: Seen) -> int | None:
    return next((number for number, each in enumerate(wanted) if _agree(each, reply)), None)


def _agree(wanted: Seen, reply: Seen) -> bool:
    if wanted[0] != "batch" or reply[0] != "batch":
        return wanted == reply
    left = list(wanted[1])
    for each in reply[1]:
        found = _find(left, each)
        if found is None:
            return False
        del left[found]
    return not left
