"""A line and what it says: requests in either dialect, and their replies.

`parse` never raises: what is no request becomes an `Invalid`, which carries
the error to answer with.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from taskd.errors import InvalidRequest, ParseError, TaskdError, quoted
from taskd.model import (
    BARE,
    JSON_RPC,
    NO_OPTIONS,
    Call,
    Dialect,
    Failure,
    Options,
    Outcome,
    Progress,
    Result,
)

__all__ = [
    "Batch",
    "Invalid",
    "ParsedReply",
    "batch_reply",
    "call_line",
    "json_rpc_line",
    "parse",
    "parse_bare_reply",
    "parse_reply",
    "progress_line",
    "reply_line",
]


class Invalid(msgspec.Struct, frozen=True):
    """A message, or an element of a batch, that is no request; `id` is its id where it has one."""

    error: TaskdError
    id: Raw | None = None
    dialect: Dialect = JSON_RPC


class Batch(msgspec.Struct, frozen=True):
    """A JSON-RPC batch: the replies go out together, as one array."""

    items: tuple[Call | Invalid, ...]


Parsed: TypeAlias = Call | Batch | Invalid


# --- requests ----------------------------------------------------------------


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """Both dialects in one, so that a message is read once.

    What is inside the arguments is checked to be JSON, but not decoded.
    """

    function: str | UnsetType = UNSET
    args: Raw | UnsetType = UNSET
    options: Options = NO_OPTIONS
    jsonrpc: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET


class _BareEnvelope(msgspec.Struct, forbid_unknown_fields=True):
    """A bare request alone, for what begins like one: less to be read, and to be looked at."""

    function: str
    args: Raw | UnsetType = UNSET
    options: Options = NO_OPTIONS


_MEMBERS = {
    BARE: ("function", "args", "options"),
    JSON_RPC: ("jsonrpc", "id", "method", "params", "options"),
}

MAX_BATCH = 1000
"""Requests in one batch: its replies go out as one message, which must not grow without end."""

_encode = msgspec.json.Encoder().encode
_envelope = msgspec.json.Decoder(_Envelope)
_bare_envelope = msgspec.json.Decoder(_BareEnvelope)
# An array of so many places: of a longer one no more than these are made.
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


def parse(line: bytes) -> Parsed:
    """Read one message, of which neither framing nor encoding is assured."""
    if not line.isascii():
        try:
            _check_utf8(line)
        except ParseError as error:
            return Invalid(error)
    try:
        if line.startswith(b'{"function"'):
            bare = _bare_envelope.decode(line)
            args = bare.args
            if args is UNSET:
                return Call(BARE, bare.function, None, None, bare.options)
            if memoryview(args)[0] in _CONTAINERS:
                return Call(BARE, bare.function, args, None, bare.options)
            return _refuse_object(_members.decode(line))
        return _request(_envelope.decode(line)) or _refuse_object(_members.decode(line))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # UnicodeDecodeError: a surrogate without its other half.
        return _parse_slowly(line)


def _check_utf8(line: bytes) -> None:
    """Raise `ParseError` where it is not: msgspec does not look inside strings that it only passes on."""
    if not line.isascii():
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ParseError(f"not UTF-8: {error.reason} at byte {error.start}", at=error.start) from None


def _request(envelope: _Envelope) -> Call | None:
    """The call of a well-formed request, None for anything else."""
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
        return Call(dialect, function, None, request_id, envelope.options)
    if memoryview(args)[0] not in _CONTAINERS:
        return None
    return Call(dialect, function, args, request_id, envelope.options)


def _parse_slowly(line: bytes) -> Parsed:
    """A batch, or a message with a mistake in it: find out which."""
    try:
        # What is inside is only checked to be JSON: numbers may be of any size.
        match line.lstrip()[:1]:
            case b"[":
                return _batch(line)
            case b"{":
                return _refuse_object(_members.decode(line))
        _only_one.decode(b"[%b]" % line)
        return Invalid(InvalidRequest("a request is a JSON object (or, for a batch, an array of them)"))
    except msgspec.ValidationError:
        return Invalid(ParseError("not JSON: several values on one line"))
    except RecursionError:
        return Invalid(ParseError("nested too deeply"))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        cause = str(error).removeprefix("JSON is malformed: ")
        match = _AT_BYTE.search(cause)
        if match is None:
            return Invalid(ParseError(f"not JSON: {cause}"))
        # Of what follows the JSON, msgspec names the second byte.
        at = int(match[1]) - cause.startswith("trailing characters")
        if line.lstrip()[:1] not in (b"[", b"{"):
            at -= 1  # it was read within brackets
        return Invalid(ParseError(f"not JSON: {cause[: match.start()]}at byte {at}", at=at))


def _batch(array: bytes) -> Batch | Invalid:
    try:
        places = msgspec.structs.astuple(_elements.decode(array))
    except msgspec.ValidationError:
        return Invalid(InvalidRequest(f"a batch holds at most {MAX_BATCH} requests", limit=MAX_BATCH))
    elements = [element for element in places if memoryview(element).nbytes]
    if not elements:
        return Invalid(InvalidRequest("a batch holds at least one request"))
    return Batch(tuple(_element(bytes(element)) for element in elements))


def _element(element: bytes) -> Call | Invalid:
    parsed = parse(element)
    if isinstance(parsed, Batch):
        return Invalid(InvalidRequest("a batch within a batch"))
    if parsed.dialect is BARE:
        return Invalid(InvalidRequest("a batch holds JSON-RPC 2.0 requests only", member="function"))
    return parsed


def _refuse_object(members: dict[str, Raw]) -> Invalid:
    """Say what is wrong with an object that is no request."""
    bare = "function" in members and "jsonrpc" not in members and "method" not in members
    dialect = BARE if bare else JSON_RPC
    request_id = members.get("id")
    if bare or (request_id is not None and memoryview(request_id)[0] not in _ID_STARTS):
        request_id = None
    return Invalid(_mistake(members, dialect), request_id, dialect)


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


def call_line(call: Call) -> bytes:
    """The request that `parse` reads as `call`, as one line without its LF."""
    return _one_line(_call_text(call))


def _one_line(text: bytes) -> bytes:
    # A websocket message may hold line ends, between the tokens of its JSON.
    return text.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in text or b"\r" in text else text


def _call_text(call: Call) -> bytes:
    named = _encode(call.function)
    options = b"" if call.options is NO_OPTIONS else _options_member(call.options)
    if call.dialect is BARE:
        args = b"" if call.args is None else b',"args":%b' % call.args
        return b'{"function":%b%b%b}' % (named, args, options)
    request_id = b"" if call.id is None else b'"id":%b,' % call.id
    return _json_rpc_text(request_id, named, call.args, options)


def _json_rpc_text(request_id: bytes, named: bytes, args: Raw | None, options: bytes) -> bytes:
    if args is None:
        return b'{"jsonrpc":"2.0",%b"method":%b%b}' % (request_id, named, options)
    return b'{"jsonrpc":"2.0",%b"method":%b,"params":%b%b}' % (request_id, named, args, options)


def _options_member(options: Options) -> bytes:
    return b"" if options == NO_OPTIONS else b',"options":%b' % _encode(options)


def json_rpc_line(call: Call, request_id: bytes) -> bytes:
    """The same call, of whatever dialect, as a JSON-RPC request with this id, as `call_line`."""
    options = b"" if call.options is NO_OPTIONS else _options_member(call.options)
    return _one_line(_json_rpc_text(b'"id":%b,' % request_id, _encode(call.function), call.args, options))


# --- replies -----------------------------------------------------------------


def reply_line(dialect: Dialect, request_id: Raw | None, outcome: Outcome) -> bytes:
    """The reply to one request, without its LF. An unknown id is null, as JSON-RPC has it."""
    if dialect is BARE:
        if type(outcome) is Result:
            return bytes(outcome.value)
        return b'{"error":%b}' % msgspec.json.encode(outcome)
    shown_id = b"null" if request_id is None else request_id
    if type(outcome) is Result:
        return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (shown_id, outcome.value)
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (shown_id, msgspec.json.encode(outcome))


def batch_reply(replies: list[bytes]) -> bytes:
    """One array of the replies to a batch."""
    return b"[%b]" % b",".join(replies)


class _ProgressParams(msgspec.Struct, omit_defaults=True):
    id: Raw
    done: float | int
    total: float | int | None = None
    message: str | None = None


_NULL = Raw(b"null")


def progress_line(request_id: Raw | None, progress: Progress) -> bytes:
    """A ``taskd.progress`` notification for the request of that id."""
    params = _ProgressParams(request_id or _NULL, progress.done, progress.total, progress.message)
    return b'{"jsonrpc":"2.0","method":"taskd.progress","params":%b}' % msgspec.json.encode(params)


class ParsedReply(msgspec.Struct, frozen=True):
    """What came back: `body` is how request `id` ended, or how far it is.

    `id` is None where the reply names none (null): progress of a bare
    request, or an error about a message that the server could not read.
    """

    id: Raw | None
    body: Outcome | Progress


class _Reply(msgspec.Struct):
    jsonrpc: str
    id: Raw = _NULL
    result: Raw | UnsetType = UNSET
    error: Failure | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: _ProgressParams | UnsetType = UNSET


_reply = msgspec.json.Decoder(_Reply)


def parse_reply(line: bytes) -> ParsedReply:
    """Read a JSON-RPC reply or progress notification.

    Raises `ParseError` for anything else; the peer is then no taskd.
    """
    _check_utf8(line)
    try:
        reply = _reply.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ParseError(f"no JSON-RPC reply: {error}") from None
    if reply.method == "taskd.progress" and isinstance(reply.params, _ProgressParams):
        params = reply.params
        return ParsedReply(_known(params.id), Progress(params.done, params.total, params.message))
    if isinstance(reply.result, Raw):
        return ParsedReply(_known(reply.id), Result(reply.result))
    if isinstance(reply.error, Failure):
        return ParsedReply(_known(reply.id), reply.error)
    raise ParseError("no JSON-RPC reply: it has neither result nor error")


def _known(request_id: Raw) -> Raw | None:
    return None if bytes(request_id) == b"null" else request_id


class _BareError(msgspec.Struct, forbid_unknown_fields=True):
    error: Failure
    jsonrpc: str = "2.0"
    id: Any = None


_bare_error = msgspec.json.Decoder(_BareError)


def parse_bare_reply(line: bytes) -> Outcome | Progress:
    """Read the reply to a bare request: any JSON is a result but ``{"error": …}``.

    Raises `ParseError` where it is not JSON.
    """
    _check_utf8(line)
    if line.startswith(b"{"):
        if line.startswith(b'{"jsonrpc":"2.0","method":"taskd.progress"'):
            return parse_reply(line).body
        try:
            return _bare_error.decode(line).error
        except msgspec.ValidationError:
            pass  # an object, and no error: a result
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ParseError(f"the reply is not JSON: {error}") from None
    try:
        return Result(msgspec.json.decode(line, type=Raw))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ParseError(f"the reply is not JSON: {error}") from None
