"""Right and wrong calls, for type checkers: a line that they must refuse ends in the words `# wrong`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

from twisted.internet.defer import Deferred

from taskd import task
from taskd.client import AsyncClient, Client, TaskClient
from taskd.client.aio import AsyncBatch, AsyncTask
from taskd.client.handle import Batch, Task
from taskd.client.twisted import DeferredBatch, DeferredTask


@task
def report(pages: int, paper: str = "A4", *, color: bool = False) -> str:
    return f"{pages} {paper} {color}"


@task(name="text.length", timeout=5)
async def length(text: str) -> int:
    return len(text)


@task
def squares(upto: int) -> Iterator[int]:
    yield from range(upto)


@task
async def halves(upto: int) -> AsyncIterator[float]:
    yield upto / 2


def results(client: Client) -> None:
    assert_type(client.call(report, 3), str)
    assert_type(client.call(report, pages=3, color=True), str)
    assert_type(client.call(length, "abc"), int)
    assert_type(client.call(squares, 3), list[int])
    assert_type(client.call(halves, 3), list[float])
    assert_type(client.call("report", 3), Any)
    assert_type(client.with_options(timeout=5).call(report, 3), str)


def handles(client: Client) -> None:
    assert_type(client.submit(report, 3), Task[str])
    assert_type(client.submit(length, text="abc").result(timeout=5), int)
    assert_type(client.submit(squares, 3).result(), list[int])
    assert_type(client.submit_batch(report, [(1,), {"pages": 2}], then=report), Batch)
    assert_type(client.task("1").result(), Any)
    assert_type(client.with_options(key="a", delay=5.0).submit(report, 3), Task[str])


def wrong_calls(client: Client) -> None:
    client.call(report)  # wrong
    client.call(report, "three")  # wrong
    client.call(report, pages=3, colour=True)  # wrong
    client.call(report, 3, "A5", True)  # wrong
    client.call(length, 3)  # wrong
    client.call(squares, "3")  # wrong
    client.submit(report, pages="3")  # wrong
    client.submit(length)  # wrong
    client.call(3)  # wrong
    wrong: int = client.call(report, 3)  # wrong
    length_: str = client.submit(length, "abc").result()  # wrong
    client.with_options(timeout="5")  # wrong
    client.with_options(on_disconnect="stop")  # wrong
    client.with_options(colour=True)  # wrong
    print(wrong, length_)


async def asyncio(client: AsyncClient) -> None:
    assert_type(await client.call(report, 3), str)
    assert_type(await client.call(length, "abc"), int)
    assert_type(await client.call(squares, 3), list[int])
    assert_type(await client.call(halves, 3), list[float])
    assert_type(await client.call("report", 3), Any)
    assert_type(await client.submit(report, 3), AsyncTask[str])
    assert_type(await client.submit_batch(report, [1, 2], then=report), AsyncBatch)
    assert_type(await (await client.with_options(key="a").submit(squares, 3)).result(), list[int])
    await client.call(report)  # wrong
    await client.call(length, 3)  # wrong
    await client.submit(report, pages="3")  # wrong
    wrong: int = await client.call(report, 3)  # wrong
    client.with_options(timeout="5")  # wrong
    client.with_options(colour=True)  # wrong
    print(wrong)


def twisted(client: TaskClient) -> None:
    assert_type(client.call(report, 3), Deferred[str])
    assert_type(client.call(length, "abc"), Deferred[int])
    assert_type(client.call(squares, 3), Deferred[list[int]])
    assert_type(client.call("report", 3), Deferred[Any])
    assert_type(client.submit(report, 3), Deferred[DeferredTask[str]])
    assert_type(client.submit_batch(report, [1, 2]), Deferred[DeferredBatch])
    client.call(report)  # wrong
    client.call(length, 3)  # wrong
    client.submit(report, pages="3")  # wrong
    client.with_options(timeout="5")  # wrong
    client.with_options(colour=True)  # wrong
