"""Functions whose parameters have every shape that a description of the API has to tell."""

from typing import Literal

from taskd import task


@task(durable=True)
def numbers(count: int, ratio: float = 0.5, *, exact: bool = False) -> float:
    """Multiply."""
    return count * ratio


@task(durable=True, once=True)
def chosen(paper: Literal["A4", "A5"] = "A4", copies: Literal[1, 2] | None = None) -> str:
    """Choose a paper, and perhaps how many."""
    return f"{paper} {copies}"


@task(durable=True)
def lists(names: list[str], sizes: list[int] | None = None, either: int | str = 0) -> int:
    """Count names."""
    return len(names)


@task(durable=True)
def many(*values: int, **options: bool) -> int:
    """Add."""
    return sum(values)


@task(durable=True)
def anything(value=None):
    """Return a value as it came."""
    return value


@task(durable=True)
def fails() -> None:
    """Fail."""
    raise ValueError("always")


@task(durable=True)
def finish(batch: str, done: int, failed: int, cancelled: int, total: int) -> int:
    """Follow a batch."""
    return done


@task(name="plain: ö")
def plain() -> None:
    """Be named like this, and not durable."""
