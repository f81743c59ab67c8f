"""A store's contents as text: one JSON object on each line, as `taskd store export` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import msgspec
from msgspec import UNSET, Raw, UnsetType

from taskd.store.audit import AuditEntry
from taskd.store.base import StoreError
from taskd.store.batches import BatchRecord, Rows
from taskd.store.copying import (
    PAGE,
    PAGE_BYTES,
    CopiedBatch,
    CopiedTask,
    CopiedTick,
    Item,
    Loaded,
    Paused,
)
from taskd.store.history import Figures, HistoryRow
from taskd.store.records import ENDED, Event, LastTick, New, Record, State

__all__ = ["LinesTarget", "line_of", "read_lines"]

Json = Raw | UnsetType
"""JSON text as it is; left out if there is none, since it may be `null` itself."""


class _New(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    id: str
    function: str
    args: Json = UNSET
    options: Raw
    priority: int
    wanted: float
    deadline: float | None
    key: str | None
    token: str | None
    batch: str | None
    keep: float
    fixed: bool
    limit_key: str | None
    owner: str

    def new(self) -> New:
        """Return the task as it was submitted."""
        return New(
            id=self.id,
            function=self.function,
            args=_data(self.args),
            options=bytes(self.options),
            priority=self.priority,
            due=self.wanted,
            deadline=self.deadline,
            key=self.key,
            token=self.token,
            batch=self.batch,
            keep=self.keep,
            is_fixed=self.fixed,
            limit_key=self.limit_key,
            owner=self.owner,
        )


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    seq: int
    event: str
    at: float
    data: Raw


class _Task(_New, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="task"):
    state: str
    created: float
    attempt: int
    errors: int
    losses: int
    due: float
    ended: float | None
    outcome: Json = UNSET
    last_seq: int
    events: list[_Event]

    def item(self) -> CopiedTask:
        state = State.__members__.get(self.state.upper())
        if state is None or (state in ENDED) is (self.ended is None) or not self.events:
            raise ValueError(f"a task is not {self.state!r} with such a log and such an end")
        record = Record(
            *(self.new(), state, self.created, self.attempt, self.errors, self.losses, self.due, self.ended),
            *(_data(self.outcome), self.last_seq),
        )
        return CopiedTask(record, [Event(self.id, e.seq, e.event, e.at, bytes(e.data)) for e in self.events])


class _Rows(msgspec.Struct, forbid_unknown_fields=True):
    ids: list[str]
    args: list[Raw]
    limit_keys: list[str | None] | None


class _Batch(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="batch"):
    id: str
    task: _New
    total: int
    created: float
    keep: float
    token: str | None
    then: _New | None
    stored: int
    done: int
    failed: int
    cancelled: int
    is_cancelled: bool
    ended: float | None
    changed: bool
    parts: list[_Rows]

    def item(self) -> CopiedBatch:
        record = BatchRecord(
            *(self.id, self.task.new(), self.total, self.created, len(self.parts), self.keep, self.token),
            *(None if self.then is None else self.then.new(), self.stored, self.done, self.failed),
            *(self.cancelled, self.is_cancelled, self.ended),
        )
        parts = [Rows(part.ids, [bytes(each) for each in part.args], part.limit_keys) for part in self.parts]
        return CopiedBatch(record, parts, self.changed)


class _Schedule(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="schedule"):
    name: str
    line: str
    at: float

    def item(self) -> CopiedTick:
        return CopiedTick(self.name, LastTick(self.line, self.at))


class _Paused(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="paused"):
    function: str

    def item(self) -> Paused:
        return Paused(self.function)


class _History(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="history"):
    seconds: int
    at: int
    function: str
    figures: Figures

    def item(self) -> HistoryRow:
        return HistoryRow(self.seconds, self.at, self.function, self.figures)


class _Audit(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="audit"):
    entry: AuditEntry

    def item(self) -> AuditEntry:
        return self.entry


_Line = _Task | _Batch | _Schedule | _Paused | _History | _Audit
_line = msgspec.json.Decoder(_Line)
_encode = msgspec.json.Encoder().encode


def line_of(item: Item) -> bytes:
    """Return an item as a line, without its end."""
    return _encode(_shown(item))


def _shown(item: Item) -> _Line:
    if isinstance(item, CopiedTask):
        record = item.record
        return _Task(
            **_fields(record.new),
            state=record.state.name.lower(),
            created=record.created,
            attempt=record.attempt,
            errors=record.errors,
            losses=record.losses,
            due=record.due,
            ended=record.ended,
            outcome=_json(record.outcome),
            last_seq=record.last_seq,
            events=[_Event(each.seq, each.event, each.at, _raw(each.data)) for each in item.events],
        )
    if isinstance(item, CopiedBatch):
        batch = item.record
        return _Batch(
            id=batch.id,
            task=_New(**_fields(batch.task)),
            total=batch.total,
            created=batch.created,
            keep=batch.keep,
            token=batch.token,
            then=None if batch.then is None else _New(**_fields(batch.then)),
            stored=batch.stored,
            done=batch.done,
            failed=batch.failed,
            cancelled=batch.cancelled,
            is_cancelled=batch.is_cancelled,
            ended=batch.ended,
            changed=item.is_changed,
            parts=[
                _Rows(part.ids, [_raw(each) for each in part.args], part.limit_keys) for part in item.parts
            ],
        )
    if isinstance(item, CopiedTick):
        return _Schedule(item.name, item.last.line, item.last.at)
    if isinstance(item, Paused):
        return _Paused(item.function)
    if isinstance(item, HistoryRow):
        return _History(item.seconds, item.at, item.function, item.figures)
    return _Audit(item)


def _fields(new: New) -> dict[str, Any]:
    return {
        **{name: getattr(new, name) for name in _PLAIN},
        "args": _json(new.args),
        "options": _raw(new.options),
        "wanted": new.due,
        "fixed": bool(new.is_fixed),  # a number in a file
    }


_PLAIN = ("id", "function", "priority", "deadline", "key", "token", "batch", "keep", "limit_key", "owner")


def _json(text: bytes | None) -> Json:
    return UNSET if text is None else _raw(text)


def _raw(text: bytes) -> Raw:
    """Return JSON text on one line: a line's end in it can only be between two of its parts."""
    return Raw(text.replace(b"\n", b" ").replace(b"\r", b" "))


def _data(text: Json) -> bytes | None:
    return None if isinstance(text, UnsetType) else bytes(text)


class LinesTarget:
    """Writes what is copied to a file. Implements `taskd.store.copying.Target`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def load(self, items: Sequence[Item]) -> list[Loaded]:
        """Write items. Raises `OSError`."""
        for item in items:
            self._file.write(line_of(item) + b"\n")
        return ["copied"] * len(items)


def read_lines(lines: Iterable[bytes], name: str) -> Iterator[list[Item]]:
    """Yield what lines contain, a bounded part at a time.

    Raises `StoreError` with `name` and the number of a line that is none.
    """
    page: list[Item] = []
    size = 0
    for number, line in enumerate(lines, 1):
        try:
            page.append(_line.decode(line).item())
        except (msgspec.DecodeError, ValueError) as error:
            raise StoreError(f"{name}, line {number}: {error}: it is not of `taskd store export`") from error
        size += len(line)
        if len(page) >= PAGE or size >= PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page
