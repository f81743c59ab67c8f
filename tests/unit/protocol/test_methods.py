"""The server's own methods: their parameters; requests to cancel and their answers."""

import json

from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.errors import Cancelled, InvalidParams, NotAllowed, TaskFailed
from taskd.model import Call, Failure, Result
from taskd.protocol.dialects import Dialect
from taskd.protocol.method_names import CANCEL
from taskd.protocol.methods import (
    WAS_DONE,
    cancel_target,
    how_cancelled,
    method_parameters,
)
from taskd.protocol.request_lines import cancel_line
from taskd.protocol.requests import Request, parse


def target(args, *, by_number=True):
    """Return what a call of `taskd.cancel` with these arguments, as JSON text, names."""
    return cancel_target(Call(CANCEL, None if args is None else Raw(args)), by_number=by_number)


class ParametersTests(SynchronousTestCase):
    def test_the_parameters_of_a_method_are_described_like_those_of_a_function(self):
        described = method_parameters(CANCEL)
        self.assertEqual(list(described), ["id", "task"])
        self.assertEqual([kind.type for kind in described["task"].kinds], ["integer", "string", "null"])
        self.assertEqual(method_parameters("taskd.ping"), {})

    def test_a_method_that_does_not_exist_has_no_parameters(self):
        self.assertEqual(method_parameters("taskd.no_such_method"), {})


class CancelTests(SynchronousTestCase):
    def test_a_line_to_cancel_repeats_the_id_byte_for_byte(self):
        for request_id in (b"7", b"-1.50", b'"\\u0061"', '"ไทย"'.encode()):
            request = parse(cancel_line(request_id))
            assert isinstance(request, Request)
            self.assertEqual((request.dialect, request.function), (Dialect.JSON_RPC, "taskd.cancel"))
            self.assertTrue(request.is_notification)
            self.assertEqual(cancel_target(request, by_number=False).request_id, request_id)

    def test_a_request_is_named_by_its_id_or_a_task_by_its_number(self):
        for args in (b'{"id": 7}', b"[7]", b'{"id": 7, "task": null}', b"[7, null]"):
            self.assertEqual((target(args).request_id, target(args).task), (b"7", None), args)
        for args in (b'{"task": 7}', b"[null, 7]", b'{"id": null, "task": 7}'):
            self.assertEqual((target(args).request_id, target(args).task), (None, 7), args)

    def test_a_caller_that_may_not_name_tasks_by_number_names_requests_only(self):
        for args in (b'{"task": 7}', b"[null, 7]", b'{"id": null, "task": 0}'):
            self.assertRaises(NotAllowed, target, args, by_number=False)
        self.assertEqual(target(b"[7]", by_number=False).request_id, b"7")
        self.assertRaises(InvalidParams, target, b'{"id": 7, "task": 7}', by_number=False)

    def test_arguments_that_name_nothing_or_too_much_are_refused(self):
        for args in (
            None,
            b"{}",
            b"[]",
            b'{"id": 7, "task": 5}',
            b'{"id": 7, "more": 5}',
            b'{"id": null}',
            b'{"id": true}',
            b'{"id": [7]}',
            b'{"id": {}}',
            b'{"task": 5.5}',
        ):
            with self.assertRaises(InvalidParams, msg=args) as caught:
                target(args)
            self.assertTrue(caught.exception.message.startswith("taskd.cancel: "), args)

    def test_the_answer_of_the_server_to_a_cancel_is_passed_on(self):
        for how in ({"was": "waiting"}, {"was": "running", "stopped_after": 0.3, "killed": False}):
            answer = how_cancelled(Failure.of(Cancelled("cancelled", **how)))
            self.assertEqual(json.loads(bytes(answer.value)), how)

    def test_a_task_that_was_not_cancelled_is_reported_as_done(self):
        for outcome in (
            Result(Raw(b'{"was":"waiting"}')),
            Failure.of(TaskFailed("no", was="running")),
            Failure(-32002, "cancelled"),
            Failure(-32002, "cancelled", "a text"),
            Failure(-32002, "cancelled", {"reason": "unknown"}),
        ):
            self.assertEqual(how_cancelled(outcome), WAS_DONE)
