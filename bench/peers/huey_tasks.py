"""The task on Huey, with Redis as queue and for results; a client waits for the result."""

from huey import RedisHuey
from huey.api import Result
from window import PATIENCE, redis_url

huey = RedisHuey("bench", url=redis_url(), notify_result=True)


@huey.task()
def echo(value: object) -> object:
    """Return what was given."""
    return value


def submit(number: int) -> Result:
    """Send one task."""
    return echo(number)


def collect(handle: Result) -> object:
    """Wait for its result, and take it."""
    return handle.get(blocking=True, timeout=PATIENCE)
