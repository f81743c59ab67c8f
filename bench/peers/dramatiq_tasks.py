"""The task on Dramatiq, with Redis as broker and for results."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from window import PATIENCE, redis_url

broker = RedisBroker(url=redis_url())
broker.add_middleware(Results(backend=RedisBackend(url=redis_url())))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, result_ttl=60_000)
def echo(value: object) -> object:
    """Return what was given."""
    return value


def submit(number: int) -> dramatiq.Message:
    """Send one task."""
    return echo.send(number)


def collect(handle: dramatiq.Message) -> object:
    """Wait for its result."""
    return handle.get_result(block=True, timeout=int(PATIENCE * 1000))
