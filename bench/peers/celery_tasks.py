"""The task on Celery, with Redis as broker and for results."""

from celery import Celery
from celery.result import AsyncResult
from window import PATIENCE, redis_url

app = Celery("celery_tasks", broker=redis_url(), backend=redis_url())


@app.task
def echo(value: object) -> object:
    """Return what was given."""
    return value


def submit(number: int) -> AsyncResult:
    """Send one task."""
    return echo.delay(number)


def collect(handle: AsyncResult) -> object:
    """Wait for its result, and drop what the client keeps of it."""
    result = handle.get(timeout=PATIENCE)
    handle.forget()
    return result
