"""Requests in either dialect: parsing a peer's messages, and encoding calls for another server.

`parse` never raises: a message that is not a request becomes an `Invalid`,
which carries the error to answer with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from taskd.errors import InvalidRequest, ParseError, TaskdError, quoted
from taskd.model import NO_OPTIONS, Call, Options
from taskd.protocol.nesting import MAX_NESTING, is_too_deep, too_deep

__all__ = [
    "BARE",
    "JSON_RPC",
    "AnyRequest",
    "Batch",
    "BatchMember",
    "BatchReplies",
    "Dialect",
    "Invalid",
    "Parsed",
    "Request",
    "check_text",
    "encode_arguments",
    "parse",
    "parse_member",
    "request_line",
]


class Dialect(Enum):
    """The two forms of a request (docs/protocol.md); each message shows which one it is in."""

    BARE = "bare"
    JSON_RPC = "JSON-RPC 2.0"


# The hot paths use these names: in Python 3.11, looking up a member of an
# enumeration takes as long as a whole function call.
BARE, JSON_RPC = Dialect

Work = TypeVar("Work")
"""The type of the work done for a request, which can be cancelled: a task, or a call to another server."""


class BatchReplies:
    """The replies to a batch, collected until no member of it is `missing`; their `size` is in bytes."""

    __slots__ = ("missing", "replies", "size")

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.replies: list[bytes] = []
        self.size = 0


# Not frozen like its base `Call`, since the session and its user fill in the last four members.
class Request(Call, Generic[Work], frozen=False, eq=False, gc=True):  # type: ignore[misc]
    """A call on one connection, in one dialect, which is owed one reply (a notification: none).

    `id` is the JSON text of the id, or None for a notification or a bare
    request. `work` belongs to whoever starts the request; `batch`, `ready` (a bare
    reply that waits for its turn) and `held` (the bytes that the session counts
    for a long request, 0 for a short one) belong to the session.
    """

    dialect: Dialect = JSON_RPC
    id: Raw | None = None
    work: Work | None = None
    batch: BatchReplies | None = None
    ready: bytes | None = None
    held: int = 0

    @property
    def is_notification(self) -> bool:
        """Whether the caller expects no reply."""
        return self.id is None and self.dialect is JSON_RPC


AnyRequest: TypeAlias = Request[object]


class Invalid(msgspec.Struct, frozen=True):
    """A message, or an element of a batch, that is not a valid request; `id` is its id if it has one.

    `function` is the name of the function that was meant, if it is known.
    """

    error: TaskdError
    id: Raw | None = None
    dialect: Dialect = JSON_RPC
    function: str = ""


class Batch(msgspec.Struct, frozen=True):
    """A JSON-RPC batch, whose replies go out together as one array. `parse_member` reads its members."""

    members: list[Raw]


class BatchMember(msgspec.Struct, frozen=True, gc=False):
    """A member of a batch that has not been read yet, and the replies to that batch."""

    text: Raw
    replies: BatchReplies


Parsed: TypeAlias = AnyRequest | Batch | Invalid


# --- reading -----------------------------------------------------------------


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """The members of both dialects together, so that a message is decoded only once.

    The arguments are checked to be JSON, but not decoded.
    """

    function: str | UnsetType = UNSET
    args: Raw | UnsetType = UNSET
    options: Options = NO_OPTIONS
    jsonrpc: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET


class _BareEnvelope(msgspec.Struct, forbid_unknown_fields=True):
    """The members of a bare request alone: faster, for messages that begin like one."""

    function: str
    args: Raw | UnsetType = UNSET
    options: Options = NO_OPTIONS


_MEMBERS = {
    BARE: ("function", "args", "options"),
    JSON_RPC: ("jsonrpc", "id", "method", "params", "options"),
}

MAX_BATCH = 1000
"""Requests in one batch: its replies go out as one message, whose size must be bounded."""

_encode = msgspec.json.Encoder().encode
_envelope = msgspec.json.Decoder(_Envelope)
_bare_envelope = msgspec.json.Decoder(_BareEnvelope)
# A structure with this many places: of a longer array, no more elements than these are created.
_Elements = msgspec.defstruct(
    "_Elements",
    [(f"element_{number}", Raw, Raw()) for number in range(MAX_BATCH)],
    array_like=True,
    forbid_unknown_fields=True,
)
_elements = msgspec.json.Decoder(_Elements)
_only_one = msgspec.json.Decoder(tuple[Raw])
_members = msgspec.json.Decoder(dict[str, Raw])
_options = msgspec.json.Decoder(Options)
_string = msgspec.json.Decoder(str)
_AT_BYTE = re.compile(r"\(byte (\d+)\)$")
_CONTAINERS = b"{["
_ID_STARTS = b'"-0123456789n'


def parse(line: bytes, *, checked: bool = False) -> Parsed:
    """Read one message, which may be anything, even invalid UTF-8. Never raises.

    With `checked`, the text has passed `check_text` before, as part of another.
    """
    if (len(line) > MAX_NESTING or not line.isascii()) and not checked:
        try:
            check_text(line)
        except ParseError as error:
            return Invalid(error)
    try:
        if line.startswith(b'{"function"'):
            bare = _bare_envelope.decode(line)
            args = bare.args
            if args is UNSET:
                return Request(bare.function, None, bare.options, BARE)
            if memoryview(args)[0] in _CONTAINERS:
                return Request(bare.function, args, bare.options, BARE)
            return _refuse_object(_members.decode(line))
        return _request(_envelope.decode(line)) or _refuse_object(_members.decode(line))
    except (msgspec.DecodeError, UnicodeDecodeError):
        # UnicodeDecodeError: an unpaired surrogate.
        return _parse_slowly(line)


def check_text(line: bytes) -> None:
    """Raise `ParseError` if a message is nested too deeply to be read, or is not UTF-8.

    msgspec does not check the strings that it only passes on.
    """
    if is_too_deep(line):
        raise ParseError(too_deep(), limit=MAX_NESTING)
    if not line.isascii():
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ParseError(f"not UTF-8: {error.reason} at byte {error.start}", at=error.start) from None


def _request(envelope: _Envelope) -> AnyRequest | None:
    """Return the request in an envelope, None if it is not well-formed."""
    if (
        type(envelope.function) is str
        and envelope.jsonrpc is UNSET
        and envelope.method is UNSET
        and envelope.params is UNSET
        and envelope.id is UNSET
    ):
        dialect, function, args, request_id = BARE, envelope.function, envelope.args, None
    elif (
        type(envelope.method) is str
        and envelope.jsonrpc == "2.0"
        and envelope.function is UNSET
        and envelope.args is UNSET
    ):
        request_id = None if envelope.id is UNSET else envelope.id
        if request_id is not None and memoryview(request_id)[0] not in _ID_STARTS:
            return None
        dialect, function, args = JSON_RPC, envelope.method, envelope.params
    else:
        return None
    if args is UNSET:
        return Request(function, None, envelope.options, dialect, request_id)
    if memoryview(args)[0] not in _CONTAINERS:
        return None
    return Request(function, args, envelope.options, dialect, request_id)


def _parse_slowly(line: bytes) -> Parsed:
    """Parse what the fast path could not: a batch, or a message with a mistake."""
    try:
        # The contents are only checked to be JSON: numbers may be of any size.
        match line.lstrip()[:1]:
            case b"[":
                return _batch(line)
            case b"{":
                return _refuse_object(_members.decode(line))
        _only_one.decode(b"[%b]" % line)
        return Invalid(InvalidRequest("a request is a JSON object (or, for a batch, an array of them)"))
    except msgspec.ValidationError:
        return Invalid(ParseError("not JSON: several values on one line"))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        cause = str(error).removeprefix("JSON is malformed: ")
        match = _AT_BYTE.search(cause)
        if match is None:
            return Invalid(ParseError(f"not JSON: {cause}"))
        # For trailing characters, msgspec names the second of them.
        at = int(match[1]) - cause.startswith("trailing characters")
        if line.lstrip()[:1] not in (b"[", b"{"):
            at -= 1  # brackets were put around it above
        return Invalid(ParseError(f"not JSON: {cause[: match.start()]}at byte {at}", at=at))


def _batch(array: bytes) -> Batch | Invalid:
    try:
        places = msgspec.structs.astuple(_elements.decode(array))
    except msgspec.ValidationError:
        return Invalid(InvalidRequest(f"a batch holds at most {MAX_BATCH} requests", limit=MAX_BATCH))
    elements = [element for element in places if memoryview(element).nbytes]
    if not elements:
        return Invalid(InvalidRequest("a batch holds at least one request"))
    return Batch(elements)


def parse_member(member: Raw) -> AnyRequest | Invalid:
    """Read one member of a batch that `parse` has returned. Never raises."""
    parsed = parse(bytes(member), checked=True)
    if isinstance(parsed, Batch):
        return Invalid(InvalidRequest("a batch within a batch"))
    if parsed.dialect is BARE:
        return Invalid(InvalidRequest("a batch holds JSON-RPC 2.0 requests only", member="function"))
    return parsed


def _refuse_object(members: dict[str, Raw]) -> Invalid:
    """Explain what is wrong with an object that is not a request."""
    bare = "function" in members and "jsonrpc" not in members and "method" not in members
    dialect = BARE if bare else JSON_RPC
    request_id = members.get("id")
    if bare or (request_id is not None and memoryview(request_id)[0] not in _ID_STARTS):
        request_id = None
    try:
        function = _string.decode(members.get("function" if bare else "method", b'""'))
    except msgspec.ValidationError:
        function = ""
    return Invalid(_mistake(members, dialect), request_id, dialect, function)


def _mistake(members: dict[str, Raw], dialect: Dialect) -> InvalidRequest:
    name_member, args_member = ("function", "args") if dialect is BARE else ("method", "params")
    if dialect is JSON_RPC and "jsonrpc" not in members and "method" not in members:
        return InvalidRequest('a request has "function", or "jsonrpc": "2.0" and "method"', member="function")
    if dialect is JSON_RPC and bytes(members.get("jsonrpc", b"")) != b'"2.0"':
        return InvalidRequest('member "jsonrpc" must be "2.0"', member="jsonrpc")
    if name_member not in members:
        return InvalidRequest(f'member "{name_member}" is missing', member=name_member)
    for member in members:
        if member not in _MEMBERS[dialect]:
            allowed = ", ".join(_MEMBERS[dialect])
            shown = quoted(member)
            return InvalidRequest(f'unknown member "{shown}"; a request has: {allowed}', member=shown)
    try:
        _string.decode(members[name_member])
    except msgspec.ValidationError:
        return InvalidRequest(f'member "{name_member}" must be a string', member=name_member)
    if "id" in members and memoryview(members["id"])[0] not in _ID_STARTS:
        return InvalidRequest('member "id" must be a string, a number or null', member="id")
    if args_member in members and memoryview(members[args_member])[0] not in _CONTAINERS:
        return InvalidRequest(f'member "{args_member}" must be an object or an array', member=args_member)
    return _mistake_in_options(members.get("options"))


def _mistake_in_options(options: Raw | None) -> InvalidRequest:
    try:
        known = ", ".join(field.name for field in msgspec.structs.fields(Options))
        given = _members.decode(options if options is not None else b"")
        for option in given:
            if option not in Options.__struct_fields__:
                shown = quoted(option)
                return InvalidRequest(
                    f'unknown option "{shown}"; the options are: {known}', member=f"options.{shown}"
                )
        _options.decode(options if options is not None else b"")
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        member = f"options{path.rstrip('`')}"
        return InvalidRequest(f'member "{member}": {problem}', member=member)
    except msgspec.DecodeError:
        pass
    return InvalidRequest("a request has each member once")


# --- writing -----------------------------------------------------------------


def encode_arguments(args: Mapping[str, Any] | Sequence[Any]) -> Raw:
    """Encode the arguments of a call, by name or by position.

    Raises `TypeError` if they cannot be written as JSON, `ValueError` if they
    are nested too deeply for a request.
    """
    limit = MAX_NESTING - 1  # the request itself is one level
    try:
        encoded = _encode(args)
    except RecursionError:
        encoded = b""
    if not encoded or is_too_deep(encoded, limit):
        raise ValueError(f"the arguments are {too_deep(limit)}")
    return Raw(encoded)


def request_line(call: Call, request_id: bytes | None = None, dialect: Dialect = JSON_RPC) -> bytes:
    """Encode a call as a request, on one line without its LF; the inverse of `parse`.

    `request_id` is the JSON text of an id; without one the request is a
    notification. A bare request has no id.
    """
    named = _encode(call.function)
    options = call.options
    asked = b"" if options is NO_OPTIONS or options == NO_OPTIONS else b',"options":%b' % _encode(options)
    if dialect is BARE:
        args = b"" if call.args is None else b',"args":%b' % call.args
        return _one_line(b'{"function":%b%b%b}' % (named, args, asked))
    identified = b"" if request_id is None else b'"id":%b,' % request_id
    params = b"" if call.args is None else b',"params":%b' % call.args
    return _one_line(b'{"jsonrpc":"2.0",%b"method":%b%b%b}' % (identified, named, params, asked))


def _one_line(text: bytes) -> bytes:
    # A websocket message may contain line ends between the tokens of its JSON.
    return text.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in text or b"\r" in text else text
