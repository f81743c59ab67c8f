"""Following a task or a batch to its end: every event once, over lost connections."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.following import PAGE, PATIENCE, RETRY_SECONDS, Follower, fetch_events, wait_for_end
from taskd.cli.stored_ids import Target
from taskd.errors import InvalidParams, Unreachable

TASK = Target("task", "t")
GONE = Unreachable("the server is gone")


class FakeClient:
    """Notes each request; the test answers the last one."""

    def __init__(self):
        self.asked = []
        self.last = None

    def request(self, method, params):
        self.asked.append((method.removeprefix("taskd."), params))
        self.last = Deferred()
        return self.last

    def answer(self, value):
        last, self.last = self.last, None
        if isinstance(value, Exception):
            last.errback(value)
        else:
            last.callback(value)


def event(seq, task="t"):
    return {"task": task, "seq": seq, "event": "progress"}


class FakeReactor(Clock):
    """A clock that notes what would be called at the end."""

    def __init__(self):
        super().__init__()
        self.at_end = []

    def addSystemEventTrigger(self, phase, event, call):
        self.at_end.append(call)


class FollowerTests(SynchronousTestCase):
    def setUp(self):
        self.clock = FakeReactor()
        self.client = FakeClient()
        self.shown = []
        self.losses = []

    def follow(self, after=0):
        self.follower = Follower(on_lost=self.losses.append, after=after)
        following = self.follower.follow(
            self.clock, self.client, TASK, lambda event: self.shown.append(event["seq"])
        )
        return Deferred.fromCoroutine(following)

    def test_events_are_shown_once_and_in_order(self):
        end = self.follow()
        self.assertEqual(self.client.asked[-1], ("attach", {"task": "t", "after": 0}))
        self.client.answer({"state": "running", "seq": 2})
        for seq, task in ((1, "t"), (2, "other"), (2, "t"), (2, "t"), (1, "t")):
            self.follower.pushed(event(seq, task))
        self.assertEqual(self.client.asked[-1], ("wait", {"task": "t"}))
        self.client.answer({"state": "succeeded"})
        self.assertEqual(self.client.asked[-1], ("events", {"task": "t", "after": 2, "limit": PAGE}))
        self.client.answer([event(3), event(4)])
        self.client.answer([])
        self.follower.pushed(event(4))
        self.assertEqual(self.successResultOf(end), {"state": "succeeded"})
        self.assertEqual(self.shown, [1, 2, 3, 4])

    def test_a_server_that_comes_back_is_asked_for_what_followed(self):
        end = self.follow(after=5)
        self.client.answer({"state": "running", "seq": 0})
        self.follower.pushed(event(6))
        self.client.answer(GONE)
        self.assertEqual(self.losses, [GONE.message])
        self.clock.advance(RETRY_SECONDS)
        self.client.answer(GONE)
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual(self.losses, [GONE.message])
        self.assertEqual(self.client.asked[-1], ("attach", {"task": "t", "after": 6}))
        self.client.answer({"state": "succeeded", "seq": 9})
        self.client.answer({"state": "succeeded"})
        self.client.answer([event(9)])
        self.client.answer([])
        self.assertEqual(self.successResultOf(end), {"state": "succeeded"})
        self.assertEqual(self.shown, [6, 9])

    def test_a_server_that_stays_away_is_an_error(self):
        end = self.follow()
        self.client.answer({"state": "running", "seq": 0})
        self.client.answer(GONE)
        while self.clock.seconds() <= PATIENCE:
            self.assertNoResult(end)
            self.clock.advance(RETRY_SECONDS)
            self.client.answer(GONE)
        self.failureResultOf(end, Unreachable)

    def test_the_end_of_this_process_is_not_taken_for_the_servers(self):
        end = self.follow()
        self.client.answer({"state": "running", "seq": 0})
        for call in self.clock.at_end:
            call()
        self.client.answer(GONE)
        self.failureResultOf(end, Unreachable)
        self.assertEqual(self.losses, [])

    def test_a_server_that_was_never_reached_or_refuses_is_not_waited_for(self):
        for error in GONE, InvalidParams("there is no such task"):
            end = self.follow()
            self.client.answer(error)
            self.failureResultOf(end, type(error))


class WaitTests(SynchronousTestCase):
    def setUp(self):
        self.clock = FakeReactor()
        self.client = FakeClient()
        self.losses = []

    def wait(self, timeout=None):
        waiting = wait_for_end(self.clock, self.client, TASK, timeout, self.losses.append)
        return Deferred.fromCoroutine(waiting)

    def test_a_server_that_is_restarted_is_asked_again_for_the_rest_of_the_time(self):
        end = self.wait(timeout=9.0)
        self.assertEqual(self.client.asked[-1], ("wait", {"task": "t", "timeout": 9.0}))
        for _ in range(2):
            self.client.answer(GONE)
            self.clock.advance(RETRY_SECONDS)
        self.client.answer({"state": "running"})
        self.assertEqual(self.client.asked[-1], ("wait", {"task": "t", "timeout": 9.0 - 2 * RETRY_SECONDS}))
        self.assertEqual(self.losses, [GONE.message])
        self.clock.advance(PATIENCE)
        self.client.answer(GONE)
        self.assertNoResult(end)
        self.clock.advance(RETRY_SECONDS)
        self.client.answer({"state": "succeeded"})
        self.client.answer({"state": "succeeded"})
        self.assertEqual(self.successResultOf(end), {"state": "succeeded"})

    def test_a_server_that_refuses_or_stays_away_is_an_error(self):
        end = self.wait()
        self.client.answer(InvalidParams("there is no such task"))
        self.failureResultOf(end, InvalidParams)
        end = self.wait()
        self.client.answer(GONE)
        self.clock.advance(RETRY_SECONDS)
        while self.clock.seconds() <= PATIENCE + RETRY_SECONDS:
            self.assertNoResult(end)
            self.client.answer(GONE)
            self.clock.advance(RETRY_SECONDS)
        self.failureResultOf(end, Unreachable)


class EventsTests(SynchronousTestCase):
    def test_a_long_log_is_fetched_in_pages(self):
        client = FakeClient()
        events = Deferred.fromCoroutine(fetch_events(client, TASK))
        client.answer([event(seq) for seq in range(1, PAGE + 1)])
        self.assertEqual(client.asked[-1][1]["after"], PAGE)
        client.answer([event(PAGE + 7)])
        self.assertEqual(client.asked[-1][1]["after"], PAGE + 7)
        client.answer([])
        self.assertEqual([each["seq"] for each in self.successResultOf(events)][-1], PAGE + 7)
