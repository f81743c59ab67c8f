"""The API's operations about events: a stream of them, or a list."""

from __future__ import annotations

import re

import msgspec

from taskd.errors import InvalidParams
from taskd.protocol.event_lines import Kind
from taskd.protocol.method_names import ATTACH, EVENTS
from taskd.web.api.call import NOT_FOUND, ApiCall, Response
from taskd.web.api.table import EventsQuery
from taskd.web.media import EVENT_STREAM, JSON, accepts, names
from taskd.web.problems import problem_of
from taskd.web.sse import ENDED_STATES, STREAM_HEADERS, EventStream

__all__ = ["of_batch", "of_task"]

_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
"""The number of an event, at most `MAX_SEQ`."""


class _Attached(msgspec.Struct):
    state: str
    seq: int


class _Numbered(msgspec.Struct):
    seq: int


async def of_task(call: ApiCall) -> Response | None:
    """Send the events of a task."""
    return await _events(call, "task")


async def of_batch(call: ApiCall) -> Response | None:
    """Send the events of a batch."""
    return await _events(call, "batch")


async def _events(call: ApiCall, kind: Kind) -> Response | None:
    query: EventsQuery = call.query
    last = _last_event_id(call)
    after = query.after if last is None else last
    params = {kind: call.ids[kind], "after": after}
    request = call.request
    is_list = names(request, JSON) and not names(request, EVENT_STREAM)
    if is_list or not accepts(request, EVENT_STREAM):
        return await _list(call, {**params, "limit": query.limit}, after)
    if request.method == b"HEAD":
        await call.ask(EVENTS, {**params, "limit": 1}, NOT_FOUND)
        return Response(200, b"", STREAM_HEADERS)
    answer = await call.ask(ATTACH, params, NOT_FOUND)
    attached = msgspec.json.decode(answer, type=_Attached)
    if attached.state in ENDED_STATES and after >= attached.seq:
        return Response(204, b"")  # after which a browser does not connect again
    exchange = call.exchange
    stream = EventStream(exchange.clock, exchange, attached.seq)
    exchange.stream(STREAM_HEADERS, stream.encode)
    stream.begin(request.notifyFinish())
    return None


async def _list(call: ApiCall, params: dict[str, object], after: int) -> Response:
    listed = await call.ask(EVENTS, params, NOT_FOUND)
    events = msgspec.json.decode(listed, type=list[_Numbered])
    following = events[-1].seq if events else after
    return Response(200, b'{"events":%b,"next":%d}' % (listed, following))


def _last_event_id(call: ApiCall) -> int | None:
    """Return the number in the header Last-Event-ID, None if there is none. Raises `Problem`."""
    header = call.header("Last-Event-ID")
    if header is None:
        return None
    if not _NUMBER.fullmatch(header):
        text = "Last-Event-ID: the number of an event, as its id had it"
        raise problem_of(InvalidParams(text, argument="Last-Event-ID"))
    return int(header)
