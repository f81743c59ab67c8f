"""Replies and progress notifications in either dialect: encoding for peers, parsing for clients."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from taskd.errors import InvalidRequest, ParseError, TooLarge
from taskd.model import Failure, Outcome, Progress, Result
from taskd.protocol.dialects import BARE, Dialect
from taskd.protocol.long_text import check_text

__all__ = [
    "EventPushed",
    "ParsedReply",
    "batch_reply",
    "batch_too_large",
    "not_json",
    "parse_bare_reply",
    "parse_reply",
    "progress_line",
    "reply_line",
    "result_or_error",
    "task_complete",
    "too_large",
]


def reply_line(dialect: Dialect, request_id: Raw | None, outcome: Outcome) -> bytes:
    """Encode the reply to one request, without its LF. An unknown id becomes null, as JSON-RPC requires."""
    if dialect is BARE:
        if type(outcome) is Result:
            return bytes(outcome.value)
        return b'{"error":%b}' % msgspec.json.encode(outcome)
    shown_id = b"null" if request_id is None else request_id
    if type(outcome) is Result:
        return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (shown_id, outcome.value)
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (shown_id, msgspec.json.encode(outcome))


def batch_reply(replies: list[bytes]) -> bytes:
    """Join the replies to a batch into one JSON array."""
    return b"[%b]" % b",".join(replies)


def result_or_error(outcome: Outcome) -> bytes:
    """Encode a bare reply for TCP: the result itself, or an error object."""
    if type(outcome) is Result:
        return bytes(outcome.value)
    return reply_line(BARE, None, outcome)


def task_complete(outcome: Outcome) -> bytes:
    """Encode a bare reply for a websocket, in the words of Workerman's example."""
    if isinstance(outcome, Result):
        return b"task complete"
    return f"task failed: {outcome.message}".encode()


class _ProgressParams(msgspec.Struct, omit_defaults=True):
    id: Raw
    done: float | int
    total: float | int | None = None
    message: str | None = None


_NULL = Raw(b"null")


def progress_line(request_id: Raw | None, progress: Progress) -> bytes:
    """Encode a ``taskd.progress`` notification for the request with this id, without its LF."""
    params = _ProgressParams(request_id or _NULL, progress.done, progress.total, progress.message)
    return b'{"jsonrpc":"2.0","method":"taskd.progress","params":%b}' % msgspec.json.encode(params)


def batch_too_large(limit: int) -> TooLarge:
    """Return the error for a result that no longer fits into the reply to its batch."""
    return TooLarge(f"the reply to a batch is at most {limit} bytes; this result does not fit", limit=limit)


def not_json() -> InvalidRequest:
    """Return the error for a peer whose first line shows that it speaks another protocol."""
    return InvalidRequest(
        "this is a task server, whose first line begins with { or [, as JSON requests do; "
        "it speaks no HTTP, but a gateway does"
    )


def too_large(limit: int) -> TooLarge:
    """Return the error for a message of more than `limit` bytes."""
    return TooLarge(f"a message is at most {limit} bytes, with its LF; this one is longer", limit=limit)


class EventPushed(msgspec.Struct, frozen=True):
    """A ``taskd.event`` notification: `event` is the event of a stored task or a batch, as JSON text."""

    event: Raw


class ParsedReply(msgspec.Struct, frozen=True):
    """A parsed reply or notification: `body` is the outcome or the progress of request `id`, or an event.

    `id` is None if the reply has none (null): progress of a bare request, an
    error about a message that the server could not read, or an event.
    """

    id: Raw | None
    body: Outcome | Progress | EventPushed


class _Reply(msgspec.Struct):
    jsonrpc: str
    id: Raw = _NULL
    result: Raw | UnsetType = UNSET
    error: Failure | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET


_reply = msgspec.json.Decoder(_Reply)
_progress = msgspec.json.Decoder(_ProgressParams)


def parse_reply(line: bytes) -> ParsedReply:
    """Read a JSON-RPC reply, or a notification of progress or of an event.

    Raises `ParseError` for anything else: the peer does not speak this protocol.
    """
    check_text(line)
    try:
        reply = _reply.decode(line)
        notified = reply.params
        params = (
            _progress.decode(notified)
            if reply.method == "taskd.progress" and isinstance(notified, Raw)
            else None
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ParseError(f"no JSON-RPC reply: {error}") from None
    if params is not None:
        return ParsedReply(_id_or_none(params.id), Progress(params.done, params.total, params.message))
    if reply.method == "taskd.event" and isinstance(notified, Raw):
        return ParsedReply(None, EventPushed(notified))
    if isinstance(reply.result, Raw):
        return ParsedReply(_id_or_none(reply.id), Result(reply.result))
    if isinstance(reply.error, Failure):
        return ParsedReply(_id_or_none(reply.id), reply.error)
    raise ParseError("no JSON-RPC reply: it has neither result nor error")


def _id_or_none(request_id: Raw) -> Raw | None:
    return None if bytes(request_id) == b"null" else request_id


class _BareError(msgspec.Struct, forbid_unknown_fields=True):
    error: Failure
    jsonrpc: str = "2.0"
    id: Any = None


_bare_error = msgspec.json.Decoder(_BareError)


def parse_bare_reply(line: bytes) -> Outcome | Progress | EventPushed:
    """Read the reply to a bare request: any JSON but ``{"error": …}`` is a result.

    Raises `ParseError` if the line is not JSON.
    """
    check_text(line)
    if line.startswith(b"{"):
        if line.startswith(b'{"jsonrpc":"2.0","method":"taskd.progress"'):
            return parse_reply(line).body
        try:
            return _bare_error.decode(line).error
        except msgspec.ValidationError:
            pass  # an object that is not an error: a result
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ParseError(f"the reply is not JSON: {error}") from None
    try:
        return Result(msgspec.json.decode(line, type=Raw))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ParseError(f"the reply is not JSON: {error}") from None
