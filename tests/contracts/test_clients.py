"""One suite for every client: `TaskClient` over each of its links, and `MemoryTaskClient`."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted

from taskd.errors import InvalidParams, MethodNotFound, TaskdError, TaskFailed
from taskd.functions.registry import Registry, registry
from tests.live.peers import within
from tests.live.support import APPS, TIMEOUT, Daemon


@pytest.fixture(scope="module")
def functions() -> Registry:
    """The functions of the server's app, for the client that has no server."""
    runpy.run_path(str(APPS / "plain.py"))
    return registry


@pytest.fixture(params=["per-call", "pooled", "websocket", "memory"])
def client(
    request: pytest.FixtureRequest, shared: Daemon, functions: Registry, make_client: Callable[..., Any]
) -> Any:
    if request.param == "memory":
        from taskd.testing import MemoryTaskClient

        return MemoryTaskClient(functions)
    return (
        make_client(shared.ws)
        if request.param == "websocket"
        else make_client(shared.tcp, link=request.param)
    )


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
    assert await within(client.call("async_nap", seconds=0.0)) == 0.0


@pytest.mark.parametrize(
    "value",
    [None, False, 0, -1, 2**53 + 1, 1.5, "", 'ไทย \u2028\n"\\', [], {}, [{"a": [None, {"b": "c"}]}]],
    ids=repr,
)
@pytest_twisted.ensureDeferred
async def test_values_survive_the_round_trip_unchanged(client, value):
    assert await within(client.call("echo", value=value)) == value


@pytest_twisted.ensureDeferred
async def test_a_name_that_is_a_python_keyword_is_written_with_an_underscore(client):
    assert await within(client.call("from.keyword", from_="a@x", class_=7)) == ["a@x", 7]


@pytest_twisted.ensureDeferred
async def test_a_request_takes_arguments_by_position_or_by_their_names_on_the_wire(client):
    assert await within(client.request("from.keyword", ["a@x", 7])) == ["a@x", 7]
    assert await within(client.request("from.keyword", ("a@x",))) == ["a@x", 0]
    assert await within(client.request("from.keyword", {"from": "a@x", "class": 7})) == ["a@x", 7]
    assert await within(client.request("hello")) == "Hello, World!"
    assert await within(client.request("hello", {})) == "Hello, World!"


# --- progress ----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_progress_is_reported_in_order_and_always_includes_the_last_report(client):
    reports: list[Any] = []
    assert await within(client.call("count", upto=5, on_progress=reports.append)) == 5
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert {report.total for report in reports} == {5}
    assert (reports[-1].done, reports[-1].message) == (5, "step 5")


@pytest_twisted.ensureDeferred
async def test_unrequested_progress_is_dropped(client):
    assert await within(client.call("count", upto=2)) == 2


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
    await failure(client.request("add", [1, 2, 3]), InvalidParams)
    error = await failure(client.request("hello", {"timeout": 1}), InvalidParams)
    assert "timeout" in error.message


@pytest_twisted.ensureDeferred
async def test_arguments_that_cannot_be_written_as_json_are_refused_at_once(client):
    with pytest.raises(TypeError):
        client.call("echo", value=object())
    assert await within(client.call("hello")) == "Hello, World!"
