"""The contract of a pool: one suite for the real one, that of `taskd.testing`, and the unit tests' fake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from msgspec import Raw
from twisted.internet.defer import Deferred

from taskd.errors import StateError
from taskd.functions.registry import Registry
from taskd.pool.pool import PoolConfig
from taskd.pool.task_label import TaskLabel
from taskd.testing.pool import ThreadPoolConfig
from taskd.worker.messages import Attempt, Done, Returned, WorkerConfig
from tests.live.support import Gate
from tests.unit.pools import FakePool, function

SOON = 20.0
"""Seconds after which something that takes milliseconds will not happen any more."""

APP = """
from taskd import task

@task
def echo(value):
    return value

@task
def stand(path):
    with open(path) as fifo:
        return fifo.read()
"""


class Recorder:
    """An observer that keeps what is reported, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._waiting: list[tuple[tuple[Any, ...], Deferred[Any]]] = []

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        for waiting in list(self._waiting):
            if event[: len(waiting[0])] == waiting[0]:
                self._waiting.remove(waiting)
                waiting[1].callback(event)

    def find(self, *beginning: Any) -> list[tuple[Any, ...]]:
        """Return all events that begin with these values."""
        return [event for event in self.events if event[: len(beginning)] == beginning]

    def wait_for(self, *beginning: Any) -> Deferred[Any]:
        """Return a Deferred of the first event, past or future, that begins with these values."""
        from twisted.internet import reactor

        waiting: Deferred[Any] = Deferred()
        found = self.find(*beginning)
        if found:
            waiting.callback(found[0])
        else:
            self._waiting.append((beginning, waiting))
        return waiting.addTimeout(SOON, reactor)

    def code_loaded(self, generation: int, functions: list[Any]) -> None:
        self._note("code loaded", generation, sorted(function.name for function in functions))

    def code_failed(self, generation: int, reason: str) -> None:
        self._note("code failed", generation, reason)

    def can_start_workers(self) -> None:
        self._note("can start")

    def worker_ready(self, number: int) -> None:
        self._note("ready", number)

    def worker_messages(self, number: int, messages: list[Any]) -> None:
        assert messages
        for message in messages:
            self._note("message", number, type(message), getattr(message, "task", None), message)

    def result_grows(self, number: int, size: int) -> bool:
        self._note("grows", number)
        return True

    def result_arrived(self, number: int) -> None:
        self._note("arrived", number)

    def worker_condemned(self, number: int) -> None:
        self._note("condemned", number)

    def worker_exited(self, number: int, ending: Any) -> None:
        self._note("exited", number, ending)

    def hide(self, number: int, text: str) -> str:
        return text

    def task_label(self, number: int, task: int) -> TaskLabel:
        return TaskLabel("task", task)


class RealPool:
    """A pool with processes, which carry out their orders by themselves."""

    def __init__(self, directory: Path, gate: Gate) -> None:
        from twisted.internet import reactor

        (directory / "app.py").write_text(APP)
        config = WorkerConfig(["app"], str(directory), "contract", 1 << 20)
        self.closed = False
        self.observer = Recorder()
        self.gate = gate
        self.pool: Any = PoolConfig(2, config).start(reactor, self.observer)

    def settle(self) -> None:
        """Let the processes carry out their orders."""

    def forget_orders(self) -> None:
        """Drop the orders that no process has carried out."""

    def wait_until_it_stands(self, number: int) -> None:
        self.gate.wait_until_entered()

    def let_go(self, number: int) -> None:
        self.gate.release()


class Threads:
    """The pool of `taskd.testing`, whose threads carry out their orders by themselves."""

    def __init__(self, directory: Path, gate: Gate) -> None:
        from twisted.internet import reactor

        functions = Registry()
        for each in (_echo, _stand):
            functions.add(each, each.__name__[1:])
        self.closed = False
        self.observer = Recorder()
        self.gate = gate
        config = WorkerConfig([], str(directory), "contract", 1 << 20)
        self.pool: Any = ThreadPoolConfig(functions, config).start(reactor, self.observer)

    def settle(self) -> None:
        """Let the threads carry out their orders."""

    def forget_orders(self) -> None:
        """Drop the orders that no thread has carried out."""

    def wait_until_it_stands(self, number: int) -> None:
        self.gate.wait_until_entered()

    def let_go(self, number: int) -> None:
        self.gate.release()


def _echo(value: Any) -> Any:
    return value


def _stand(path: str) -> str:
    with open(path) as fifo:
        return fifo.read()


class PretendedPool:
    """The fake pool; at `settle` its workers do what processes would do."""

    def __init__(self, directory: Path, gate: Gate) -> None:
        self.closed = False
        self.observer = Recorder()
        self.pool: Any = FakePool(self.observer)
        self._retired: set[int] = set()
        self._loaded = {0}

    def settle(self) -> None:
        pool = self.pool
        for generation in (pool.generation, pool.next):
            if generation is not None and generation not in self._loaded:
                self._loaded.add(generation)
                pool.load(function("echo"), function("stand"), generation=generation)
        pool.ready()
        for number, worker in list(pool.workers.items()):
            while worker.attempts and worker.attempts[0].function == "echo":
                pool.finish(number, bytes(worker.attempts[0].args)[9:-1])
            if worker.attempts:
                pool.begin(number)
        orders, pool.orders = pool.orders, []
        for order in orders:
            self._obey(*order)
        for number in list(pool.workers):
            if (number in self._retired or pool.is_closing) and not pool.workers[number].attempts:
                pool.lose(number, 0)

    def forget_orders(self) -> None:
        self.pool.orders.clear()

    def _obey(self, what: str, number: int | None = None, *more: Any) -> None:
        if what == "reclaim":
            self.pool.give_back(number, [run.task for run in self.pool.workers[number].attempts[1:]])
        elif what == "retire":
            self._retired.add(number or 0)
        else:  # a signal, or an abort
            for each in list(self.pool.workers) if number is None else [number]:
                self.pool.lose(each, -9)

    def wait_until_it_stands(self, number: int) -> None:
        self.settle()

    def let_go(self, number: int) -> None:
        self.pool.finish(number, b'""')
        self.settle()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate at which a task waits."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.tear_down()


@pytest.fixture(params=[RealPool, Threads, PretendedPool])
def side(request: pytest.FixtureRequest, tmp_path: Path, gate: Gate) -> Iterator[Any]:
    """A pool, its observer and its processes; at the end it is closed and must leave nothing behind."""
    yield from _made(request.param, tmp_path, gate)


@pytest.fixture(params=[RealPool, PretendedPool])
def reloading(request: pytest.FixtureRequest, tmp_path: Path, gate: Gate) -> Iterator[Any]:
    """A pool as `side` is, which can import its app again."""
    yield from _made(request.param, tmp_path, gate)


def _made(make: Callable[..., Any], tmp_path: Path, gate: Gate) -> Iterator[Any]:
    from twisted.internet import reactor

    side = make(tmp_path, gate)
    loaded = side.pool.loaded
    side.settle()
    pytest_twisted.blockon(loaded.addTimeout(SOON, reactor))
    yield side
    if not side.closed:
        closed = side.pool.close()
        side.pool.abort()
        side.settle()
        pytest_twisted.blockon(closed.addTimeout(SOON, reactor))


def close(side: Any) -> Deferred[None]:
    """Close the pool in the test instead of the fixture."""
    side.closed = True
    closed: Deferred[None] = side.pool.close()
    return closed


def echo(task: int, value: str) -> Attempt:
    return Attempt(task, 1, "echo", Raw(b'{"value":%s}' % value.encode()), 0)


def stand(task: int, gate: Gate) -> Attempt:
    return Attempt(task, 1, "stand", Raw(b'{"path":"%s"}' % gate.path.encode()), 0)


async def ready_worker(side: Any, generation: int = 1) -> int:
    number = side.pool.start_worker(generation)
    assert number is not None
    side.settle()
    await side.observer.wait_for("ready", number)
    return int(number)


# --- workers -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_workers_can_be_started_once_the_code_is_loaded(side: Any) -> None:
    assert side.observer.events == [("code loaded", 1, ["echo", "stand"])]
    number = await ready_worker(side)
    assert side.pool.pid(number) > 0
    assert side.pool.memory_kib(number) > 0
    assert side.pool.begun(number) == 0
    assert await ready_worker(side) != number


@pytest_twisted.ensureDeferred
async def test_no_worker_is_started_for_a_generation_that_does_not_exist(side: Any) -> None:
    assert side.pool.start_worker(2) is None


@pytest_twisted.ensureDeferred
async def test_tasks_are_run_and_reported_in_order(side: Any) -> None:
    number = await ready_worker(side)
    side.pool.send(number, [echo(1, "1"), echo(2, '"b"')])
    side.pool.send(number, [echo(3, "[3]")])
    side.settle()
    *_, last = await side.observer.wait_for("message", number, Done, 3)
    done = [event[4] for event in side.observer.find("message", number)]
    assert done[-1] is last
    assert [(message.task, bytes(message.value)) for message in done] == [(1, b"1"), (2, b'"b"'), (3, b"[3]")]
    assert side.pool.begun(number) == 3


@pytest_twisted.ensureDeferred
async def test_a_worker_that_exits_is_reported_once_with_the_task_it_had_begun(side: Any, gate: Gate) -> None:
    number = await ready_worker(side)
    side.pool.send(number, [stand(1, gate), echo(2, "2")])
    side.wait_until_it_stands(number)
    assert side.pool.begun(number) == 1
    side.pool.signal(number)
    side.settle()
    _, _, ending = await side.observer.wait_for("exited", number)
    assert (ending.code, ending.begun, ending.was_ready) == (-9, 1, True)
    assert (side.pool.pid(number), side.pool.memory_kib(number)) == (None, None)
    side.pool.signal(number)  # it reaches no one
    with pytest.raises(KeyError):
        side.pool.send(number, [echo(3, "3")])
    side.forget_orders()
    await ready_worker(side)
    assert len(side.observer.find("exited")) == 1
    assert side.observer.find("message") == []


@pytest_twisted.ensureDeferred
async def test_a_reclaim_returns_the_tasks_that_have_not_begun(side: Any, gate: Gate) -> None:
    number = await ready_worker(side)
    side.pool.send(number, [stand(1, gate), echo(2, "2"), echo(3, "3")])
    side.wait_until_it_stands(number)
    side.pool.reclaim(number)
    side.settle()
    *_, returned = await side.observer.wait_for("message", number, Returned)
    assert returned == Returned([2, 3])
    side.let_go(number)
    *_, done = await side.observer.wait_for("message", number, Done)
    assert done.task == 1


@pytest_twisted.ensureDeferred
async def test_a_retired_worker_finishes_its_tasks_and_exits_normally(side: Any, gate: Gate) -> None:
    number = await ready_worker(side)
    side.pool.send(number, [stand(1, gate)])
    side.wait_until_it_stands(number)
    side.pool.retire(number)
    side.settle()
    assert side.observer.find("exited") == []
    side.let_go(number)
    _, _, ending = await side.observer.wait_for("exited", number)
    assert (ending.code, ending.begun) == (0, 1)
    assert [event[0] for event in side.observer.events[-2:]] == ["message", "exited"]


# --- code --------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_new_code_is_loaded_beside_the_old_and_switched_to(reloading: Any) -> None:
    old = await ready_worker(reloading)
    generation = reloading.pool.reload()
    assert generation == 2
    reloading.settle()
    await reloading.observer.wait_for("code loaded", generation)
    new = await ready_worker(reloading, generation)
    assert new != old
    reloading.pool.switch()
    with pytest.raises(StateError):
        reloading.pool.switch()
    reloading.pool.retire(old)
    reloading.settle()
    await reloading.observer.wait_for("exited", old)
    assert reloading.pool.start_worker(1) is None
    await ready_worker(reloading, generation)


@pytest_twisted.ensureDeferred
async def test_new_code_can_be_abandoned(reloading: Any) -> None:
    generation = reloading.pool.reload()
    reloading.pool.abandon_next()
    reloading.pool.abandon_next()
    assert reloading.pool.start_worker(generation) is None
    assert reloading.pool.reload() == generation + 1
    reloading.settle()
    await reloading.observer.wait_for("code loaded", generation + 1)
    assert reloading.observer.find("code loaded", generation) == []
    await ready_worker(reloading)


# --- the end -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_closing_lets_workers_end_and_fires_once_every_process_has_ended(side: Any, gate: Gate) -> None:
    standing, idle = await ready_worker(side), await ready_worker(side)
    side.pool.send(standing, [stand(1, gate)])
    side.wait_until_it_stands(standing)
    closed = close(side)
    assert (side.pool.start_worker(1), side.pool.reload()) == (None, None)
    side.settle()
    await side.observer.wait_for("exited", idle)
    assert not closed.called
    side.let_go(standing)
    await closed
    assert len(side.observer.find("message", standing, Done)) == 1
    assert [event[2].code for event in side.observer.find("exited")] == [0, 0]


@pytest_twisted.ensureDeferred
async def test_an_abort_kills_workers_that_do_not_end_by_themselves(side: Any, gate: Gate) -> None:
    number = await ready_worker(side)
    side.pool.send(number, [stand(1, gate)])
    side.wait_until_it_stands(number)
    closed = close(side)
    side.pool.abort()
    side.settle()
    await closed
    [(_, _, ending)] = side.observer.find("exited")
    assert (ending.code, ending.begun) == (-9, 1)


@pytest_twisted.ensureDeferred
async def test_a_pool_without_workers_closes_too(side: Any) -> None:
    closed = close(side)
    await closed
