"""Functions of which a token covers some, or whose arguments it fixes."""

from taskd import task


@task
def greet(name: str = "World") -> str:
    """Say hello."""
    if not name:
        raise ValueError("nobody to greet")
    return f"Hello, {name}!"


@task
def other(tenant: int = 0) -> None:
    raise ValueError(f"of tenant {tenant}")


@task
def ended(batch: str, done: int, failed: int, cancelled: int, total: int, tenant: int = 0) -> list[int]:
    """Follow a batch."""
    return [done, failed, cancelled, total, tenant]
