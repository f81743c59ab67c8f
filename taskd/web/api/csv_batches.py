"""A batch from a CSV text: its rows become arguments, a few at a time, or the whole is refused."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred

from taskd.errors import InternalError, InvalidParams, TaskdError, TooLarge, quoted
from taskd.functions.registry import FunctionInfo
from taskd.net.turns import Turns
from taskd.protocol.method_names import FUNCTIONS
from taskd.rows.batch_rows import BatchRows
from taskd.rows.conversion import TextConverter
from taskd.rows.csv_rows import CsvRows, cell_as_json
from taskd.rows.row import RowLimits
from taskd.rows.texts import BOM, HEAD, check_encoding, lines_of
from taskd.web.api.call import ApiCall
from taskd.web.api.table import CsvQuery, NewBatch

__all__ = ["CsvBatch", "batch_of"]

NAME = "the CSV text"

STEP = 4096
"""Bytes of rows that are converted in one step of the reactor: a millisecond or two of work."""

CHUNK = 65536
"""Bytes that are cut into lines at once."""

LIMITS = RowLimits(size=1024 * 1024, lines=2000)
"""Those of a row: it is read in one step. What has longer ones can be sent as JSON."""

ROW_COST = 64
"""Bytes whose work a row takes besides that for its text, about."""

MAX_LINES = 1_000_000
"""Lines of a text, five times as many as a batch may have rows: even empty ones take microseconds."""


async def batch_of(call: ApiCall) -> tuple[NewBatch, BatchRows]:
    """Return the batch that a CSV text and its query make. Raises `TaskdError` and `Problem`."""
    query: CsvQuery = call.query
    if query.function is None:
        raise InvalidParams("function: the query must name the function of a CSV text", argument="function")
    call.exchange.check_function(query.function)  # else it would not be in the list
    functions = msgspec.json.decode(await call.ask(FUNCTIONS), type=list[FunctionInfo])
    named = [each for each in functions if each.name == query.function]
    if not named:
        raise InvalidParams(f"no such function: {quoted(query.function)}", argument="function")
    convert = TextConverter(named[0].parameters, cell_as_json)
    exchange = call.exchange
    batch = CsvBatch(call.body, convert, exchange.max_message, exchange.party)
    args = await exchange.awaiting(batch.convert(exchange.turns))
    return NewBatch(query.function, args, query.options, query.then), batch.rows


class CsvBatch:
    """The conversion of one CSV text. Implements `taskd.net.turns.TurnTaker`.

    As JSON, the rows have at most `max_size` bytes. Raises `InvalidParams` if the text has no rows.
    """

    def __init__(self, text: bytes, convert: TextConverter, max_size: int, party: str) -> None:
        self.party = party
        self.rows = BatchRows(NAME)
        self._convert = convert
        self._max_size = max_size
        self._size = 0
        self._args: list[Raw] = []
        self._done: Deferred[list[Raw]] = Deferred(self._cancelled)
        self._is_cancelled = False
        try:
            check_encoding(NAME, text[:HEAD])
            if text.count(b"\n") + text.count(b"\r") > MAX_LINES:
                raise ValueError(f"{NAME} has more than {MAX_LINES} lines")
            lines = lines_of(NAME, BytesIO(text.removeprefix(BOM)), LIMITS.size, CHUNK)
            self._csv = CsvRows(NAME, lines, limits=LIMITS)
        except ValueError as error:
            raise InvalidParams(str(error)) from None

    def convert(self, turns: Turns) -> Deferred[list[Raw]]:
        """Convert the rows; the Deferred fails with `TaskdError`, which names rows that are wrong."""
        turns.ask(self)
        return self._done

    def _cancelled(self, _: Deferred[Any]) -> None:
        self._is_cancelled = True

    def take_step(self) -> bool:
        """Convert some rows; return whether there are more."""
        if self._is_cancelled:
            return False
        try:
            if self._convert_some():
                return True
            self.rows.check()
        except ValueError as error:
            self._done.errback(InvalidParams(str(error)))
        except TaskdError as error:
            self._done.errback(error)
        else:
            self._done.callback(self._args)
        return False

    def _convert_some(self) -> bool:
        left = STEP
        for text in self._csv.texts():
            row = self._csv.row(text, self._convert)
            args = None if row is None else self.rows.take(row)
            if args is not None:
                self._add(Raw(msgspec.json.encode(args)))
            left -= len(text.text) + ROW_COST
            if left <= 0:
                return not self.rows.is_hopeless
        return False

    def _add(self, args: Raw) -> None:
        self._size += memoryview(args).nbytes + len(b",")
        if self._size > self._max_size:
            raise TooLarge(
                f"{NAME}: as JSON, its rows are longer than a message: nothing was submitted; split it",
                limit=self._max_size,
            )
        self._args.append(args)

    def hold(self) -> None:
        """Do nothing: there is no other work."""

    def abort(self) -> None:
        """Fail, since there is a bug."""
        if not self._done.called:
            self._done.errback(InternalError("a bug in taskd; see the gateway's log"))
