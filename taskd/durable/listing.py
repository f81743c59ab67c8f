"""The method ``taskd.list``: stored tasks and batches by what they are looked for by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred

from taskd.durable.answers import refused, result
from taskd.durable.ownership import listed_owner
from taskd.durable.views import TaskView
from taskd.errors import InvalidParams, quoted
from taskd.model import Outcome
from taskd.server.methods import Asker
from taskd.store.base import Filter, Store
from taskd.store.records import State

__all__ = ["Listed", "Listing"]

MAX_LISTED = 1000
"""Tasks in one answer to ``taskd.list``."""

_STATES = {state.name.lower(): state for state in State}

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Listed:
    """The tasks that a caller looks for; None stands for any."""

    state: str | None = None
    function: str | None = None
    batch: str | None = None
    key: str | None = None
    like: str | None = None
    owner: str | None = None
    error: str | None = None
    newest: bool = False


class _Tasks(Protocol):
    """The stored tasks, as far as the list needs them."""

    store: Store

    def read(self, function: Callable[[], Value]) -> Deferred[Value]:
        """Call a reading function of the store."""


class _Batches(Protocol):
    """The methods about batches, as far as the list needs them."""

    def list(
        self, asker: Asker, like: str | None, edge: str, limit: int, owner: str | None, *, newest: bool
    ) -> None:
        """Answer with batches in the order of their ids, or with the newest first."""


class Listing:
    """Handles ``taskd.list``."""

    def __init__(self, tasks: _Tasks, batches: _Batches) -> None:
        self._tasks = tasks
        self._batches = batches

    def list(self, asker: Asker, listed: Listed, edge: str, limit: int, *, batches: bool) -> Outcome | None:
        """Answer with stored tasks, or with batches, those after `edge` or, from the newest on, before it."""
        _check(listed, limit)
        owner = listed_owner(asker.grant, listed.owner)
        if batches:
            if listed != Listed(like=listed.like, owner=listed.owner, newest=listed.newest):
                raise InvalidParams(
                    "taskd.list: batches are found by after, newest, before, limit, like and owner alone",
                    argument="batches",
                )
            self._batches.list(asker, listed.like, edge, limit, owner, newest=listed.newest)
            return None
        wanted = _filter(replace(listed, owner=owner))
        self._tasks.read(lambda: self._tasks.store.find(wanted, edge, limit)).addCallbacks(
            lambda records: asker.answer(result([TaskView.of(record) for record in records])),
            lambda reason: asker.answer(refused(reason.value)),
        )
        return None


def _check(listed: Listed, limit: int) -> None:
    """Raise `InvalidParams` if nothing can be found by this."""
    if listed.state is not None and listed.state not in _STATES:
        raise InvalidParams(
            f"taskd.list: a state is one of {', '.join(_STATES)}, not {quoted(listed.state)}",
            argument="state",
        )
    if not 0 < limit <= MAX_LISTED:
        raise InvalidParams(f"taskd.list: limit is 1 to {MAX_LISTED}, not {limit}", argument="limit")
    if listed.like == "":
        raise InvalidParams("taskd.list: like is the beginning or the end of an id", argument="like")
    if listed.error == "":
        raise InvalidParams("taskd.list: error is a text that the error has in it", argument="error")


def _filter(listed: Listed) -> Filter:
    return Filter(
        None if listed.state is None else [_STATES[listed.state]],
        listed.function,
        listed.batch,
        listed.key,
        listed.like,
        is_brief=True,
        owner=listed.owner,
        # As it stands in the JSON text of an error, without the quotes around it.
        error=None if listed.error is None else msgspec.json.encode(listed.error)[1:-1],
        newest=listed.newest,
    )
