"""The task on RQ."""

from redis import Redis
from rq import Queue
from rq.job import Job
from window import PATIENCE, redis_url

queue = Queue("bench", connection=Redis.from_url(redis_url()))


def echo(value: object) -> object:
    """Return what was given."""
    return value


def submit(number: int) -> Job:
    """Send one task."""
    return queue.enqueue("rq_tasks.echo", number, result_ttl=60)


def collect(handle: Job) -> object:
    """Wait for its result."""
    result = handle.latest_result(timeout=int(PATIENCE))
    return None if result is None else result.return_value
