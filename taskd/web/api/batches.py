"""The API's operations about batches."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from taskd.errors import InvalidParams, TaskdError
from taskd.model import NO_SUBMIT_OPTIONS
from taskd.protocol.method_names import CANCEL, GET, LIST, SUBMIT_BATCH, WAIT
from taskd.web.api.call import ANSWER_SECONDS, NOT_FOUND, ApiCall, Response, json_of
from taskd.web.api.csv_batches import batch_of
from taskd.web.api.table import ROOT, BatchQuery, CsvQuery, ListBatchesQuery, NewBatch
from taskd.web.api.tasks import INVALID, NO_ANSWER, options_of, page_of, token_of
from taskd.web.media import CSV, media_type
from taskd.web.problems import Problem, problem_of

__all__ = ["batches", "cancel", "show", "store", "submit"]


class _Accepted(msgspec.Struct):
    batch: str


async def submit(call: ApiCall) -> Response:
    """Submit a batch, which comes as JSON or as CSV."""
    if media_type(call.request) == CSV:
        return await _submit_csv(call)
    if call.query != CsvQuery():
        raise Problem(
            400, "the query is for a body of CSV: one of JSON has function, then and options itself"
        )
    return await store(call, json_of(call.body, NewBatch))


async def _submit_csv(call: ApiCall) -> Response:
    try:
        new, rows = await batch_of(call)
    except TaskdError as error:
        raise problem_of(error, INVALID) from None
    try:
        return await store(call, new)
    except Problem as problem:
        if problem.code != InvalidParams.code:
            raise
        raise problem_of(rows.by_line(InvalidParams(problem.detail, **problem.data)), INVALID) from None


async def store(call: ApiCall, new: NewBatch) -> Response:
    """Store a batch, all or none of it."""
    params: dict[str, Any] = {"function": new.function, "args": new.args}
    if (options := options_of(call, new.options)) != NO_SUBMIT_OPTIONS:
        params["options"] = options
    if new.then is not None:
        params["then"] = new.then
    if (token := token_of(call)) is not None:
        params["token"] = token
    await call.pause()
    encoded = Raw(msgspec.json.encode(params))
    await call.pause()
    stored = await call.ask(SUBMIT_BATCH, encoded, INVALID)
    accepted = msgspec.json.decode(stored, type=_Accepted)
    return Response(202, stored, {"Location": f"{ROOT.decode()}batches/{accepted.batch}"})


async def batches(call: ApiCall) -> Response:
    """List batches."""
    query: ListBatchesQuery = call.query
    given = {name: value for name, value in msgspec.structs.asdict(query).items() if value is not None}
    return page_of("batches", await call.ask(LIST, {**given, "batches": True}), query.limit)


async def show(call: ApiCall) -> Response:
    """Show a batch, once it has ended or the time is over if there is a `wait`."""
    query: BatchQuery = call.query
    batch = call.ids["batch"]
    if query.wait is None:
        return Response(200, await call.ask(GET, {"batch": batch}, NOT_FOUND))
    params = {"batch": batch, "timeout": query.wait}
    return Response(200, await call.ask(WAIT, params, NOT_FOUND, NO_ANSWER, query.wait + ANSWER_SECONDS))


async def cancel(call: ApiCall) -> Response:
    """Cancel whatever of a batch has not ended, and answer once it has."""
    batch = call.ids["batch"]
    await call.ask(GET, {"batch": batch}, NOT_FOUND)  # the method takes tasks as well
    return Response(200, await call.ask(CANCEL, {"task": batch}, NOT_FOUND))
