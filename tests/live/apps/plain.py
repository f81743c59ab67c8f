"""The functions that the live tests call."""

import asyncio
import os
import signal
import subprocess
import sys
import time

from taskd import progress, task


@task
def hello(name: str = "World") -> str:
    """Say hello."""
    return f"Hello, {name}!"


@task
def echo(value: object = None) -> object:
    """Return the argument."""
    return value


@task
def add(a: int, b: int = 1) -> int:
    return a + b


@task
def nap(seconds: float) -> float:
    """Sleep."""
    time.sleep(seconds)
    return seconds


@task
async def async_nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@task
def wait_for(path: str) -> str:
    """Wait until the test has opened this FIFO for writing and closed it."""
    with open(path) as fifo:
        return fifo.read()


@task
def boom(message: str = "boom") -> None:
    raise ValueError(message)


@task
def nest(levels: int) -> object:
    """Return an array nested so deep."""
    value: list[object] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@task
def leave(status: int = 3) -> None:
    sys.exit(status)


@task
def vanish(status: int = 7) -> None:
    os._exit(status)


@task
def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


@task
def not_json() -> object:
    return object()


@task
def big(size: int) -> str:
    return "x" * size


@task
def count(upto: int, seconds: float = 0.0) -> int:
    """Report progress `upto` times."""
    for number in range(1, upto + 1):
        progress(number, upto, f"step {number}")
        time.sleep(seconds)
    return upto


@task
def pid() -> int:
    return os.getpid()


@task
def say(text: str, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout)


@task
def shout(text: str) -> None:
    """Print from a child process."""
    subprocess.run(["echo", text], check=True)


@task
def spawn_sleeper() -> int:
    """Leave a child process behind."""
    return subprocess.Popen(["sleep", "600"]).pid


@task(name="from.keyword")
def keyword(from_: str, class_: int = 0) -> list:
    return [from_, class_]
