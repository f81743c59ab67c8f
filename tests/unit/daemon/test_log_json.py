"""Events of the log as JSON objects."""

import json

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.log_json import as_json


class JsonTests(SynchronousTestCase):
    def logged(self, level="info", log_format=None, **values):
        """Return the object for an event, whose text must be one line."""
        events = []
        Logger(namespace="test", observer=events.append).emit(
            LogLevel.lookupByName(level), log_format, **values
        )
        return self.parsed({**events[0], "log_time": 0.25})

    def parsed(self, event):
        text = as_json(event)
        self.assertEqual((text.count("\n"), text[-1]), (1, "\n"))
        return json.loads(text)

    def test_an_event_is_one_line_with_its_time_level_namespace_and_message(self):
        self.assertEqual(
            self.logged("warn", "{count} things\nin two lines", count=3),
            {
                "time": "1970-01-01T00:00:00.250000Z",
                "level": "warn",
                "namespace": "test",
                "message": "3 things\nin two lines",
            },
        )

    def test_task_function_worker_and_trace_are_members_if_they_are_known(self):
        found = self.logged(
            log_format="{function} #{task} lost", function="f", task=7, id=None, worker=2, trace_id="4bf9"
        )
        self.assertEqual(found["message"], "f #7 lost")
        self.assertEqual(
            {name: found[name] for name in ("function", "task", "worker", "trace_id")},
            {"function": "f", "task": 7, "worker": 2, "trace_id": "4bf9"},
        )
        self.assertNotIn("id", found)

    def test_the_message_of_a_line_that_a_worker_printed_is_that_line(self):
        found = self.logged(
            log_format="{name}[{pid}] {label}: {line}", name="x", pid=5, label="f #7", line="hello", task=7
        )
        self.assertEqual((found["message"], found["pid"], found["task"]), ("hello", 5, 7))

    def test_a_traceback_is_a_member_wherever_it_comes_from(self):
        traceback = 'Traceback (most recent call last):\n  File "x"\nValueError: no'
        of_task = self.logged(log_format="f failed after 1 s\n{traceback}", traceback=traceback)
        of_log_record = self.logged(log_format="{line}", line=f"it broke\n{traceback}")
        alone = self.logged(log_format="{line}", line=traceback)
        self.assertEqual(
            [(each["message"], each["traceback"]) for each in (of_task, of_log_record, alone)],
            [("f failed after 1 s", traceback), ("it broke", traceback), ("", traceback)],
        )

    def test_a_traceback_that_is_only_quoted_stays_in_the_message(self):
        found = self.logged(log_format="{line}", line="it says Traceback (most recent call last): so")
        self.assertNotIn("traceback", found)

    def test_a_failure_is_a_traceback_beside_the_message(self):
        try:
            raise ValueError("no")
        except ValueError:
            found = self.logged("critical", "a bug in taskd", log_failure=Failure())
        self.assertEqual((found["message"], found["level"]), ("a bug in taskd", "critical"))
        self.assertTrue(found["traceback"].endswith("ValueError: no"))

    def test_events_of_the_older_log_have_no_level_and_no_namespace(self):
        event = {"log_time": 0.0, "log_text": "old", "log_format": "{log_text}"}
        found = self.parsed(event)
        self.assertEqual((found["level"], found["namespace"], found["message"]), ("info", "-", "old"))

    def test_control_characters_are_escaped_as_in_the_text_log_and_letters_are_not(self):
        found = as_json({"log_format": "{x}", "x": "caf\u00e9 \x1b]0; \u202e \ud800", "log_time": 0.0})
        self.assertIn("caf\u00e9", found)
        self.assertEqual(json.loads(found)["message"], "caf\u00e9 \\x1b]0; \\u202e \\ud800")

    def test_an_event_without_text_is_left_out(self):
        self.assertIsNone(as_json({"log_time": 0.0}))
