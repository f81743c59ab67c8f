"""Durable functions for a node with the label `far`, which any other node can submit."""

from collections.abc import Iterator

from taskd import task


@task(durable=True, needs="far")
def stay(path: str) -> str:
    """Wait at a FIFO until the test opens and closes it, and return what it wrote."""
    with open(path) as fifo:
        return fifo.read()


@task(durable=True, needs="far")
def yielding(path: str) -> Iterator[str]:
    """Yield what the test writes to a FIFO, once it has been opened and closed."""
    with open(path) as fifo:
        yield fifo.read()
    yield "over"
