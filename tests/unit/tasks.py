"""Tasks, subscribers and functions for the unit tests."""

from taskd.model import PRIORITY, Call
from taskd.scheduler import FunctionStats
from taskd.scheduler.parties import Lane, Party
from taskd.scheduler.stats import KNOWN_SHORT
from taskd.scheduler.task import NOBODY, Task


class FakeSubscriber:
    """A subscriber that records what it receives in `sent`; while it `is_full`, its tasks are throttled."""

    def __init__(self, *, is_full=False, lane=None):
        self.is_full = is_full
        self.lane = lane if lane is not None else make_lane()
        self.needed = []
        self.sent = []
        self.flushes = 0

    def needs(self, key):
        return key in self.needed

    def account(self):
        return None

    def wants_result(self, key, size):
        return True

    def task_progressed(self, key, progress):
        self.sent.append((key, progress))

    def task_ended(self, key, outcome):
        self.sent.append((key, outcome))

    def flush(self):
        self.flushes += 1


def make_lane(party="party"):
    """Make the lane of a connection of a party of its own."""
    return Lane(Party(party))


def make_task(
    number, stats=None, *, subscriber=NOBODY, key=None, received=0.0, priority=PRIORITY, lane=None, **more
):
    """Make a task as a server makes it of a call; without a subscriber and a lane, of a party of its own."""
    stats = stats if stats is not None else FunctionStats("f")
    if lane is None:
        lane = make_lane() if subscriber is NOBODY else subscriber.lane
    return Task(number, Call(stats.name), stats, subscriber, key, received, priority, lane, **more)


def run_until_short(stats, seconds=0.0):
    """Count runs until a function counts as short, and would still do so after one surprise."""
    for _ in range(2 * KNOWN_SHORT):
        stats.add(seconds, failed=False, printed=False)
    assert stats.is_short
    return stats


def short_function(name="short", seconds=0.0, **stats):
    """Return the statistics of a function that counts as short."""
    return run_until_short(FunctionStats(name, **stats), seconds)
