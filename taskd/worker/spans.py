"""The span of a traced task, if OpenTelemetry is installed: the trace goes on in the function."""

from __future__ import annotations

from contextlib import suppress
from contextvars import Token
from typing import TYPE_CHECKING, Any

import msgspec

from taskd.worker.messages import DescribedAttempt, Done, Failed, Stopped

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

__all__ = ["Spans"]


class _Described(msgspec.Struct):
    """The data of a failure, as far as a span has it."""

    type: str = ""


class Spans:
    """Makes a span of each attempt whose caller has named a trace; without OpenTelemetry it does nothing.

    The package is imported for the first such attempt. Which spans are kept, and where they
    go, is what the app has set up (`opentelemetry.trace.set_tracer_provider`).
    """

    def __init__(self) -> None:
        self._span: Span | None = None
        self._before: Token[Context] | None = None

    def begin(self, attempt: DescribedAttempt) -> None:
        """Begin the span of an attempt, in whose context its function is called; `end` must follow."""
        if attempt.traceparent is None:
            return
        try:
            from opentelemetry import context, trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            return
        caller = TraceContextTextMapPropagator().extract({"traceparent": attempt.traceparent})
        attributes: dict[str, Any] = {"taskd.task": attempt.task, "taskd.attempt": attempt.attempt}
        if attempt.id is not None:
            attributes["taskd.id"] = attempt.id
        tracer = trace.get_tracer("taskd")
        self._span = tracer.start_span(
            attempt.function, caller, kind=trace.SpanKind.CONSUMER, attributes=attributes
        )
        self._before = context.attach(trace.set_span_in_context(self._span, caller))

    def end(self, outcome: Done | Failed | Stopped) -> None:
        """End the span, with the outcome as its status; nothing happens if there is none."""
        span, self._span = self._span, None
        if span is None or self._before is None:
            return
        from opentelemetry import context
        from opentelemetry.trace import StatusCode

        context.detach(self._before)
        if isinstance(outcome, Failed):
            span.set_status(StatusCode.ERROR, outcome.message)
            span.add_event("exception", _exception(outcome))
        elif isinstance(outcome, Stopped):
            span.set_status(StatusCode.ERROR, "the task was stopped")
        span.end()


def _exception(failure: Failed) -> dict[str, str]:
    """Return the attributes of an exception, as OpenTelemetry names them."""
    attributes = {"exception.message": failure.message}
    with suppress(msgspec.DecodeError):  # a failure without data
        attributes["exception.type"] = msgspec.json.decode(failure.data, type=_Described).type
    if failure.traceback is not None:
        attributes["exception.stacktrace"] = failure.traceback
    return attributes
