"""The tree of exceptions and the table of errors in docs/protocol.md."""

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd import errors
from taskd.errors import (
    Busy,
    InternalError,
    StartError,
    StateError,
    TaskdError,
    TaskFailed,
    TooLarge,
    Unreachable,
    WaitTimeout,
    exception_for,
)
from taskd.model import Failure

PROTOCOL = {
    -32700: ("ParseError", "parse error"),
    -32600: ("InvalidRequest", "invalid request"),
    -32601: ("MethodNotFound", "method not found"),
    -32602: ("InvalidParams", "invalid params"),
    -32603: ("InternalError", "internal error"),
    -32000: ("TaskFailed", "task failed"),
    -32001: ("TimedOut", "timed out"),
    -32002: ("Cancelled", "cancelled"),
    -32003: ("WorkerLost", "worker lost"),
    -32004: ("Busy", "busy"),
    -32005: ("ShuttingDown", "shutting down"),
    -32006: ("TooLarge", "too large"),
    -32008: ("NotAllowed", "not allowed"),
}
"""The table of errors."""

json_data = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), min_size=1)


class ErrorTests(SynchronousTestCase):
    def test_every_error_of_the_protocol_has_its_class_with_its_code_and_name(self):
        for code, (class_name, name) in PROTOCOL.items():
            kind = getattr(errors, class_name)
            self.assertEqual((kind.code, kind.name), (code, name))
            self.assertTrue(issubclass(kind, TaskdError), kind)

    def test_every_code_on_the_wire_comes_back_as_its_class(self):
        for code, (class_name, _) in PROTOCOL.items():
            error = exception_for(code, "it went wrong", {"why": 3})
            self.assertIs(type(error), getattr(errors, class_name))
            self.assertEqual((error.code, error.message, error.data), (code, "it went wrong", {"why": 3}))
            self.assertEqual(str(error), "it went wrong")

    def test_an_unreachable_server_has_an_exception_of_its_own(self):
        self.assertIs(type(exception_for(Unreachable.code, "gone", None)), Unreachable)

    @given(st.integers(), st.text(), json_data)
    def test_an_unknown_error_code_is_kept(self, code, message, data):
        assume(code not in PROTOCOL and code != Unreachable.code)
        error = exception_for(code, message, data)
        self.assertIs(type(error), TaskdError)
        self.assertEqual((error.code, error.data), (code, data))
        self.assertEqual(TaskdError.code, -32603)

    @given(st.sampled_from(sorted(PROTOCOL)), st.text(min_size=1), json_data | st.none())
    def test_an_error_survives_the_round_trip_over_the_wire(self, code, message, data):
        failure = Failure(code, message, data)
        error = failure.exception()
        self.assertEqual(Failure.of(error), failure)

    def test_data_that_is_not_an_object_is_kept_as_data(self):
        self.assertEqual(exception_for(-32000, "m", [1]).data, {"data": [1]})
        self.assertEqual(exception_for(-32000, "m", 0).data, {"data": 0})
        self.assertEqual(exception_for(-32000, "m", None).data, {})

    def test_data_may_have_members_of_any_name(self):
        data = {"message": "x", "self": 1, "code": 2, "name": 3, "data": 4}
        error = exception_for(-32000, "m", data)
        self.assertEqual((error.message, error.data, error.code), ("m", data, -32000))

    def test_without_a_message_an_error_has_its_name(self):
        self.assertEqual(str(Busy(retry_after=2.0)), "busy")
        self.assertEqual(Busy(retry_after=2.0).data, {"retry_after": 2.0})
        self.assertEqual(exception_for(-32000, "", None).message, "task failed")

    def test_an_error_without_data_has_none_on_the_wire(self):
        self.assertEqual(Failure.of(TaskFailed("m")), Failure(-32000, "m", None))
        self.assertEqual(Failure.of(TooLarge("m", limit=3)), Failure(-32006, "m", {"limit": 3}))

    def test_a_call_timeout_is_also_a_timeout_error(self):
        error = WaitTimeout("no answer", seconds=3)
        self.assertIsInstance(error, TimeoutError)
        self.assertIsInstance(error, TaskdError)
        self.assertEqual((str(error), error.data), ("no answer", {"seconds": 3}))
        self.assertEqual(str(WaitTimeout()), "no answer in time")

    def test_a_start_error_ends_the_process_with_status_1_and_its_text(self):
        error = StartError("the port is taken")
        self.assertIsInstance(error, SystemExit)
        self.assertIsInstance(error, Exception)
        # The interpreter prints a code that is not a number, and exits with 1.
        self.assertEqual(error.code, "the port is taken")

    def test_internal_errors_are_not_errors_of_the_protocol(self):
        self.assertFalse(issubclass(StateError, TaskdError))
        self.assertIs(type(exception_for(-32603, "m", None)), InternalError)

    def test_every_exported_name_exists(self):
        for name in errors.__all__:
            self.assertTrue(hasattr(errors, name), name)
