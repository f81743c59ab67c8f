"""One call of the API: what a handler gets, and what it returns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec import Raw
from twisted.web.server import Request

from taskd.errors import InvalidParams, InvalidRequest, TaskdError, TimedOut, quoted
from taskd.model import NO_OPTIONS, Failure, Options
from taskd.protocol.backlog import STEP
from taskd.web.exchange import Exchange
from taskd.web.problems import Problem, problem_of

__all__ = ["ANSWER_SECONDS", "NOT_FOUND", "ApiCall", "Response", "json_of", "query_of"]

NOT_FOUND: Mapping[int, int] = {InvalidParams.code: 404}
"""The status for parameters that are wrong, where the only one is an id."""

ANSWER_SECONDS = 60.0
"""Seconds in which a task server must answer, even if a task takes long to stop: proxies wait no longer."""

MAX_SHOWN = 200
"""Characters of a decoder's error that are shown: it may repeat what the client has sent."""

_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)

Decoded = TypeVar("Decoded")


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a call: its status, a JSON text, and headers besides those of all responses."""

    status: int
    body: bytes | Raw
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One call: its HTTP request, its exchange with the backend, the ids in its path, and its query.

    `body` has been checked to be UTF-8, and not nested too deeply.
    """

    request: Request
    exchange: Exchange
    ids: Mapping[str, str]
    query: Any
    body: bytes

    async def ask(
        self,
        method: str,
        params: Mapping[str, Any] | Raw | None = None,
        statuses: Mapping[int, int] | None = None,
        options: Options = NO_OPTIONS,
        seconds: float = ANSWER_SECONDS,
    ) -> Raw:
        """Call one of the server's own methods, and return its result.

        Raises `Problem` if it fails, or if there is no answer in so many `seconds`; `statuses` are
        those for some codes.
        """
        text = f"the task server has not answered in {seconds:g} s: what was asked may happen all the same"
        late = Failure.of(TimedOut(text, seconds=seconds))
        timer = self.exchange.clock.callLater(seconds, self.exchange.give_up, late)
        try:
            outcome = await self.exchange.ask(method, params, options)
        finally:
            if timer.active():
                timer.cancel()
        if isinstance(outcome, Failure):
            raise problem_of(outcome, statuses)
        return outcome.value

    async def pause(self) -> None:
        """Let others have a turn between two steps that take long if the body is long."""
        if len(self.body) > STEP:
            await self.exchange.next_turn()

    def header(self, name: str) -> str | None:
        """Return the value of a header, None if there is none."""
        found = self.request.getHeader(name.encode())
        return None if found is None else found.decode("latin-1")


def json_of(body: bytes, kind: type[Decoded]) -> Decoded:
    """Return the body of a request, decoded. Raises `Problem`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise problem_of(_invalid(error, "body")) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}"[:MAX_SHOWN], -32700) from None


def query_of(request: Request, kind: type[Decoded]) -> Decoded:
    """Return the query of a request, converted. Raises `Problem`."""
    arguments: Mapping[bytes, Sequence[bytes]] = request.args
    given = {}
    for name, values in arguments.items():
        shown = name.decode("utf-8", "replace")
        if len(values) > 1:
            raise problem_of(_of_query(shown, "given more than once"))
        try:
            given[shown] = values[0].decode()
        except UnicodeDecodeError:
            raise problem_of(_of_query(shown, "not UTF-8")) from None
    try:
        query = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise problem_of(_invalid(error, "query")) from None
    for member in given:
        if getattr(query, member) is None:  # which msgspec makes of the text "null"
            text = f"query.{member}: a query has no null: leave it out"
            raise problem_of(InvalidRequest(text, member=f"query.{member}"))
    return query


def _of_query(name: str, what: str) -> InvalidRequest:
    named = f"query.{quoted(name)}"
    return InvalidRequest(f"{named}: {what}", member=named)


def _invalid(error: msgspec.ValidationError, where: str) -> TaskdError:
    """Return the error for what a decoder has refused, with the place that it names."""
    text = str(error)
    what, _, place = text.rpartition(" - at `$")
    named = where + place.removesuffix("`") if what else where
    unknown = _UNKNOWN.fullmatch(what or text)
    if unknown is not None:
        what = f"there is no {unknown[1]} here"
        named += f".{unknown[1]}"
    return InvalidRequest(f"{named}: {what or text}"[:MAX_SHOWN], member=named[:MAX_SHOWN])
