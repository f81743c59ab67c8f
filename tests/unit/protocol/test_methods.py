"""What is said and answered when a request is to be cancelled."""

import json

from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import Cancelled, InvalidParams, TaskFailed
from taskd.model import Call, Dialect, Failure, Result
from taskd.protocol.methods import WAS_DONE, cancel_line, how_cancelled, id_to_cancel, names_task
from taskd.protocol.requests import parse


class CancelTests(SynchronousTestCase):
    def test_the_line_names_the_id_exactly_as_it_was_written(self):
        for request_id in (b"7", b"-1.50", b'"\\u0061"', '"ไทย"'.encode()):
            call = parse(cancel_line(request_id))
            assert isinstance(call, Call)
            self.assertEqual((call.dialect, call.function), (Dialect.JSON_RPC, "taskd.cancel"))
            self.assertTrue(call.is_notification)
            self.assertEqual(id_to_cancel(call.args), request_id)

    def test_a_task_is_named_by_task_alone(self):
        self.assertTrue(names_task(Raw(b'{"task": 5}')))
        self.assertTrue(names_task(Raw(b'{"task": "wrong, which is for the task server to say"}')))
        for args in (None, Raw(b"{}"), Raw(b'{"id": 5}'), Raw(b'{"id": 5, "task": 5}'), Raw(b"[5]")):
            self.assertFalse(names_task(args), args)

    def test_what_names_no_request_is_refused(self):
        for args in (
            None,
            Raw(b"{}"),
            Raw(b"[]"),
            Raw(b"[7]"),
            Raw(b'{"id": 7, "task": 5}'),
            Raw(b'{"id": 7, "more": 5}'),
            Raw(b'{"id": null}'),
            Raw(b'{"id": true}'),
            Raw(b'{"id": [7]}'),
            Raw(b'{"id": {}}'),
        ):
            with self.assertRaises(InvalidParams, msg=args):
                id_to_cancel(args)

    def test_how_it_was_cancelled_is_told_as_the_server_told_it(self):
        for how in ({"was": "waiting"}, {"was": "running", "stopped_after": 0.3, "killed": False}):
            answer = how_cancelled(Failure.of(Cancelled("cancelled", **how)))
            self.assertEqual(json.loads(bytes(answer.value)), how)

    def test_what_ended_otherwise_was_done(self):
        for outcome in (
            Result(Raw(b'{"was":"waiting"}')),
            Failure.of(TaskFailed("no", was="running")),
            Failure(-32002, "cancelled"),
            Failure(-32002, "cancelled", "a text"),
            Failure(-32002, "cancelled", {"reason": "none of ours"}),
        ):
            self.assertEqual(how_cancelled(outcome), WAS_DONE)
