"""The API's operations about one task, and the list of tasks."""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from taskd.errors import InvalidParams, NotAllowed
from taskd.model import NO_SUBMIT_OPTIONS, Options, SubmitOptions
from taskd.protocol.method_names import CANCEL, GET, LIST, RETRY, SUBMIT, WAIT, WHY
from taskd.protocol.stored_methods import NOT_GIVEN
from taskd.store.records import FINAL, State
from taskd.web.api.call import ANSWER_SECONDS, NOT_FOUND, ApiCall, Response, json_of
from taskd.web.api.table import IDEMPOTENCY_KEY, ROOT, ListQuery, NewTask, TaskQuery, WaitQuery
from taskd.web.problems import Problem, problem_of
from taskd.web.tracing import traceparent_of

__all__ = [
    "INVALID",
    "cancel",
    "explain",
    "options_of",
    "page_of",
    "retry",
    "show",
    "submit",
    "tasks",
    "token_of",
]

INVALID = {InvalidParams.code: 422}
"""The status for arguments that do not fit a function."""

NO_ANSWER = Options(on_disconnect="cancel")
"""The options of a wait, which ends with its caller."""

_NOT_GIVEN = bytes(NOT_GIVEN)

_UNFINISHED = frozenset(state.name.lower() for state in State if state not in FINAL)


class _Accepted(msgspec.Struct):
    task: str
    joined: bool


class _Stated(msgspec.Struct):
    task: str = ""
    batch: str = ""
    state: str = ""


async def submit(call: ApiCall) -> Response:
    """Submit a task; with `wait`, answer when it has ended or the time is over."""
    query: WaitQuery = call.query
    new = json_of(call.body, NewTask)
    await call.pause()
    members = {"function": new.function}
    raw = {
        **({} if memoryview(new.args) == _NOT_GIVEN else {"args": new.args}),
        **({} if (options := options_of(call, new.options)) == NO_SUBMIT_OPTIONS else {"options": options}),
        **({} if (token := token_of(call)) is None else {"token": token}),
    }
    params = Raw(msgspec.json.encode({**members, **raw}))
    await call.pause()
    stored = await call.ask(SUBMIT, params, INVALID)
    accepted = msgspec.json.decode(stored, type=_Accepted)
    headers = {"Location": f"{ROOT.decode()}tasks/{accepted.task}"}
    if query.wait is None:
        return Response(202, stored, headers)
    try:
        task = await _wait(call, accepted.task, query.wait)
    except Problem:  # the task is stored, whatever became of the wait
        return Response(202, stored, headers)
    return Response(200 if _has_ended(task) else 202, task, headers)


def options_of(call: ApiCall, options: SubmitOptions) -> SubmitOptions:
    """Return the options of a submit, with the place in a trace that a header names, if they name none.

    As W3C's Trace Context demands, a header that is not valid is ignored.
    """
    traceparent = traceparent_of(call.request)
    if traceparent is None or options.traceparent is not None:
        return options
    return replace(options, traceparent=traceparent)


async def show(call: ApiCall) -> Response:
    """Show a task, once it has ended or the time is over if there is a `wait`."""
    query: TaskQuery = call.query
    task = call.ids["task"]
    if query.wait is not None:
        shown = await _wait(call, task, query.wait)
        if not query.with_args:
            return Response(200, shown)
    return Response(200, await call.ask(GET, {"task": task, "with_args": query.with_args}, NOT_FOUND))


async def _wait(call: ApiCall, task: str, seconds: float) -> Raw:
    params = {"task": task, "timeout": seconds}
    return await call.ask(WAIT, params, NOT_FOUND, NO_ANSWER, seconds + ANSWER_SECONDS)


def _has_ended(task: Raw) -> bool:
    return msgspec.json.decode(task, type=_Stated).state not in _UNFINISHED


async def tasks(call: ApiCall) -> Response:
    """List tasks."""
    query: ListQuery = call.query
    given = {name: value for name, value in msgspec.structs.asdict(query).items() if value is not None}
    return page_of("tasks", await call.ask(LIST, given), query.limit)


def page_of(name: str, listed: Raw, limit: int) -> Response:
    """Return a page of a list: its elements, and the id after which the next one begins."""
    last = msgspec.json.decode(listed, type=list[_Stated])
    following = None
    if len(last) == limit:
        following = last[-1].task if name == "tasks" else last[-1].batch
    body = b'{"%b":%b,"next":%b}' % (name.encode(), listed, msgspec.json.encode(following))
    return Response(200, body)


async def cancel(call: ApiCall) -> Response:
    """Cancel a task, and answer once it has ended."""
    task = call.ids["task"]
    await call.ask(GET, {"task": task}, NOT_FOUND)  # an unknown one would be "done"
    return Response(200, await call.ask(CANCEL, {"task": task}, NOT_FOUND))


async def retry(call: ApiCall) -> Response:
    """Put back a task that failed or was set aside."""
    statuses = {**NOT_FOUND, NotAllowed.code: 409}
    return Response(200, await call.ask(RETRY, {"task": call.ids["task"]}, statuses))


async def explain(call: ApiCall) -> Response:
    """Explain what holds a task."""
    return Response(200, await call.ask(WHY, {"task": call.ids["task"]}, NOT_FOUND))


def token_of(call: ApiCall) -> str | None:
    """Return the token in the header Idempotency-Key, which may be in quotes. Raises `Problem`."""
    header = call.header("Idempotency-Key")
    if header is None:
        return None
    match = re.fullmatch(IDEMPOTENCY_KEY, header)
    if match is None:
        text = "Idempotency-Key: has 1 to 200 visible characters of ASCII, and may be in quotation marks"
        raise problem_of(InvalidParams(text, argument="Idempotency-Key"))
    return match[1] or match[2]
