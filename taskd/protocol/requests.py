"""Requests in either dialect: reading a peer's messages. `taskd.protocol.request_lines` writes them.

`parse` never raises: a message that is not a request becomes an `Invalid`,
which carries the error to answer with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from taskd.errors import InvalidRequest, ParseError, TaskdError, quoted
from taskd.model import NO_OPTIONS, Call, Options
from taskd.protocol.dialects import BARE, JSON_RPC, Dialect
from taskd.protocol.long_text import LongText, check_text
from taskd.protocol.nesting import MAX_NESTING

__all__ = [
    "AnyRequest",
    "Batch",
    "BatchMember",
    "BatchReplies",
    "Invalid",
    "Parsed",
    "Request",
    "parse",
    "parse_in_steps",
    "parse_member",
]


Work = TypeVar("Work")
"""The type of the work done for a request, which can be cancelled: a task, or a call to another server."""


class BatchReplies:
    """The replies to a batch, collected until no member of it is `missing`; their `size` is in bytes.

    What is in `when_replied` is called when they go out, to send what must follow them.
    """

    __slots__ = ("missing", "replies", "size", "when_replied")

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.replies: list[bytes] = []
        self.size = 0
        self.when_replied: tuple[Callable[[], object], ...] = ()

    def add(self, reply: bytes | None) -> int:
        """Take in the reply to a member, None if it gets none; return its bytes."""
        self.missing -= 1
        if reply is None:
            return 0
        self.replies.append(reply)
        self.size += len(reply)
        return len(reply)


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

    @property
    def wants_progress(self) -> bool:
        """Whether there are reports of progress: if asked for, and if the id is short enough to repeat."""
        if not self.options.progress or self.is_notification:
            return False
        return self.id is None or memoryview(self.id).nbytes <= MAX_REPORTED_ID


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

    @property
    def size(self) -> int:
        """The bytes of its text."""
        return memoryview(self.text).nbytes


Parsed: TypeAlias = AnyRequest | Batch | Invalid


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

MAX_REPORTED_ID = 1024
"""Bytes of the longest id that is repeated in reports of progress, which are many."""

MAX_BATCH = 1000
"""Requests in one batch: its replies go out as one message, whose size must be bounded."""

_BLANKS = 64
"""Bytes of white space that a message may begin with, usually."""

LONG = 65536
"""Bytes from which a malformed message is not read a second time to explain what is wrong with it."""

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
_options = msgspec.json.Decoder(Options)
_UNKNOWN = "Object contains unknown field `"


def _raw_members(names: Iterable[str], *, strict: bool) -> msgspec.json.Decoder[Any]:
    fields = [(name, Raw | UnsetType, UNSET) for name in names]
    return msgspec.json.Decoder(msgspec.defstruct("_Members", fields, forbid_unknown_fields=strict))


# A dictionary of all members would be large for an object of many, which is soon refused.
_KNOWN = tuple(_Envelope.__struct_fields__)
_known = _raw_members(_KNOWN, strict=False)
_only_known = _raw_members(_KNOWN, strict=True)
_strict = {dialect: _raw_members(names, strict=True) for dialect, names in _MEMBERS.items()}
_option_names = _raw_members(Options.__struct_fields__, strict=True)
_string = msgspec.json.Decoder(str)
_AT_BYTE = re.compile(r"\(byte (\d+)\)$")
_CONTAINERS = b"{["
_ID_STARTS = b'"-0123456789n'


def parse(line: bytes, *, checked: bool = False) -> Parsed:
    """Read one message, which may be anything, even invalid UTF-8. Never raises.

    With `checked`, the text has passed `check_text` before, or the like.
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
            return _refuse_object(line)
        return _request(_envelope.decode(line)) or _refuse_object(line)
    except msgspec.ValidationError as error:
        return _parse_slowly(line, error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # UnicodeDecodeError: an unpaired surrogate.
        return _parse_slowly(line) if len(line) < LONG else _not_json(error)


def parse_in_steps(message: bytes | BatchMember, size: int) -> Generator[None, None, Parsed]:
    """Read one long message, or member of a batch, in steps; the result is returned. Never raises.

    The text is checked in slices of about `size` bytes, then read once, which takes a
    thousandth of a second for half a megabyte if it is the dearest of its length
    (twice, if it has unknown members).
    """
    if isinstance(message, BatchMember):
        return _as_member((yield from parse_in_steps(bytes(message.text), size)))
    line, text = message, LongText(message)
    try:
        while not text.check(size):
            yield
    except ParseError as error:
        return Invalid(error)
    yield
    try:
        members = _members_in(_only_known.decode(line))
    except msgspec.ValidationError as error:
        yield
        parsed = _parse_slowly(line, error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        parsed = _not_json(error) if _first_byte(line) in _CONTAINERS else _parse_slowly(line)
    else:
        parsed = _read_members(members)
    yield
    return parsed


def _read_members(members: dict[str, Raw]) -> Parsed:
    """Read the members of a long object without looking into its arguments again."""
    args = {name: members[name] for name in ("args", "params") if name in members}
    options = members.get("options", b"")
    short = dict[str, bytes | Raw](members)
    for name, value in args.items():
        short[name] = b"[]" if memoryview(value)[0] in _CONTAINERS else b"0"
    has_long_options = memoryview(options).nbytes > LONG
    if has_long_options:
        short["options"] = b"{}"
    parsed = parse(b"{%b}" % b",".join([b'"%b":%b' % (name.encode(), short[name]) for name in short]))
    if not isinstance(parsed, Request):
        return parsed
    if has_long_options:
        error = InvalidRequest(f'member "options" has at most {LONG} bytes', member="options", limit=LONG)
        return Invalid(error, parsed.id, parsed.dialect, parsed.function)
    if args:
        (parsed.args,) = args.values()  # type: ignore[misc]
    return parsed


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


def _first_byte(line: bytes) -> bytes:
    """Return the first byte that is not blank. A long line is not copied for it."""
    return (line[:_BLANKS].lstrip() or line.lstrip())[:1]


def _parse_slowly(line: bytes, mistake: msgspec.ValidationError | None = None) -> Parsed:
    """Parse what the fast path could not: a batch, or a message with a mistake, if that is known already."""
    try:
        # The contents are only checked to be JSON: numbers may be of any size.
        match _first_byte(line):
            case b"[":
                return _batch(line)
            case b"{":
                return _refuse_object(line, mistake)
        _only_one.decode(b"[%b]" % line)
        return Invalid(InvalidRequest("a request is a JSON object (or, for a batch, an array of them)"))
    except msgspec.ValidationError:
        return Invalid(ParseError("not JSON: several values on one line"))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Brackets were put around what is neither an object nor an array.
        return _not_json(error, _first_byte(line) not in (b"[", b"{"))


def _not_json(error: Exception, added: int = 0) -> Invalid:
    """Refuse what is malformed, by the error of a decoder, which has read `added` bytes before the line."""
    cause = str(error).removeprefix("JSON is malformed: ")
    match = _AT_BYTE.search(cause)
    if match is None:
        return Invalid(ParseError(f"not JSON: {cause}"))
    # For trailing characters, msgspec names the second of them.
    at = int(match[1]) - cause.startswith("trailing characters") - added
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
    return _as_member(parse(bytes(member), checked=True))


def _as_member(parsed: Parsed) -> AnyRequest | Invalid:
    if isinstance(parsed, Batch):
        return Invalid(InvalidRequest("a batch within a batch"))
    if parsed.dialect is BARE:
        return Invalid(InvalidRequest("a batch holds JSON-RPC 2.0 requests only", member="function"))
    return parsed


def _refuse_object(line: bytes, found: msgspec.ValidationError | None = None) -> Invalid:
    """Explain what is wrong with an object that is not a request; raise as msgspec does if it is malformed.

    `found` is the first mistake that a decoder has found.
    """
    members = _members_in(_known.decode(line))
    bare = "function" in members and "jsonrpc" not in members and "method" not in members
    dialect = BARE if bare else JSON_RPC
    request_id = members.get("id")
    if bare or (request_id is not None and memoryview(request_id)[0] not in _ID_STARTS):
        request_id = None
    try:
        function = _string.decode(members.get("function" if bare else "method", b'""'))
    except msgspec.ValidationError:
        function = ""
    return Invalid(_mistake(line, members, dialect, found), request_id, dialect, function)


def _members_in(known: Any) -> dict[str, Raw]:
    return {name: value for name in _KNOWN if isinstance(value := getattr(known, name), Raw)}


def _mistake(
    line: bytes, members: dict[str, Raw], dialect: Dialect, found: msgspec.ValidationError | None
) -> InvalidRequest:
    name_member, args_member = ("function", "args") if dialect is BARE else ("method", "params")
    if dialect is JSON_RPC and "jsonrpc" not in members and "method" not in members:
        return InvalidRequest('a request has "function", or "jsonrpc": "2.0" and "method"', member="function")
    if dialect is JSON_RPC and bytes(members.get("jsonrpc", b"")) != b'"2.0"':
        return InvalidRequest('member "jsonrpc" must be "2.0"', member="jsonrpc")
    if name_member not in members:
        return InvalidRequest(f'member "{name_member}" is missing', member=name_member)
    unknown = None if found is None else _unknown_in(found)
    if unknown is None or unknown in _KNOWN:
        unknown = _unknown_member(_strict[dialect], line)
    if unknown is not None:
        allowed = ", ".join(_MEMBERS[dialect])
        shown = quoted(unknown)
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
        unknown = _unknown_member(_option_names, options if options is not None else b"")
        if unknown is not None:
            shown = quoted(unknown)
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


def _unknown_member(decoder: msgspec.json.Decoder[Any], text: bytes) -> str | None:
    """Return the first unknown member of an object, for which the decoder of a structure stops."""
    try:
        decoder.decode(text)
    except msgspec.ValidationError as error:
        unknown = _unknown_in(error)
        if unknown is None:
            raise
        return unknown
    return None


def _unknown_in(error: msgspec.ValidationError) -> str | None:
    """Return the name of the unknown member that an error is about, None if it is about anything else.

    Members of inner objects do not count.
    """
    text = str(error)
    if not text.startswith(_UNKNOWN) or "` - at `$" in text:
        return None
    return text.removeprefix(_UNKNOWN).removesuffix("`")
