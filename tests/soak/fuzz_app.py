"""The functions that the fuzzer has besides those of the soak: stored ones, and one for its canary alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from taskd import Secret, task

__all__: list[str] = []


@task
def canary(value: str) -> str:
    return value


@task
def hush(word: Annotated[str, Secret]) -> int:
    return len(word)


@task(durable=True, retries=1, backoff=0.1)
def kept(value: object = None) -> object:
    return value


@task(durable=True)
def held(value: object = None) -> object:
    """Is paused and resumed by operators: nobody may wait for its end."""
    return value


@task(durable=True, retries=1, backoff=0.1)
def fails(value: object = None) -> None:
    raise ValueError(f"so it is: {value}")


@task(durable=True, concurrency=1, concurrency_key="name")
def keyed(name: str = "", value: int = 0) -> int:
    return value


@task(durable=True)
def parts(count: int = 3) -> Iterator[int]:
    yield from range(min(count, 100))


@task
def at_the_end(batch: str, done: int, failed: int, cancelled: int, total: int) -> int:
    """Follow a batch: the other parameters have the names of its figures."""
    return total
