"""The answer to ``taskd.why``: what exactly holds a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from taskd.durable.limiter import Limiter
from taskd.durable.limits import Hold
from taskd.durable.run import Run
from taskd.durable.window import Window
from taskd.functions.durability import Durability
from taskd.model import OPERATOR, Grant
from taskd.server.labels import named, options_for
from taskd.server.position import Position
from taskd.store.nodes import NodeRow, Places
from taskd.store.records import Record, State

__all__ = ["Holders", "SharedPlaces", "Why", "why"]

MAX_NAMED = 20
"""Running tasks that are named, of those that have the places of a key."""


class HeldByConcurrency(msgspec.Struct, frozen=True):
    """The limit `concurrency`: `MAX_NAMED` of the tasks that have its places; `before` are held before."""

    limit: int
    key: str
    running: list[str]
    before: int


class HeldByRate(msgspec.Struct, frozen=True):
    """The limit `rate`: at most `count` starts in `seconds`; the next one is possible after `next_start`."""

    count: int
    seconds: float
    key: str
    next_start: float
    before: int


class SharedPlaces(msgspec.Struct, frozen=True):
    """The tasks and starts that a function's limits count on all nodes, with one value of its key."""

    key: str
    places: Places

    def node_of(self, record: Record) -> int | None:
        """Return the node that has claimed a task, None if that has no place."""
        return next((each.node for each in self.places.leases if each.task == record.new.id), None)

    def seen(self, grant: Grant) -> list[str]:
        """Return the tasks with places that whoever has the grant may see."""
        return [each.task for each in self.places.leases if grant.sees(each.owner)]

    def hold(self, durability: Durability) -> Hold | None:
        """Return what holds a task that nobody has claimed, None if it has room."""
        places, rate = self.places, durability.rate
        running, seconds = [each.task for each in places.leases], None
        if durability.concurrency is None or len(running) < durability.concurrency:
            running = []
        if rate is not None and places.started + places.unstarted >= rate.count:
            seconds = places.seconds or 0.0
        return Hold(self.key, 0, running, seconds) if running or seconds is not None else None


class Queued(msgspec.Struct, frozen=True):
    """The place in the queue for a worker, as `taskd.server.position.Position` has it."""

    before: int
    waiting: int
    workers: int
    busy: int


class Why(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to why a task waits: `reason` is for people, the rest for programs.

    `due_in` is in seconds. `missing` are the labels that the function needs and this node does not have,
    `nodes` the others that run it, if the store is shared. Only what applies is there.
    """

    task: str
    function: str
    state: str
    reason: str
    attempts: int
    due_in: float | None = None
    paused: bool = False
    stopping: bool = False
    unknown_function: bool = False
    missing: Sequence[str] = ()
    nodes: Sequence[int] | None = None
    fault: str | None = None
    concurrency: HeldByConcurrency | None = None
    rate: HeldByRate | None = None
    queue: Queued | None = None
    owner_running: int | None = None


class Holders(Protocol):
    """Everything that may hold a task, as far as the reasons need it."""

    @property
    def paused(self) -> frozenset[str]:
        """The functions of which nothing is started."""

    @property
    def is_stopping(self) -> bool:
        """Whether the server shuts down."""

    @property
    def fault(self) -> str | None:
        """Why the store cannot be used at the moment; None if it can."""

    @property
    def limiter(self) -> Limiter:
        """The limits of functions."""

    def durability(self, function: str) -> Durability | None:
        """Return how a function's tasks are stored; None for an unknown function."""

    def missing(self, function: str) -> tuple[str, ...]:
        """Return the labels that a function needs and this node does not have."""

    def run_of(self, task: str) -> Run | None:
        """Return the run of a claimed task."""

    def position(self, run: Run) -> Position | None:
        """Return the place of a claimed task in the queue for a worker."""

    @property
    def window(self) -> Window:
        """The window of claimed tasks."""


def why(
    record: Record,
    holders: Holders,
    now: float,
    grant: Grant = OPERATOR,
    nodes: Sequence[NodeRow] | None = None,
    shared: SharedPlaces | None = None,
) -> Why:
    """Return what holds a task; `now` is in seconds since 1970.

    Only tasks are named that whoever has the `grant` may see. `nodes` are those that share the store; they
    are needed if the function lacks labels here. `shared` is what its limits count there, if no task of it
    that this node has claimed is asked about.
    """
    function, state = record.new.function, record.state
    run = holders.run_of(record.new.id)
    if run is not None and run.has_started and state is State.WAITING:
        state = State.RUNNING  # which the store has not written yet
    known = Why(record.new.id, function, state.name.lower(), "", record.attempt)
    if state is State.SCHEDULED:
        return _scheduled(known, record, now)
    if state is State.RUNNING:
        return _running(known, record.attempt if run is None else run.attempt, run, holders.fault)
    if state is not State.WAITING:
        return _because(known, _ENDED[state])
    return _waiting(known, record, run, holders, grant, nodes, shared)


def _because(known: Why, reason: str, **facts: object) -> Why:
    return msgspec.structs.replace(known, reason=reason, **facts)


def _running(known: Why, attempt: int, run: Run | None, fault: str | None) -> Why:
    if fault is None or run is None or (run.task is not None and run.task.is_in_flight):
        return _because(known, f"nothing holds it: attempt {attempt} is running")
    return _because(
        known, f"attempt {attempt} has ended, and the store has failed to store that: {fault}", fault=fault
    )


_ENDED = {
    State.SUCCEEDED: "nothing holds it: it has succeeded",
    State.FAILED: "it has failed, and is not tried again by itself; taskd.retry puts it back",
    State.CANCELLED: "it was cancelled, which is final",
    State.EXPIRED: "it was not started by its deadline, which is final",
    State.SET_ASIDE: "its process has died under it too often; taskd.retry puts it back",
}


def _scheduled(known: Why, record: Record, now: float) -> Why:
    due_in = round(max(record.due - now, 0.0), 3)
    if record.errors:
        return _because(
            known, f"attempt {record.attempt} has failed; it is tried again in {due_in} s", due_in=due_in
        )
    return _because(known, f"it is not due yet, but in {due_in} s", due_in=due_in)


def _waiting(
    known: Why,
    record: Record,
    run: Run | None,
    holders: Holders,
    grant: Grant,
    nodes: Sequence[NodeRow] | None,
    shared: SharedPlaces | None,
) -> Why:
    function = record.new.function
    durability = holders.durability(function)
    if holders.is_stopping:
        return _because(
            known, "the server is shutting down: the task is left for the next start", stopping=True
        )
    if holders.fault is not None:
        return _because(
            known,
            f"the store has failed, and is tried every second: {holders.fault}",
            fault=holders.fault,
        )
    if durability is None:
        return _because(
            known, f"the app has no function {function} (now): it waits until it has", unknown_function=True
        )
    if function in holders.paused:
        return _because(known, f"{function} is paused, until taskd.resume", paused=True)
    if missing := holders.missing(function):
        return _lacking(known, missing, nodes)
    hold = holders.limiter.hold(record)
    if hold is not None:
        runs = [(each, holders.run_of(each)) for each in hold.running]
        seen = [each for each, of in runs if of is None or grant.sees(of.record.new.owner)]
        names = [*seen[:MAX_NAMED], *(["tasks of others"] if len(seen) < len(runs) else [])]
        return _held(known, hold, durability, seen, names)
    if run is not None:
        return _claimed(known, run, holders)
    if shared is not None and (reason := _elsewhere(known, record, holders, durability, grant, shared)):
        return reason
    claimed = holders.window.claimed_of(function)
    return _because(
        known,
        f"it waits in the store until its turn comes: {claimed} tasks of {function} are claimed before it",
    )


def _claimed(known: Why, run: Run, holders: Holders) -> Why:
    quota = None if run.task is None else run.task.quota
    if quota is not None and quota.is_full:
        return _because(
            known,
            f"{quota.running} tasks of {quota.grant.owner} are running, as many as may: it waits for an end",
            owner_running=quota.running,
        )
    position = holders.position(run)
    if position is not None:
        return _queued(known, position)
    return _because(known, "it is being given to a worker")


def _lacking(known: Why, missing: tuple[str, ...], nodes: Sequence[NodeRow] | None) -> Why:
    needs = f"it needs {named(missing)}, which this node does not have"
    if nodes is None:
        return _because(known, f"{needs}: start it with {options_for(missing)}", missing=missing)
    able = [row for row in nodes if known.function in row.info.functions]
    ready = [row.node for row in able if not (row.drain or row.info.is_draining)]
    if ready:
        others = f"nodes that run it: {', '.join(map(str, ready))}"
    elif able:
        others = f"all nodes that run it are drained: {', '.join(str(row.node) for row in able)}"
    else:
        others = f"no other node runs it either: start one with {options_for(missing)}"
    return _because(known, f"{needs}; {others}", missing=missing, nodes=ready)


def _elsewhere(
    known: Why,
    record: Record,
    holders: Holders,
    durability: Durability,
    grant: Grant,
    shared: SharedPlaces,
) -> Why | None:
    """Return what holds a task that this node has not claimed, if other nodes have to do with it."""
    there, hold = shared.node_of(record), shared.hold(durability)
    if there is not None:
        return _because(known, f"node {there} has claimed it, and is about to run it")
    if hold is None:
        return None
    seen = shared.seen(grant)
    here = [each for each in hold.running if holders.run_of(each) is not None]
    names = [each for each in here if each in seen][:MAX_NAMED]
    names += ["tasks of others"] if any(each not in seen for each in here) else []
    names += ["tasks of other nodes"] if len(here) < len(hold.running) else []
    return _held(known, hold, durability, seen, names)


def _held(known: Why, hold: Hold, durability: Durability, seen: list[str], names: list[str]) -> Why:
    """Return the reason with the limits: `seen` are the tasks that have the places, `names` is for people."""
    name = durability.concurrency_key
    of_key = "" if name is None else f" with {name} = {hold.key}" if hold.key else f" without {name}"
    concurrency = rate = None
    reasons = []
    if hold.running and durability.concurrency is not None:
        running = seen[:MAX_NAMED]
        is_one = len(hold.running) == 1 and names == running
        concurrency = HeldByConcurrency(durability.concurrency, hold.key, running, hold.before)
        reasons.append(
            f"concurrency={durability.concurrency}: {', '.join(names)} of {known.function}{of_key} "
            f"{'has its place' if is_one else 'have the places'}"
        )
    if hold.seconds is not None and durability.rate is not None:
        limit = durability.rate
        rate = HeldByRate(limit.count, limit.seconds, hold.key, round(hold.seconds, 3), hold.before)
        reasons.append(
            f"rate={limit.count} in {limit.seconds:g} s: the next start of {known.function}{of_key} "
            f"is possible in {rate.next_start} s"
        )
    if hold.before:
        reasons.append("1 more waits before it" if hold.before == 1 else f"{hold.before} more wait before it")
    reason = "; ".join(reasons) or "its turn is about to come"
    return _because(known, reason, concurrency=concurrency, rate=rate)


def _queued(known: Why, position: Position) -> Why:
    queue = Queued(position.before, position.waiting, position.workers, position.busy)
    if not position.workers:
        reason = "no worker is ready"
    elif position.busy == position.workers:
        reason = f"no worker is free: all {position.workers} are busy"
    else:
        reason = "a worker is about to take it"
    if position.before:
        reason += f"; stored tasks that come before it: {position.before}"
    return _because(known, reason, queue=queue)
