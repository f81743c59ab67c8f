"""The spans of traced tasks, as OpenTelemetry's own SDK records them."""

import sys
from unittest.mock import patch

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from taskd.functions.current import current_task
from taskd.functions.registry import Registry
from taskd.worker.messages import IS_DESCRIBED, NULL, DescribedAttempt, Stopped
from taskd.worker.spans import Spans
from tests.unit.worker.test_loop import WorkerCase

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{CALLER}-01"

exporter = InMemorySpanExporter()


def described(task=7, **more):
    return DescribedAttempt(task, 1, "f", NULL, IS_DESCRIBED, **{"traceparent": PARENT, **more})


class SpanTests(WorkerCase):
    def setUp(self):
        super().setUp()
        if not isinstance(trace.get_tracer_provider(), TracerProvider):  # it can be set once in a process
            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            trace.set_tracer_provider(provider)
        exporter.clear()
        self.seen = []

    def run_each(self, function, *attempts):
        self.registry = Registry()
        self.add(function)
        self.run_worker(*attempts)
        return exporter.get_finished_spans()

    def test_a_traced_attempt_is_a_span_of_the_callers_trace_named_after_the_function(self):
        def f():
            self.seen.append(trace.get_current_span().get_span_context().span_id)

        [span] = self.run_each(f, described(id="the-id", attempt=2))
        self.assertEqual(span.name, "f")
        self.assertEqual(f"{span.context.trace_id:032x}", TRACE)
        self.assertEqual(f"{span.parent.span_id:016x}", CALLER)
        self.assertEqual(dict(span.attributes), {"taskd.task": 7, "taskd.id": "the-id", "taskd.attempt": 2})
        self.assertEqual(self.seen, [span.context.span_id])
        self.assertEqual(span.status.status_code, StatusCode.UNSET)
        self.assertFalse(trace.get_current_span().get_span_context().is_valid)

    def test_the_function_can_ask_for_its_place_in_the_trace(self):
        self.run_each(lambda: self.seen.append(current_task().traceparent), described())
        self.assertEqual(self.seen, [PARENT])

    def test_a_function_that_raises_has_its_exception_in_the_span(self):
        def f():
            raise ValueError("not today")

        [span] = self.run_each(f, described())
        self.assertEqual(span.status.status_code, StatusCode.ERROR)
        self.assertEqual(span.status.description, "ValueError: not today")
        [event] = span.events
        self.assertEqual((event.name, event.attributes["exception.type"]), ("exception", "ValueError"))
        self.assertIn("not today", event.attributes["exception.stacktrace"])

    def test_a_task_without_a_trace_has_no_span(self):
        self.assertEqual(self.run_each(lambda: None, described(traceparent=None)), ())

    def test_a_task_that_was_stopped_is_an_error(self):
        spans = Spans()
        spans.begin(described())
        spans.end(Stopped(7, 0.1, False, None))
        spans.end(Stopped(7, 0.1, False, None))  # there is none any more
        [span] = exporter.get_finished_spans()
        self.assertEqual(span.status.description, "the task was stopped")

    def test_without_opentelemetry_the_function_runs_without_a_span(self):
        hidden = {name: None for name in sys.modules if name.partition(".")[0] == "opentelemetry"}
        with patch.dict(sys.modules, hidden):
            self.assertEqual(self.run_each(lambda: self.seen.append(1), described()), ())
        self.assertEqual(self.seen, [1])
