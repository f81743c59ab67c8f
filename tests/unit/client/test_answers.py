"""The answers to a client: results, errors, states, events."""

import json

from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.client.answers import (
    Event,
    Following,
    batch_counts,
    has_ended,
    lost,
    not_in_time,
    result_of,
    task_result,
)
from taskd.errors import (
    Cancelled,
    InvalidParams,
    ParseError,
    TaskFailed,
    TimedOut,
    Unreachable,
    WaitTimeout,
    WorkerLost,
)
from taskd.model import Failure, Result


def answer(**members):
    return Result(Raw(json.dumps(members).encode()))


def event(seq, name, kind="task", id="7", **data):  # noqa: A002
    return Raw(json.dumps({kind: id, "seq": seq, "event": name, "at": 1.5, **data}).encode())


class ResultTests(SynchronousTestCase):
    def test_a_result_is_decoded_and_a_failure_raised(self):
        self.assertEqual(result_of(Result(Raw(b'{"a":[1]}'))), {"a": [1]})
        error = self.assertRaises(TaskFailed, result_of, Failure(-32000, "no", {"type": "E"}))
        self.assertEqual((error.message, error.data), ("no", {"type": "E"}))

    def test_errors_of_the_client_itself_say_what_may_have_happened(self):
        error = lost("host:1", "it broke", sent=True)
        self.assertIsInstance(error, Unreachable)
        self.assertEqual(
            str(error), "the task server host:1 was lost before it answered; the task may have run: it broke"
        )
        self.assertEqual(error.data, {"server": "host:1", "sent": True})
        self.assertEqual(
            str(lost("host:1", "it broke", sent=False)),
            "the task server host:1 cannot be reached: it broke",
        )
        error = not_in_time("f", 0.5, "it goes on")
        self.assertIsInstance(error, WaitTimeout)
        self.assertEqual(str(error), "f has not answered within 0.5 s; it goes on")

    def test_a_stored_task_gives_its_result_or_raises_its_error(self):
        self.assertEqual(task_result({"task": "7", "state": "succeeded", "result": 5}), 5)
        self.assertEqual(task_result({"task": "7", "state": "succeeded"}), None)
        failed = {"code": -32003, "message": "killed", "data": {"signal": "SIGKILL"}}
        error = self.assertRaises(WorkerLost, task_result, {"task": "7", "state": "failed", "error": failed})
        self.assertEqual(error.data, {"signal": "SIGKILL"})

    def test_a_stored_task_without_an_error_of_its_own_raises_that_of_its_state(self):
        for state, kind, words in (
            ("cancelled", Cancelled, "the task 7 was cancelled"),
            ("expired", TimedOut, "the task 7 was not started within its deadline"),
            ("set_aside", WorkerLost, "the task 7 was set aside"),
            ("failed", TaskFailed, "the task 7 has failed"),
        ):
            self.assertIn(words, str(self.assertRaises(kind, task_result, {"task": "7", "state": state})))

    def test_the_states_that_are_ends_differ_between_tasks_and_batches(self):
        self.assertTrue(has_ended("task", "set_aside"))
        self.assertFalse(has_ended("task", "scheduled"))
        self.assertTrue(has_ended("batch", "failed"))
        self.assertFalse(has_ended("batch", "running"))

    def test_a_batch_is_shown_by_its_counts(self):
        counts = {"done": 1, "failed": 2, "cancelled": 3, "total": 6, "state": "failed"}
        self.assertEqual(batch_counts({"batch": "7", "created": 1.0, **counts}), counts)


class FollowingTests(SynchronousTestCase):
    def test_events_are_decoded_and_end_with_the_last(self):
        following = Following("task", "7")
        self.assertEqual(json.loads(bytes(following.attach().args)), {"task": "7", "after": 0})
        following.attached(answer(state="running", seq=1))
        self.assertEqual(following.take(event(1, "queued")), Event(1, "queued", 1.5, {}))
        self.assertFalse(following.is_over)
        self.assertEqual(following.take(event(2, "succeeded", result=3)).data, {"result": 3})
        self.assertTrue(following.is_over)

    def test_known_events_and_those_of_other_tasks_are_left_out(self):
        following = Following("task", "7", after=4)
        following.attached(answer(state="running", seq=9))
        for known in (event(4, "started"), event(9, "succeeded", id="8"), event(9, "ended", kind="batch")):
            self.assertIs(following.take(known), None)
        self.assertEqual(following.take(event(5, "progress", done=1)).seq, 5)
        self.assertEqual(json.loads(bytes(following.attach().args)), {"task": "7", "after": 5})

    def test_an_end_that_is_followed_by_more_in_the_log_is_not_the_last(self):
        following = Following("task", "7")
        following.attached(answer(state="running", seq=3))
        following.take(event(2, "failed"))
        self.assertFalse(following.is_over)
        following.take(event(3, "queued"))
        following.take(event(4, "failed"))
        self.assertTrue(following.is_over)

    def test_a_task_that_has_ended_has_no_events_after_its_last(self):
        for after, over in ((0, False), (3, True), (-1, True)):
            following = Following("task", "7", after)
            following.attached(answer(state="failed", seq=3))
            self.assertIs(following.is_over, over, after)

    def test_only_new_events_of_a_running_task_follow_if_all_others_are_unwanted(self):
        following = Following("task", "7", after=-1)
        following.attached(answer(state="running", seq=3))
        self.assertFalse(following.is_over)
        self.assertEqual(json.loads(bytes(following.attach().args)), {"task": "7", "after": 3})

    def test_a_task_that_is_forgotten_ends_whatever_its_number_is(self):
        following = Following("batch", "7", after=9)
        following.attached(answer(state="running", seq=9))
        self.assertEqual(following.take(event(0, "detached", kind="batch")).event, "detached")
        self.assertTrue(following.is_over)
        self.assertEqual(following.after, 9)

    def test_a_batch_ends_with_its_own_event(self):
        following = Following("batch", "7")
        following.attached(answer(state="running", seq=0))
        following.take(event(1, "progress", kind="batch", done=1))
        self.assertFalse(following.is_over)
        following.take(event(2, "ended", kind="batch", done=1))
        self.assertTrue(following.is_over)

    def test_a_refused_attachment_and_what_is_no_event_raise(self):
        following = Following("task", "7")
        self.assertRaises(InvalidParams, following.attached, Failure(-32602, "no such task"))
        self.assertRaises(ParseError, following.take, Raw(b'{"task":"7"}'))
