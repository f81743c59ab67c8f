"""One suite for every client: the same cases for `Client`, `AsyncClient` and `TaskClient`, over each way to a
server, and for their doubles of `taskd.testing`.
"""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThread

from taskd.errors import (
    Cancelled,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    NotAllowed,
    TaskdError,
    TaskFailed,
    TimedOut,
    WaitTimeout,
)
from taskd.functions.registry import Registry, registry
from tests.live.peers import entered, within
from tests.live.support import APPS, TIMEOUT, Daemon

SHORT = 0.05
"""Seconds for a wait that is meant to time out."""


# --- clients of three kinds, each awaited in its own way -------------------------------------------------


def _in_a_task(call: Callable[..., Any], *args: Any, **named: Any) -> Deferred[Any]:
    return Deferred.fromFuture(asyncio.ensure_future(call(*args, **named)))


async def _collected(call: Callable[..., Any], *args: Any, **named: Any) -> list[Any]:
    return [item async for item in call(*args, **named)]


def _listed_by_a_coroutine(call: Callable[..., Any], *args: Any, **named: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(_collected(call, *args, **named))


def _listed_by_a_task(call: Callable[..., Any], *args: Any, **named: Any) -> Deferred[Any]:
    return _in_a_task(_collected, call, *args, **named)


def _listed_in_a_thread(call: Callable[..., Any], *args: Any, **named: Any) -> Deferred[Any]:
    return deferToThread(lambda: list(call(*args, **named)))


class Tried:
    """A client, or one of its handles, whose methods all return Deferreds; `events` and `map` give lists."""

    def __init__(
        self, target: Any, run: Callable[..., Deferred[Any]], listed: Callable[..., Deferred[Any]]
    ) -> None:
        self._target = target
        self._run = run
        self._listed = listed

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value):
            return value
        if name in ("with_options", "task", "batch"):
            return lambda *args, **named: self._wrapped(value(*args, **named))
        run = self._listed if name in ("events", "map") else self._run
        return lambda *args, **named: run(value, *args, **named).addCallback(self._wrapped)

    def _wrapped(self, value: Any) -> Any:
        return (
            Tried(value, self._run, self._listed)
            if hasattr(value, "cancel") or hasattr(value, "ping")
            else value
        )


def _double(kind: str, functions: Registry) -> Tried:
    from taskd import testing

    if kind == "blocking":
        return Tried(testing.Client(functions), deferToThread, _listed_in_a_thread)
    if kind == "asyncio":
        return Tried(testing.AsyncClient(functions), _in_a_task, _listed_by_a_task)
    from twisted.internet import reactor

    return Tried(testing.TaskClient(reactor, functions), maybeDeferred, _listed_by_a_coroutine)


CLIENTS = [
    "blocking",
    "blocking, websocket",
    "asyncio",
    "asyncio, websocket",
    "twisted, per-call",
    "twisted, pooled",
    "twisted, websocket",
    "testing, blocking",
    "testing, asyncio",
    "testing, twisted",
]
"""The clients, with their ways to a server; those of `taskd.testing` bring their own."""


@pytest.fixture(scope="module")
def functions() -> Registry:
    """The functions of the server's app, for the clients that have no server, and to be called as objects."""
    runpy.run_path(str(APPS / "plain.py"))
    return registry


@pytest.fixture
def made(
    shared: Daemon, functions: Registry, make_client: Callable[..., Any]
) -> Iterator[Callable[[str], Tried]]:
    """Make a client of a kind; each is closed at the end."""
    opened: list[Tried] = []

    def make(kind: str) -> Tried:
        kind, _, way = kind.partition(", ")
        server = shared.ws if way == "websocket" else shared.tcp
        if kind == "testing":
            opened.append(_double(way, functions))
            return opened[-1]
        if kind == "twisted":
            more = {} if way == "websocket" else {"link": way}
            return Tried(make_client(server, **more), maybeDeferred, _listed_by_a_coroutine)
        if kind == "asyncio":
            from taskd.client import AsyncClient

            opened.append(Tried(AsyncClient(server), _in_a_task, _listed_by_a_task))
        else:
            from taskd.client import Client

            opened.append(Tried(Client(server), deferToThread, _listed_in_a_thread))
        return opened[-1]

    yield make
    for client in opened:
        pytest_twisted.blockon(within(client.close()))


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, made: Callable[[str], Tried]) -> Tried:
    return made(request.param)


async def failure(deferred: Any, kind: type[TaskdError]) -> TaskdError:
    """The exception that a call fails with."""
    with pytest.raises(kind) as caught:
        await within(deferred, TIMEOUT)
    assert type(caught.value) is kind, caught.value
    return caught.value


# --- results -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_call_gives_the_result(client):
    assert await within(client.call("hello", name="Ann")) == "Hello, Ann!"
    assert await within(client.call("add", a=2, b=40)) == 42
    assert await within(client.call("add", 2, 40)) == 42
    assert await within(client.call("hello")) == "Hello, World!"
    assert await within(client.call("async_nap", seconds=0.0)) == 0.0


@pytest_twisted.ensureDeferred
async def test_a_function_object_is_called_by_the_name_that_it_is_registered_under(client, functions):
    add, keyword = functions["add"].callable, functions["from.keyword"].callable
    assert await within(client.call(add, 2, b=40)) == 42
    assert await within(client.call(keyword, "a@x", class_=7)) == ["a@x", 7]
    assert await within(client.call(functions["async_nap"].callable, 0.0)) == 0.0


@pytest_twisted.ensureDeferred
async def test_a_function_object_that_is_not_registered_is_refused_with_what_to_do(client):
    def stranger() -> None: ...

    with pytest.raises(TypeError, match="@task"):
        await within(client.call(stranger))


@pytest.mark.parametrize(
    "value",
    [None, False, 0, -1, 2**53 + 1, 1.5, "", 'ไทย \u2028\n"\\', [], {}, [{"a": [None, {"b": "c"}]}]],
    ids=repr,
)
@pytest_twisted.ensureDeferred
async def test_values_survive_the_round_trip_unchanged(client, value):
    assert await within(client.call("echo", value=value)) == value


@pytest_twisted.ensureDeferred
async def test_a_long_value_is_cut_by_no_limit_on_lines(client):
    value = "x" * 300_000
    assert await within(client.call("echo", value)) == value


@pytest_twisted.ensureDeferred
async def test_a_name_that_is_a_python_keyword_is_written_with_an_underscore(client):
    assert await within(client.call("from.keyword", from_="a@x", class_=7)) == ["a@x", 7]


@pytest_twisted.ensureDeferred
async def test_the_server_answers_a_ping_and_describes_its_functions(client):
    assert await within(client.ping()) is None
    names = {function["name"] for function in await within(client.functions())}
    assert {"hello", "add"} <= names


@pytest_twisted.ensureDeferred
async def test_the_status_of_the_server_is_an_object(client):
    assert (await within(client.status()))["max_workers"] == 4


# --- options -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_progress_is_reported_in_order_and_always_includes_the_last_report(client):
    reports: list[Any] = []
    assert await within(client.with_options(on_progress=reports.append).call("count", upto=5)) == 5
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert {report.total for report in reports} == {5}
    assert (reports[-1].done, reports[-1].message) == (5, "step 5")


@pytest_twisted.ensureDeferred
async def test_unrequested_progress_is_dropped(client):
    assert await within(client.call("count", upto=2)) == 2


@pytest_twisted.ensureDeferred
async def test_options_hold_for_the_client_that_they_are_given_to(client):
    hurried = client.with_options(timeout=SHORT, priority=0)
    error = await failure(hurried.call("nap", 60), TimedOut)
    assert error.data["limit"] == "timeout"
    assert await within(client.call("nap", 2 * SHORT)) == 2 * SHORT


@pytest.mark.parametrize(
    ("options", "wrong"), [({"key": "a"}, "key"), ({"delay": 1}, "delay"), ({"token": "a"}, "token")]
)
@pytest_twisted.ensureDeferred
async def test_an_option_that_belongs_to_another_method_is_named(client, options, wrong):
    with pytest.raises(ValueError, match=wrong):
        await within(client.with_options(**options).call("hello"))


@pytest_twisted.ensureDeferred
async def test_an_option_of_a_wrong_kind_is_a_value_error(client):
    with pytest.raises((ValueError, InvalidRequest), match="priority"):
        await within(client.with_options(priority=11).call("hello"))


@pytest_twisted.ensureDeferred
async def test_the_wait_for_a_reply_has_an_end_if_one_is_given(client, gate):
    error = await failure(client.with_options(wait=SHORT).call("wait_for", gate.path), WaitTimeout)
    assert error.data == {"seconds": SHORT}
    assert "wait_for" in error.message
    assert await within(client.with_options(wait=TIMEOUT).call("hello")) == "Hello, World!"


# --- errors ------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_function_that_raises_is_a_failed_task(client):
    error = await failure(client.call("boom", message="no paper"), TaskFailed)
    assert str(error) == "ValueError: no paper"
    assert (error.data["type"], error.data["message"]) == ("ValueError", "no paper")
    await failure(client.call("not_json"), TaskFailed)


@pytest_twisted.ensureDeferred
async def test_a_function_that_does_not_exist_is_not_found(client):
    error = await failure(client.call("no_such_function"), MethodNotFound)
    assert error.message == "no such function: no_such_function"


@pytest_twisted.ensureDeferred
async def test_arguments_that_do_not_fit_are_named(client):
    error = await failure(client.call("add", a="three"), InvalidParams)
    assert (error.data["argument"], error.data["expected"]) == ("a", "int")
    assert (await failure(client.call("add", a=1, c=2), InvalidParams)).data["argument"] == "c"
    await failure(client.call("add"), InvalidParams)
    await failure(client.call("add", 1, 2, 3), InvalidParams)
    error = await failure(client.call("hello", timeout=1), InvalidParams)
    assert "timeout" in error.message


@pytest_twisted.ensureDeferred
async def test_arguments_that_cannot_be_written_as_json_are_refused_at_once(client):
    with pytest.raises(TypeError):
        await within(client.call("echo", value=object()))
    assert await within(client.call("hello")) == "Hello, World!"


# --- many calls --------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_map_yields_each_row_with_its_result(client):
    rows = [(1, 2), [3, 4], {"a": 5, "b": 6}, 7]
    found = await within(client.map("add", rows, concurrency=2))
    assert sorted(result for _, result in found) == [3, 7, 8, 11]
    assert ((1, 2), 3) in found
    assert ({"a": 5, "b": 6}, 11) in found


@pytest_twisted.ensureDeferred
async def test_a_map_raises_the_error_of_a_row_or_yields_it(client):
    rows = ["one", "two"]
    with pytest.raises(TaskFailed):
        await within(client.map("boom", rows))
    found = await within(client.map("boom", rows, return_exceptions=True))
    assert {row: str(error) for row, error in found} == {"one": "ValueError: one", "two": "ValueError: two"}


# --- stored tasks ------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_task_is_submitted_and_its_result_is_awaited(client, functions):
    task = await within(client.submit("add", 2, 40))
    assert not task.joined
    assert await within(task.result()) == 42
    assert await within(task.result(timeout=TIMEOUT)) == 42
    assert await within(task.state()) == "succeeded"
    assert await within(client.task(task.id).result()) == 42
    task = await within(client.submit(functions["from.keyword"].callable, from_="a@x"))
    assert await within(task.result()) == ["a@x", 0]


@pytest_twisted.ensureDeferred
async def test_a_second_submit_with_the_same_key_joins_the_first(client):
    key = f"key of {id(client)}"
    later = client.with_options(key=key, delay=3600)
    first, second = await within(later.submit("hello")), await within(later.submit("hello"))
    assert first.id == second.id
    assert (first.joined, second.joined) == (False, True)
    assert await within(first.state()) == "scheduled"
    why = await within(first.why())
    assert why["state"] == "scheduled"
    assert await within(first.cancel()) == "scheduled"


@pytest_twisted.ensureDeferred
async def test_the_error_of_a_task_is_raised_by_its_result(client):
    task = await within(client.submit("boom", "no paper"))
    error = await failure(task.result(), TaskFailed)
    assert str(error) == "ValueError: no paper"
    assert await within(task.state()) == "failed"
    assert await within(task.retry()) == "failed"
    await failure(task.result(), TaskFailed)


@pytest_twisted.ensureDeferred
async def test_a_wait_for_a_result_that_times_out_leaves_the_task_alone(client, gate):
    task = await within(client.submit("wait_for", gate.path))
    await entered(gate)
    await failure(task.result(timeout=SHORT), WaitTimeout)
    gate.release("late")
    assert await within(task.result()) == "late"


@pytest_twisted.ensureDeferred
async def test_a_cancelled_task_ends_as_cancelled(client, gate):
    task = await within(client.submit("wait_for", gate.path))
    await entered(gate)
    assert await within(task.cancel()) == "running"
    await failure(task.result(), Cancelled)
    assert await within(task.cancel()) == "done"
    with pytest.raises(NotAllowed):
        await within(task.retry())


@pytest_twisted.ensureDeferred
async def test_the_events_of_a_task_come_in_order_and_end_with_its_end(client):
    task = await within(client.submit("count", 3))
    events = await within(task.events())
    names = [event.event for event in events]
    assert names[0] == "queued"
    assert names[-1] == "succeeded"
    assert events[-1].data["result"] == 3
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert all(event.at > 0 for event in events)
    after = await within(task.events(after=events[-2].seq))
    assert [(event.seq, event.event) for event in after] == [(events[-1].seq, "succeeded")]


@pytest_twisted.ensureDeferred
async def test_events_of_a_task_that_runs_come_as_they_happen(client, gate):
    task = await within(client.submit("wait_for", gate.path))
    await entered(gate)
    events = task.events()
    gate.release("through")
    assert [event.event for event in await within(events)][-2:] == ["started", "succeeded"]


@pytest_twisted.ensureDeferred
async def test_a_task_that_is_unknown_is_an_error(client):
    unknown = client.task("00000000-0000-7000-8000-000000000000")
    for asked in (unknown.state, unknown.result, unknown.events, unknown.cancel, unknown.retry):
        if asked is unknown.cancel:
            assert await within(asked()) == "done"
        else:
            await failure(asked(), InvalidParams)


# --- batches -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_batch_is_submitted_as_one_and_counted(client):
    batch = await within(client.submit_batch("add", [[1, 2], (3, 4), {"a": 5}, 6]))
    assert len(batch.tasks) == 4
    counts = await within(batch.result(timeout=TIMEOUT))
    assert {name: counts[name] for name in ("done", "failed", "cancelled", "total", "state")} == {
        "done": 4,
        "failed": 0,
        "cancelled": 0,
        "total": 4,
        "state": "succeeded",
    }
    assert await within(batch.state()) == "succeeded"
    assert await within(client.task(batch.tasks[1]).result()) == 7
    found = client.batch(batch.id)
    assert [event.event for event in await within(found.events())][-1] == "ended"
    assert await within(found.cancel()) == "done"


@pytest_twisted.ensureDeferred
async def test_a_batch_with_failed_tasks_has_a_result_all_the_same(client):
    batch = await within(client.submit_batch("boom", ["one", "two"]))
    counts = await within(batch.result())
    assert (counts["failed"], counts["state"]) == (2, "failed")
