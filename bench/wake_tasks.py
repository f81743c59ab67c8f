"""The functions that `bench/wake.py` calls: each shows when it has done something."""

import socket
import time
from collections.abc import Iterator

from taskd import task

LABEL = "far"
"""The label of the node that runs them."""


def note(path: str, what: str) -> None:
    """Send the time to a socket of the measurement."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(f"{what} {time.time()}".encode(), path)


@task(durable=True, needs=LABEL)
def held(path: str) -> None:
    """Wait to be cancelled."""
    note(path, "started")
    try:
        time.sleep(60)
    finally:
        note(path, "cancelled")


@task(durable=True, needs=LABEL)
def timed(seconds: float) -> float:
    """Return the time after so many seconds."""
    time.sleep(seconds)
    return time.time()


@task(durable=True, needs=LABEL)
def ticking(count: int, seconds: float) -> Iterator[float]:
    """Yield the time, so many times."""
    for _ in range(count):
        time.sleep(seconds)
        yield time.time()
